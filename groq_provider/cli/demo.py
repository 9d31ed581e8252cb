"""`groq-provider demo`: what the library does, shown on one page."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from groq_provider import DEFAULT_MODEL, CancelToken, GroqProviderError, default_catalogue
from groq_provider.cli.advice import complaint
from groq_provider.cli.live import Answer, Waiting, limited
from groq_provider.cli.screen import Progress, Screen, out
from groq_provider.cli.text import one_line
from groq_provider.testing import demo_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from groq_provider import GroqProvider, LLMResponse, ProviderConfig

__all__ = ["run"]

_PROMPT = "Explain in three sentences what a token bucket is."
_MOST_STREAMS = 8  # with the batch's default of 20 and the first answer they stay below the free plan's 30 per minute
_LIMIT_NAMES = {
    "rpm": "requests per minute",
    "rpd": "requests per day",
    "tpm": "tokens per minute",
    "tpd": "tokens per day",
    "itpm": "input tokens per minute",
    "otpm": "output tokens per minute",
}


class _Notes(io.StringIO):
    """Shows what is written to it as all other output."""

    def write(self, text: str) -> int:
        if text.strip():
            out(text)
        return len(text)


def stream_prompt(number: int) -> str:
    """What a stream asks, numbered from 1."""
    return f"In one short sentence: what is the number {number} known for?"


def batch_prompt(number: int) -> str:
    """What an item of the batch asks, numbered from 0."""
    return f"In one short sentence: what happened in the year {1900 + number}?"


def run(
    *,
    model: str | None,
    prompt: str | None,
    items: int,
    workers: int,
    color: bool,
    config: ProviderConfig | None,
    timeout: float | None,
) -> int:
    """Stream an answer, run streams and a batch over threads, print the figures; 1 if anything failed."""
    screen = Screen(color=color)
    with demo_provider(model=model, notes=_Notes(), config=config, timeout=timeout) as provider:
        fields = _short_reasoning(model or (config.default_model if config else DEFAULT_MODEL))
        screen.heading("An answer, streamed")
        _stream(provider, prompt or _PROMPT, fields)

        streams = min(items, _MOST_STREAMS)
        screen.heading(f"{streams} streams over {min(workers, streams)} threads (one provider, ThreadPoolExecutor)")
        failed = _show(screen, provider, streams, lambda: _streams(provider, streams, workers, fields))

        screen.heading(f"A batch of {items} over {workers} threads (generate_many)")
        failed += _show(screen, provider, items, lambda: _batch(provider, items, workers, fields))

        out("")
        _tables(screen, provider)
    return 1 if failed else 0


def _short_reasoning(model: str) -> dict[str, Any]:
    known = default_catalogue().find(model)
    return {"reasoning_effort": "low"} if known is not None and "low" in known.reasoning_efforts else {}


def _stream(provider: GroqProvider, prompt: str, fields: dict[str, Any]) -> None:
    answer = Answer()
    with (
        Waiting(lambda: limited(provider, "waiting for the first token")) as sign,
        provider.generate_stream(prompt, max_completion_tokens=512, **fields) as stream,
    ):
        try:
            for chunk in stream:
                if chunk.content:
                    sign.end()
                    answer.add(chunk.content)
        finally:
            answer.end()
    response = stream.response
    timing, usage, limits = response.timing, response.usage, response.rate_limit
    out("")
    out(f"  model         {one_line(response.model)} (finish reason: {one_line(response.finish_reason)})")
    if timing.time_to_first_token is not None:
        out(f"  first token   {timing.time_to_first_token * 1000:.0f} ms")
    if timing.tokens_per_second is not None:
        out(f"  speed         {timing.tokens_per_second:,.0f} tokens/s, whole call {timing.total * 1000:.0f} ms")
    out(
        f"  usage         {usage.prompt_tokens} prompt + {usage.completion_tokens} completion"
        f" = {usage.total_tokens} tokens ({usage.source})"
    )
    if limits is not None:
        out(
            f"  limits left   {_of(limits.remaining_requests, limits.limit_requests)} requests per day,"
            f" {_of(limits.remaining_tokens, limits.limit_tokens)} tokens per minute"
        )


def _of(left: int | None, size: int | None) -> str:
    return f"{_count(left)} of {_count(size)}"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _show(
    screen: Screen, provider: GroqProvider, total: int, work: Callable[[], Iterator[LLMResponse | GroqProviderError]]
) -> int:
    """Run *work* with a line of progress, then say how it went; returns how many items failed."""
    counts = Progress(total)
    errors: list[GroqProviderError] = []
    started = time.monotonic()
    with screen.progress(counts, lambda: limited(provider, "")) as changed:
        for outcome in work():
            counts.done += 1
            if isinstance(outcome, GroqProviderError):
                counts.errors += 1
                errors.append(outcome)
            else:
                counts.tokens += outcome.usage.completion_tokens
            changed()
    elapsed = time.monotonic() - started
    out(f"  {counts.text(elapsed)}, {elapsed:.2f} s")
    for kind in dict.fromkeys(map(type, errors)):
        same = [error for error in errors if type(error) is kind]
        out(f"  {len(same)} x {kind.__name__}, for example:\n  {complaint(same[0])}")
    return counts.errors


def _streams(
    provider: GroqProvider, total: int, workers: int, fields: dict[str, Any]
) -> Iterator[LLMResponse | GroqProviderError]:
    cancel = CancelToken()

    def one(number: int) -> LLMResponse | GroqProviderError:
        try:
            with provider.generate_stream(
                stream_prompt(number), cancel=cancel, max_completion_tokens=160, **fields
            ) as stream:
                return stream.collect()
        except GroqProviderError as error:
            return error

    with ThreadPoolExecutor(min(workers, total)) as threads:
        try:
            for future in as_completed([threads.submit(one, number) for number in range(1, total + 1)]):
                yield future.result()
        finally:
            # After Ctrl-C: end what is under way. After the last result there is nothing to end.
            cancel.cancel()
            threads.shutdown(cancel_futures=True)


def _batch(
    provider: GroqProvider, total: int, workers: int, fields: dict[str, Any]
) -> Iterator[LLMResponse | GroqProviderError]:
    with provider.generate_many(
        map(batch_prompt, range(total)), max_workers=workers, ordered=False, max_completion_tokens=160, **fields
    ) as results:
        for result in results:
            outcome = result.response or result.error
            assert outcome is not None  # noqa: S101 - for mypy: it is one or the other
            yield outcome


def _tables(screen: Screen, provider: GroqProvider) -> None:
    found = provider.get_latency_metrics()
    streams, calls = f"{found.first_token_count:,}", f"{found.sample_count:,}"
    rows = []
    for name, field, samples in (
        ("first token", "first_token_latency", streams),
        ("whole call", "total_latency", calls),
        ("  waiting here", "wait", calls),
        ("  the service", "service_latency", calls),
    ):
        figures = [getattr(found, f"{part}_{field}") for part in ("p50", "p95", "p99")]
        rows.append((name, *(f"{seconds * 1000:,.0f} ms" for seconds in figures), samples))
    speeds = [getattr(found, f"{part}_tokens_per_second") for part in ("p50", "p95", "p99")]
    rows.append(("tokens/s", *(f"{speed:,.0f}" for speed in speeds), calls))
    screen.table(("get_latency_metrics()", "p50", "p95", "p99", "samples"), rows)
    states = provider.get_rate_limits().values()
    limits = [
        (
            status.model,
            name.upper(),
            f"{window.limit:,}",
            f"{window.remaining:,}",
            f"{window.reset:.1f} s",
            window.source,
        )
        for status in states
        for name, window in status.windows.items()
    ]
    screen.table(("get_rate_limits()", "limit ", "size", "left", "full again in", "known "), limits, keys=2)
    used = dict.fromkeys(name for status in states for name in status.windows)
    out(", ".join(f"{name.upper()}: {_LIMIT_NAMES.get(name, name)}" for name in used))
