"""Completions as bytes: the plain body and the events of a stream (groq-api.md 2 and 3)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groq_provider.testing._errors import TOOL_USE_FAILED

if TYPE_CHECKING:
    from groq_provider.testing._answers import Completion
    from groq_provider.testing.replies import Fault

_HALF = re.compile("[\ud800-\udfff]")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def dumps(value: Any) -> str:
    """JSON as the service's Go encoder writes it: compact, `<` and `>` escaped. So are halves of characters, which have no UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e")
    return text if text.isascii() else _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def loads(data: bytes) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: No JSON, or NaN and infinite numbers in it, or nested too deep.
    """
    try:
        return json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def new_request_id() -> str:
    """A fresh `req_` id, a ULID: ten characters of time, sixteen of chance."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "req_" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def fingerprint(model: str) -> str:
    """The `system_fingerprint` of a model, always the same."""
    return "fp_" + hashlib.sha256(model.encode()).hexdigest()[:10]


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What all chunks of one answer share."""

    request_id: str
    created: int
    model: str
    seed: int
    service_tier: str
    include_usage: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of the body, and how many tokens must have been generated before it is sent."""

    data: bytes
    tokens: float


def usage_json(
    completion: Completion, *, prompt_tokens: int, cached: int, seconds_per_token: float, digest: bytes
) -> dict[str, Any] | None:
    """The usage object; `None` if the script says there is none."""
    if completion.usage is False:
        return None
    count = completion.completion_tokens
    prompt_time = round(0.002 + prompt_tokens * 2e-5, 6)
    completion_time = round(count * seconds_per_token, 6)
    usage: dict[str, Any] = {
        "queue_time": round(0.01 + digest[1] / 5000, 6),
        "prompt_tokens": prompt_tokens,
        "prompt_time": prompt_time,
        "completion_tokens": count,
        "completion_time": completion_time,
        "total_tokens": prompt_tokens + count,
        "total_time": round(prompt_time + completion_time, 6),
    }
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if completion.reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": completion.reasoning_tokens}
    if isinstance(completion.usage, Mapping):
        usage |= completion.usage
        parts = (usage["prompt_tokens"], usage["completion_tokens"])
        if "total_tokens" not in completion.usage and all(isinstance(part, int) for part in parts):
            usage["total_tokens"] = sum(parts)
    return usage


def plain(envelope: Envelope, completion: Completion, usage: dict[str, Any] | None, fault: Fault) -> Part:
    """The body of an answer that is not streamed."""
    message: dict[str, Any] = {"role": "assistant"}
    if completion.content or not completion.tool_calls:
        message["content"] = completion.text
    if completion.reasoning:
        message["reasoning"] = "".join(completion.reasoning)
    if completion.tool_calls:
        message["tool_calls"] = completion.tool_calls
    finish = None if fault.omit_finish_reason else completion.finish_reason
    body: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4()}",
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": usage,
        "usage_breakdown": None,
        "system_fingerprint": fingerprint(envelope.model),
        "x_groq": {"id": envelope.request_id, "seed": envelope.seed},
        "service_tier": envelope.service_tier,
    }
    if usage is None or fault.omit_usage:
        del body["usage"]
    return Part(dumps(body).encode(), completion.completion_tokens)


def events(envelope: Envelope, completion: Completion, usage: dict[str, Any] | None, fault: Fault) -> list[Part]:
    """All events of a stream, `[DONE]` included, with the fault's changes to their content."""
    shown = None if fault.omit_usage else usage
    head = dumps(
        {
            "id": f"chatcmpl-{uuid.uuid4()}",
            "object": "chat.completion.chunk",
            "created": envelope.created,
            "model": envelope.model,
            "system_fingerprint": fingerprint(envelope.model),
        }
    )[:-1]
    middle = ',"choices":[{"index":0,"delta":'
    tail = ',"logprobs":null,"finish_reason":null}]'
    parts: list[Part] = []

    def add(text: str, tokens: float) -> None:
        parts.append(Part(f"data: {text}\n\n".encode(), tokens))

    def delta(value: Mapping[str, Any], tokens: float, more: str = "") -> None:
        add(f"{head}{middle}{dumps(value)}{tail}{more}}}", tokens)

    identity = {"id": envelope.request_id}
    delta({"role": "assistant", "content": ""}, 0, f',"x_groq":{dumps({**identity, "seed": envelope.seed})}')
    done = 1.0
    channel = {"channel": "analysis"} if "gpt-oss" in envelope.model else {}
    for piece in completion.reasoning:
        delta({"reasoning": piece, **channel}, done)
        done += 1
    done += completion.hidden_tokens
    for content in completion.content:
        if isinstance(content, bytes):
            parts.append(Part(content, done))
        else:
            delta({"content": content} if isinstance(content, str) else content, done)
        done += 1
    for index, call in enumerate(completion.tool_calls):
        done += len(call["function"]["arguments"]) / 4
        delta({"tool_calls": [{**call, "index": index}]}, done)
    if not fault.omit_finish_chunk:
        finish = None if fault.omit_finish_reason else completion.finish_reason
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
        final: dict[str, Any] = {"choices": [choice], "x_groq": dict(identity)}
        if shown is not None:
            final["x_groq"]["usage"] = shown
            final["usage"] = shown
        add(f"{head},{dumps(final)[1:]}", done)
        if envelope.include_usage and shown is not None:
            last = {"choices": [], "usage": shown, "service_tier": envelope.service_tier}
            add(f"{head},{dumps(last)[1:]}", done)
    ending = Part(b"data: [DONE]\n\n", done)
    if fault.error_event:
        body = TOOL_USE_FAILED if fault.error_event is True else fault.error_event
        at = parts[fault.after_events - 1].tokens if 0 < fault.after_events <= len(parts) else done
        return [*parts[: fault.after_events], Part(f"event: error\ndata: {dumps(body)}\n\n".encode(), at)]
    if fault.x_groq_error is not None:
        del parts[fault.after_events :]
        delta({}, parts[-1].tokens if parts else 0, f',"x_groq":{dumps({**identity, "error": fault.x_groq_error})}')
    return parts if fault.omit_done else [*parts, ending]


def dress(parts: list[Part], fault: Fault) -> list[Part]:
    """The events with comments and line ends as the fault wants them."""
    if not fault.comments and fault.newline == "\n":
        return parts
    comment = b": keep-alive\n\n" if fault.comments else b""
    newline = fault.newline.encode()
    return [Part((comment + part.data).replace(b"\n", newline), part.tokens) for part in parts]
