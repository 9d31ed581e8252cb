"""What the emulated models say: deterministic completions, made up or scripted."""

from __future__ import annotations

import hashlib
import json
import random
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from groq_provider.testing import _errors
from groq_provider.testing._prompt import json_wish
from groq_provider.testing._schema import example
from groq_provider.testing._stock import sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from groq_provider.testing._models import Model
    from groq_provider.testing.replies import Reply

_TOKEN = re.compile(r"\s?\w{1,7}|\s?[^\w\s]{1,4}|\s")  # tiles any text
_THOUGHTS = "We need to answer the user. Keep it short and plain, check it once, and then reply with the final text."
_EFFORT = {"low": 4, "high": 20}  # reasoning tokens; otherwise 8
_ECHO = 400  # longest user text, in characters, that an answer repeats


@dataclass(kw_only=True)
class Completion:
    """What one request gets, before it is put on the wire."""

    content: list[str | bytes | Mapping[str, Any]] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    hidden_tokens: int = 0  # reasoning that is billed and takes time, but is not shown
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = "stop"
    completion_tokens: int = 0
    reasoning_tokens: int | None = None
    usage: Mapping[str, Any] | bool | None = None  # scripted

    @property
    def text(self) -> str:
        """The content of a plain answer."""
        found = []
        for piece in self.content:
            if isinstance(piece, str):
                found.append(piece)
            elif isinstance(piece, Mapping):
                found.append(piece.get("content") or "")
        return "".join(found)


def tokens_of(text: str) -> list[str]:
    """*text* cut into what the emulator takes for tokens; joined they are the text again.

    >>> tokens_of("Hello, extraordinary world")
    ['Hello', ',', ' extraor', 'dinary', ' world']
    """
    return _TOKEN.findall(text)


def text_of(content: Any) -> str:
    """The text of a message's content, parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
    return ""


def count_prompt(body: Mapping[str, Any]) -> int:
    """Prompt tokens of a request: four characters each, some per message, 1000 per image or document."""
    characters = 0
    extra = 0
    for message in body["messages"]:
        content = message.get("content")
        characters += len(text_of(content))
        extra += 4
        if isinstance(content, list):
            extra += 1000 * sum(part["type"] != "text" for part in content)
        if message.get("tool_calls"):
            characters += len(json.dumps(message["tool_calls"]))
    for name in ("tools", "response_format"):
        if body.get(name):
            characters += len(json.dumps(body[name]))
    return extra + -(-characters // 4)


def budget_of(body: Mapping[str, Any]) -> int | None:
    """The completion tokens the request allows; `None` if it does not say."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


def digest_of(body: Mapping[str, Any]) -> bytes:
    """A hash of everything in the request that may change the answer (streaming does not)."""
    said = {name: value for name, value in body.items() if name not in {"stream", "stream_options", "user"}}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


def wire_calls(calls: Sequence[Mapping[str, Any]], model: Model, digest: bytes) -> list[dict[str, Any]]:
    """Tool calls in wire form, with ids in the style of the model."""
    found = []
    for index, call in enumerate(calls):
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if model.reasoning == "gpt-oss":
            made = (
                f"fc_{uuid.UUID(bytes=hashlib.md5(digest + bytes([index]), usedforsecurity=False).digest(), version=4)}"
            )
        else:
            made = f"call_{(digest[index % 16 :].hex())[:4]}"
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        found.append(
            {"id": call.get("id", made), "type": "function", "function": {"name": function["name"], "arguments": text}}
        )
    return found


def scripted(reply: Reply, model: Model, digest: bytes) -> Completion:
    """The completion that *reply* asks for."""
    calls = wire_calls(reply.tool_calls or (), model, digest)
    thoughts = tokens_of(reply.reasoning or "")
    pieces: list[str | bytes | Mapping[str, Any]] = [*tokens_of(reply.content or "")]
    if reply.chunks is not None:
        pieces = list(reply.chunks)
    count = len(pieces) + len(thoughts) + sum(len(tokens_of(call["function"]["arguments"])) + 4 for call in calls)
    return Completion(
        content=pieces,
        reasoning=thoughts,
        tool_calls=calls,
        finish_reason=reply.finish_reason or ("tool_calls" if calls else "stop"),
        completion_tokens=count,
        reasoning_tokens=len(thoughts) if model.reasoning else None,
        usage=reply.usage,
    )


def made_up(body: Mapping[str, Any], model: Model, digest: bytes) -> Completion:
    """The default answer, the same for the same request: plain sentences, or JSON where the request or its prompt asks for it.

    Raises:
        RefusedError: JSON was asked for and the budget ends inside it.
    """
    if model.kind == "guard":
        return Completion(content=["0.", f"{digest[0] / 2560:.4f}"[2:]], completion_tokens=2)
    form = (body.get("response_format") or {}).get("type", "text")
    budget = budget_of(body)
    thoughts, shown = _thoughts(body, model, form)
    echo = _last_user_text(body["messages"])
    calls: list[dict[str, Any]] = []
    tool = _wanted_tool(body, echo)
    if tool is not None:
        calls = wire_calls([_call(tool, echo)], model, digest)
        pieces: list[str] = []
        spent = len(tokens_of(calls[0]["function"]["arguments"])) + 4
    else:
        pieces = tokens_of(_text(body, form, echo, digest))
        spent = len(pieces)
    finish = "tool_calls" if calls else "stop"
    if budget is not None and len(thoughts) + spent > budget:
        thoughts = thoughts[:budget]
        pieces = pieces[: budget - len(thoughts)]
        if form != "text" and not calls:
            raise _errors.json_failed("".join(pieces))
        calls, finish, spent = [], "length", budget - len(thoughts)
    visible: list[str | bytes | Mapping[str, Any]] = [*pieces]
    if shown == "raw" and thoughts:
        visible = ["<think>\n", *thoughts, "\n</think>\n\n", *pieces]
    return Completion(
        content=visible,
        reasoning=thoughts if shown == "parsed" else [],
        hidden_tokens=len(thoughts) if shown == "hidden" else 0,
        tool_calls=calls,
        finish_reason=finish,
        completion_tokens=len(thoughts) + spent,
        reasoning_tokens=len(thoughts) if model.reasoning else None,
    )


def _thoughts(body: Mapping[str, Any], model: Model, form: str) -> tuple[list[str], str]:
    """The reasoning's tokens, and how they are shown: `parsed`, `raw` or `hidden`."""
    effort = body.get("reasoning_effort")
    if model.reasoning is None or effort == "none":
        return [], "hidden"
    if body.get("include_reasoning") is False:
        shown = "hidden"
    else:
        plain = model.reasoning == "qwen" and form == "text" and not body.get("tools")
        shown = body.get("reasoning_format") or ("raw" if plain else "parsed")
    return tokens_of(_THOUGHTS)[: _EFFORT.get(effort or "", 8)], shown


def _last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message["role"] == "user":
            return text_of(message.get("content"))
    return ""


def _text(body: Mapping[str, Any], form: str, echo: str, digest: bytes) -> str:
    if form == "json_schema":
        schema: Any = body["response_format"]["json_schema"].get("schema", True)
        return json.dumps(example(schema, text=echo[:_ECHO]), ensure_ascii=False)
    wish = json_wish([text_of(message.get("content")) for message in body["messages"]])
    if form == "json_object" or wish is not None:
        value = {"echo": echo[:_ECHO], "ok": True}
        if wish is not None and wish.schema is not None:
            value = example(wish.schema, text=_short(echo))
        text = json.dumps(value, ensure_ascii=False)
        return f"```json\n{text}\n```" if form == "text" and wish is not None and wish.fenced else text
    text = sentences(echo, random.Random(digest))
    stops = body.get("stop") or ()
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            text = text.partition(stop)[0]
    return text


def _short(echo: str) -> str:
    """What free strings hold where the prompt itself holds a schema: not that schema once more."""
    return echo if len(echo) <= 80 and "{" not in echo else "text"


def _wanted_tool(body: Mapping[str, Any], prompt: str) -> Mapping[str, Any] | None:
    """The function to call: the one demanded, or one whose name is in the prompt."""
    functions: list[Mapping[str, Any]] = [
        tool["function"] for tool in body.get("tools") or () if tool["type"] == "function"
    ]
    choice = body.get("tool_choice") or "auto"
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        return next(function for function in functions if function["name"] == name)
    named = [f for f in functions if re.search(rf"(?<![\w-]){re.escape(f['name'])}(?![\w-])", prompt)]
    if choice == "required":
        return (named or functions)[0]
    # Once the results are there, the model answers in words.
    return named[0] if named and body["messages"][-1]["role"] == "user" else None


def _call(function: Mapping[str, Any], echo: str) -> dict[str, Any]:
    arguments = example(function.get("parameters") or {"type": "object"}, text=echo[:_ECHO])
    return {"name": function["name"], "arguments": arguments}
