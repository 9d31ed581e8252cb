"""Completions, scripted by a test or made up; the same request always gets the same one."""

from __future__ import annotations

import hashlib
import json
import random
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

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
_REASONING_TOKENS = {"low": 4, "high": 20}  # by ``reasoning_effort``; otherwise 8
_LONGEST_ECHO = 400  # longest user text, in characters, that an answer repeats


@attrs.define(kw_only=True)
class Completion:
    """The content of one response, before it is encoded."""

    content: list[str | bytes | Mapping[str, Any]] = attrs.field(factory=list)
    reasoning: list[str] = attrs.field(factory=list)
    hidden_tokens: int = 0  # reasoning that is billed and takes time, but is not shown
    tool_calls: list[dict[str, Any]] = attrs.field(factory=list)
    finish_reason: str | None = "stop"
    completion_tokens: int = 0
    reasoning_tokens: int | None = None
    usage: Mapping[str, Any] | bool | None = None  # scripted

    @property
    def text(self) -> str:
        """The content of a response that is not streamed."""
        texts = []
        for piece in self.content:
            if isinstance(piece, str):
                texts.append(piece)
            elif isinstance(piece, Mapping):
                texts.append(piece.get("content") or "")
        return "".join(texts)


def tokens_of(text: str) -> list[str]:
    """Cut *text* into the pieces that the emulator counts as tokens; joined, they are the text again.

    >>> tokens_of("Hello, extraordinary world")
    ['Hello', ',', ' extraor', 'dinary', ' world']
    """
    return _TOKEN.findall(text)


def text_of(content: Any) -> str:
    """Return the text of a message's content, its text parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
    return ""


def count_prompt(body: Mapping[str, Any]) -> int:
    """Return the prompt tokens of a request: one per four characters, four per message, 1000 per image or document."""
    characters = 0
    extra_tokens = 0
    for message in body["messages"]:
        content = message.get("content")
        characters += len(text_of(content))
        extra_tokens += 4
        if isinstance(content, list):
            extra_tokens += 1000 * sum(part["type"] != "text" for part in content)
        if message.get("tool_calls"):
            characters += len(json.dumps(message["tool_calls"]))
    for name in ("tools", "response_format"):
        if body.get(name):
            characters += len(json.dumps(body[name]))
    return extra_tokens + -(-characters // 4)


def budget_of(body: Mapping[str, Any]) -> int | None:
    """Return the completion tokens the request allows; ``None`` if it sets no maximum."""
    return body.get("max_completion_tokens") or body.get("max_tokens")


def digest_of(body: Mapping[str, Any]) -> bytes:
    """Return a hash of every field that may change the completion; streaming does not."""
    hashed_fields = {name: value for name, value in body.items() if name not in {"stream", "stream_options", "user"}}
    return hashlib.sha256(json.dumps(hashed_fields, sort_keys=True).encode()).digest()


def wire_calls(calls: Sequence[Mapping[str, Any]], model: Model, digest: bytes) -> list[dict[str, Any]]:
    """Return tool calls in wire form, with ids in the style of *model*."""
    encoded_calls = []
    for index, call in enumerate(calls):
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if model.reasoning == "gpt-oss":
            made_id = (
                f"fc_{uuid.UUID(bytes=hashlib.md5(digest + bytes([index]), usedforsecurity=False).digest(), version=4)}"
            )
        else:
            made_id = f"call_{(digest[index % 16 :].hex())[:4]}"
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function_json = {"name": function["name"], "arguments": text}
        encoded_calls.append({"id": call.get("id", made_id), "type": "function", "function": function_json})
    return encoded_calls


def scripted_completion(reply: Reply, model: Model, digest: bytes) -> Completion:
    """Return the completion that *reply* scripts."""
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


def default_completion(body: Mapping[str, Any], model: Model, digest: bytes) -> Completion:
    """Return the default completion: plain sentences, or JSON where the request or its prompt asks for it.

    Raises:
        RefusedError: The request asks for JSON and its token limit is too small for it.
    """
    if model.kind == "guard":
        return Completion(content=["0.", f"{digest[0] / 2560:.4f}"[2:]], completion_tokens=2)
    format_type = (body.get("response_format") or {}).get("type", "text")
    budget = budget_of(body)
    thoughts, shown = _reasoning_tokens(body, model, format_type)
    echo = _last_user_text(body["messages"])
    calls: list[dict[str, Any]] = []
    tool = _chosen_function(body, echo)
    if tool is not None:
        calls = wire_calls([_tool_call(tool, echo)], model, digest)
        pieces: list[str] = []
        content_tokens = len(tokens_of(calls[0]["function"]["arguments"])) + 4
    else:
        pieces = tokens_of(_answer_text(body, format_type, echo, digest))
        content_tokens = len(pieces)
    finish = "tool_calls" if calls else "stop"
    if budget is not None and len(thoughts) + content_tokens > budget:
        thoughts = thoughts[:budget]
        pieces = pieces[: budget - len(thoughts)]
        if format_type != "text" and not calls:
            raise _errors.json_failed("".join(pieces))
        calls, finish, content_tokens = [], "length", budget - len(thoughts)
    visible: list[str | bytes | Mapping[str, Any]] = [*pieces]
    if shown == "raw" and thoughts:
        visible = ["<think>\n", *thoughts, "\n</think>\n\n", *pieces]
    return Completion(
        content=visible,
        reasoning=thoughts if shown == "parsed" else [],
        hidden_tokens=len(thoughts) if shown == "hidden" else 0,
        tool_calls=calls,
        finish_reason=finish,
        completion_tokens=len(thoughts) + content_tokens,
        reasoning_tokens=len(thoughts) if model.reasoning else None,
    )


def _reasoning_tokens(body: Mapping[str, Any], model: Model, format_type: str) -> tuple[list[str], str]:
    """Return the tokens of the reasoning, and how to show them: ``parsed``, ``raw`` or ``hidden``."""
    effort = body.get("reasoning_effort")
    if model.reasoning is None or effort == "none":
        return [], "hidden"
    if body.get("include_reasoning") is False:
        shown = "hidden"
    else:
        plain = model.reasoning == "qwen" and format_type == "text" and not body.get("tools")
        shown = body.get("reasoning_format") or ("raw" if plain else "parsed")
    return tokens_of(_THOUGHTS)[: _REASONING_TOKENS.get(effort or "", 8)], shown


def _last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message["role"] == "user":
            return text_of(message.get("content"))
    return ""


def _answer_text(body: Mapping[str, Any], format_type: str, echo: str, digest: bytes) -> str:
    if format_type == "json_schema":
        schema: Any = body["response_format"]["json_schema"].get("schema", True)
        return json.dumps(example(schema, text=echo[:_LONGEST_ECHO]), ensure_ascii=False)
    wish = json_wish([text_of(message.get("content")) for message in body["messages"]])
    if format_type == "json_object" or wish is not None:
        value = {"echo": echo[:_LONGEST_ECHO], "ok": True}
        if wish is not None and wish.schema is not None:
            value = example(wish.schema, text=_short_text(echo))
        text = json.dumps(value, ensure_ascii=False)
        return f"```json\n{text}\n```" if format_type == "text" and wish is not None and wish.fenced else text
    text = sentences(echo, random.Random(digest))
    stops = body.get("stop") or ()
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            text = text.partition(stop)[0]
    return text


def _short_text(echo: str) -> str:
    """Return the text for free strings of a schema found in the prompt: never a copy of that schema."""
    return echo if len(echo) <= 80 and "{" not in echo else "text"


def _chosen_function(body: Mapping[str, Any], prompt: str) -> Mapping[str, Any] | None:
    """Return the function to call: the one that ``tool_choice`` demands, or one that the prompt names."""
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
    # After a tool result the model must answer in words, or a tool loop would never end.
    return named[0] if named and body["messages"][-1]["role"] == "user" else None


def _tool_call(function: Mapping[str, Any], echo: str) -> dict[str, Any]:
    arguments = example(function.get("parameters") or {"type": "object"}, text=echo[:_LONGEST_ECHO])
    return {"name": function["name"], "arguments": arguments}
