"""``POST /openai/v1/chat/completions``: check, charge the limits, make a completion, plain or streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groq_provider.testing import _chat_checks, _completions, _wire
from groq_provider.testing._response import Response
from groq_provider.testing.replies import Fault, Reply

if TYPE_CHECKING:
    from groq_provider.testing._models import Model
    from groq_provider.testing._state import Admission
    from groq_provider.testing.routes._route import RouteCall

__all__ = ["respond"]


def respond(call: RouteCall) -> Response:
    """Return the completion that is scripted for the request, or one that is made up.

    Raises:
        RefusedError: A check fails, or a limit is reached.
    """
    state = call.state
    body = call.parse_json()
    if state.settings.validate:
        _chat_checks.check_shape(body)
    model = state.model_of(body["model"])
    prompt_tokens = _completions.count_prompt(body)
    if state.settings.validate:
        _chat_checks.check_model(body, model, prompt_tokens)
    tier = "flex" if body.get("service_tier") == "flex" else "on_demand"
    budget = _completions.budget_of(body)
    admission = state.admit(model, tier=tier, prompt_tokens=prompt_tokens, completion_tokens=budget)
    reply = call.take_completion()
    fault = (reply or call.early_reply or Reply()).merged_fault()
    try:
        return _complete(call, body, model, admission, reply=reply, fault=fault)
    except Exception:
        admission.settle(0, 0)
        raise


def _complete(
    call: RouteCall, body: Any, model: Model, admission: Admission, *, reply: Reply | None, fault: Fault
) -> Response:
    settings = call.state.settings
    prompt_tokens = admission.prompt_tokens
    digest = _completions.digest_of(body)
    completion = (
        _completions.scripted_completion(reply, model, digest)
        if reply
        else _completions.default_completion(body, model, digest)
    )
    cached_tokens = call.state.cached_tokens(body, model, prompt_tokens)
    seconds_per_token = settings.seconds_per_token(model)
    usage = _wire.usage_json(
        completion,
        prompt_tokens=prompt_tokens,
        cached=cached_tokens,
        seconds_per_token=seconds_per_token,
        digest=digest,
    )
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion.completion_tokens}
    # A scripted usage may hold anything; only its counts are charged.
    counts |= {key: value for key, value in (usage or {}).items() if key in counts and type(value) is int}

    def settle() -> None:
        admission.settle(counts["prompt_tokens"] - cached_tokens, counts["completion_tokens"])

    envelope = _envelope(call, body, model, digest)
    is_stream = fault.payload == "sse" if fault.payload in {"sse", "json"} else bool(body.get("stream"))
    if is_stream:
        parts = _wire.apply_line_faults(_wire.stream_events(envelope, completion, usage, fault), fault)
    else:
        parts = [_wire.plain_body(envelope, completion, usage, fault)]
    content_type = "text/event-stream" if is_stream else "application/json"
    return Response(
        status=200,
        headers=[("content-type", content_type), *admission.headers],
        parts=parts,
        is_stream=is_stream,
        latency=settings.latency_of(model),
        seconds_per_token=0.0 if settings.is_fast else seconds_per_token,
        settle=settle,
        reply=reply,
    )


def _envelope(call: RouteCall, body: Any, model: Model, digest: bytes) -> _wire.Envelope:
    return _wire.Envelope(
        request_id=call.request_id,
        created=int(call.state.settings.clock.now().timestamp()),
        model=model.id,
        seed=body["seed"] if body.get("seed") is not None else int.from_bytes(digest[:4], "big") >> 1,
        service_tier=body["service_tier"] if body.get("service_tier") in {"flex", "performance"} else "on_demand",
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )
