"""Encodes completions as the service does: the plain body and the events of a stream."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.testing._errors import TOOL_USE_FAILED

if TYPE_CHECKING:
    from groq_provider.testing._completions import Completion
    from groq_provider.testing.replies import Fault

_SURROGATE = re.compile("[\ud800-\udfff]")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def dumps(value: Any) -> str:
    """Encode as JSON the way the service's Go encoder does: compact, ``<`` and ``>`` escaped, and lone surrogates, which have no UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e")
    return text if text.isascii() else _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def loads(data: bytes) -> Any:
    """Decode JSON text.

    Raises:
        ValueError: It is not JSON, holds NaN or an infinite number, or is nested too deep.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_finite_float)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def new_request_id() -> str:
    """Return a fresh ``req_`` id, a ULID: ten characters of time, sixteen random ones."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "req_" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def fingerprint(model: str) -> str:
    """Return the ``system_fingerprint`` of a model, always the same."""
    return "fp_" + hashlib.sha256(model.encode()).hexdigest()[:10]


@attrs.frozen(kw_only=True)
class Envelope:
    """The fields that all chunks of one response share."""

    request_id: str
    created: int
    model: str
    seed: int
    service_tier: str
    include_usage: bool = False


@attrs.frozen
class Part:
    """A piece of the body, and the number of tokens the model must have generated before it is sent."""

    data: bytes
    tokens: float


def usage_json(
    completion: Completion, *, prompt_tokens: int, cached: int, seconds_per_token: float, digest: bytes
) -> dict[str, Any] | None:
    """Return the usage object; ``None`` if the script omits it."""
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


def plain_body(envelope: Envelope, completion: Completion, usage: dict[str, Any] | None, fault: Fault) -> Part:
    """Return the body of a response that is not streamed."""
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


def stream_events(envelope: Envelope, completion: Completion, usage: dict[str, Any] | None, fault: Fault) -> list[Part]:
    """Return all events of a stream, ``[DONE]`` included, with the fault's changes to their content."""
    shown_usage = None if fault.omit_usage else usage
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
    generated_tokens = 1.0
    channel = {"channel": "analysis"} if "gpt-oss" in envelope.model else {}
    for piece in completion.reasoning:
        delta({"reasoning": piece, **channel}, generated_tokens)
        generated_tokens += 1
    generated_tokens += completion.hidden_tokens
    for content in completion.content:
        if isinstance(content, bytes):
            parts.append(Part(content, generated_tokens))
        else:
            delta({"content": content} if isinstance(content, str) else content, generated_tokens)
        generated_tokens += 1
    for index, call in enumerate(completion.tool_calls):
        generated_tokens += len(call["function"]["arguments"]) / 4
        delta({"tool_calls": [{**call, "index": index}]}, generated_tokens)
    if not fault.omit_finish_chunk:
        finish = None if fault.omit_finish_reason else completion.finish_reason
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
        final: dict[str, Any] = {"choices": [choice], "x_groq": dict(identity)}
        if shown_usage is not None:
            final["x_groq"]["usage"] = shown_usage
            final["usage"] = shown_usage
        add(f"{head},{dumps(final)[1:]}", generated_tokens)
        if envelope.include_usage and shown_usage is not None:
            last = {"choices": [], "usage": shown_usage, "service_tier": envelope.service_tier}
            add(f"{head},{dumps(last)[1:]}", generated_tokens)
    ending = Part(b"data: [DONE]\n\n", generated_tokens)
    if fault.error_event:
        body = TOOL_USE_FAILED if fault.error_event is True else fault.error_event
        at = parts[fault.after_events - 1].tokens if 0 < fault.after_events <= len(parts) else generated_tokens
        return [*parts[: fault.after_events], Part(f"event: error\ndata: {dumps(body)}\n\n".encode(), at)]
    if fault.x_groq_error is not None:
        del parts[fault.after_events :]
        delta({}, parts[-1].tokens if parts else 0, f',"x_groq":{dumps({**identity, "error": fault.x_groq_error})}')
    return parts if fault.omit_done else [*parts, ending]


def apply_line_faults(parts: list[Part], fault: Fault) -> list[Part]:
    """Add the comments and line ends that *fault* demands to the events."""
    if not fault.comments and fault.newline == "\n":
        return parts
    comment = b": keep-alive\n\n" if fault.comments else b""
    newline = fault.newline.encode()
    return [Part((comment + part.data).replace(b"\n", newline), part.tokens) for part in parts]
