"""``groq-provider demo``: a stream, a batch and the figures, on one page."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from groq_provider import DEFAULT_MODEL, CancelToken, GroqProviderError, default_catalogue
from groq_provider.cli.advice import format_error
from groq_provider.cli.live import AnswerPrinter, Spinner, describe_wait
from groq_provider.cli.screen import Progress, Screen, print_text
from groq_provider.cli.text import one_line
from groq_provider.testing import demo_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from groq_provider import GroqProvider, LLMResponse, ProviderConfig

__all__ = ["run"]

_PROMPT = "Explain in three sentences what a token bucket is."
_MOST_STREAMS = (
    8  # with the first answer and the default batch of 20 this is below the free plan's 30 requests per minute
)
_LIMIT_NAMES = {
    "rpm": "requests per minute",
    "rpd": "requests per day",
    "tpm": "tokens per minute",
    "tpd": "tokens per day",
    "itpm": "input tokens per minute",
    "otpm": "output tokens per minute",
}


class _Notes(io.StringIO):
    """A file that sends its text through :func:`print_text`, as all other output does."""

    def write(self, text: str) -> int:
        if text.strip():
            print_text(text)
        return len(text)


def stream_prompt(number: int) -> str:
    """Return the prompt of a stream, numbered from 1."""
    return f"In one short sentence: what is the number {number} known for?"


def batch_prompt(number: int) -> str:
    """Return the prompt of an item of the batch, numbered from 0."""
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
    """Stream an answer, run streams and a batch in threads, print the figures; return 1 if anything failed, else 0."""
    screen = Screen(color=color)
    with demo_provider(model=model, notes=_Notes(), config=config, timeout=timeout) as provider:
        fields = _short_reasoning(model or (config.default_model if config else DEFAULT_MODEL))
        screen.heading("An answer, streamed")
        _stream_answer(provider, prompt or _PROMPT, fields)

        streams = min(items, _MOST_STREAMS)
        screen.heading(f"{streams} streams over {min(workers, streams)} threads (one provider, ThreadPoolExecutor)")
        failed = _run_counted(screen, provider, streams, lambda: _run_streams(provider, streams, workers, fields))

        screen.heading(f"A batch of {items} over {workers} threads (generate_many)")
        failed += _run_counted(screen, provider, items, lambda: _run_batch(provider, items, workers, fields))

        print_text("")
        _print_figures(screen, provider)
    return 1 if failed else 0


def _short_reasoning(model: str) -> dict[str, Any]:
    known = default_catalogue().find(model)
    return {"reasoning_effort": "low"} if known is not None and "low" in known.reasoning_efforts else {}


def _stream_answer(provider: GroqProvider, prompt: str, fields: dict[str, Any]) -> None:
    answer = AnswerPrinter()
    with (
        Spinner(lambda: describe_wait(provider, "waiting for the first token")) as spinner,
        provider.generate_stream(prompt, max_completion_tokens=512, **fields) as stream,
    ):
        try:
            for chunk in stream:
                if chunk.content:
                    spinner.end()
                    answer.add(chunk.content)
        finally:
            answer.end()
    response = stream.response
    timing, usage, limits = response.timing, response.usage, response.rate_limit
    print_text("")
    print_text(f"  model         {one_line(response.model)} (finish reason: {one_line(response.finish_reason)})")
    if timing.time_to_first_token is not None:
        print_text(f"  first token   {timing.time_to_first_token * 1000:.0f} ms")
    if timing.tokens_per_second is not None:
        print_text(f"  speed         {timing.tokens_per_second:,.0f} tokens/s, whole call {timing.total * 1000:.0f} ms")
    print_text(
        f"  usage         {usage.prompt_tokens} prompt + {usage.completion_tokens} completion"
        f" = {usage.total_tokens} tokens ({usage.source})"
    )
    if limits is not None:
        print_text(
            f"  limits left   {_share(limits.remaining_requests, limits.limit_requests)} requests per day,"
            f" {_share(limits.remaining_tokens, limits.limit_tokens)} tokens per minute"
        )


def _share(remaining: int | None, limit: int | None) -> str:
    return f"{_format_count(remaining)} of {_format_count(limit)}"


def _format_count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _run_counted(
    screen: Screen, provider: GroqProvider, total: int, work: Callable[[], Iterator[LLMResponse | GroqProviderError]]
) -> int:
    """Run *work* with a progress line, then print its counts and errors; return how many items failed."""
    counts = Progress(total)
    errors: list[GroqProviderError] = []
    started = time.monotonic()
    with screen.progress(counts, lambda: describe_wait(provider, "")) as update_progress:
        for outcome in work():
            counts.done += 1
            if isinstance(outcome, GroqProviderError):
                counts.errors += 1
                errors.append(outcome)
            else:
                counts.tokens += outcome.usage.completion_tokens
            update_progress()
    elapsed = time.monotonic() - started
    print_text(f"  {counts.text(elapsed)}, {elapsed:.2f} s")
    for kind in dict.fromkeys(map(type, errors)):
        examples = [error for error in errors if type(error) is kind]
        print_text(f"  {len(examples)} x {kind.__name__}, for example:\n  {format_error(examples[0])}")
    return counts.errors


def _run_streams(
    provider: GroqProvider, total: int, workers: int, fields: dict[str, Any]
) -> Iterator[LLMResponse | GroqProviderError]:
    cancel = CancelToken()

    def run_stream(number: int) -> LLMResponse | GroqProviderError:
        try:
            with provider.generate_stream(
                stream_prompt(number), cancel=cancel, max_completion_tokens=160, **fields
            ) as stream:
                return stream.collect()
        except GroqProviderError as error:
            return error

    with ThreadPoolExecutor(min(workers, total)) as threads:
        try:
            for future in as_completed([threads.submit(run_stream, number) for number in range(1, total + 1)]):
                yield future.result()
        finally:
            # After Ctrl-C this ends the streams in flight; after the last result it does nothing.
            cancel.cancel()
            threads.shutdown(cancel_futures=True)


def _run_batch(
    provider: GroqProvider, total: int, workers: int, fields: dict[str, Any]
) -> Iterator[LLMResponse | GroqProviderError]:
    with provider.generate_many(
        map(batch_prompt, range(total)), max_workers=workers, ordered=False, max_completion_tokens=160, **fields
    ) as results:
        for result in results:
            outcome = result.response or result.error
            assert outcome is not None  # noqa: S101 - for mypy: a result has one of the two
            yield outcome


def _print_figures(screen: Screen, provider: GroqProvider) -> None:
    metrics = provider.get_latency_metrics()
    streams, calls = f"{metrics.first_token_count:,}", f"{metrics.sample_count:,}"
    rows = []
    for name, field, samples in (
        ("first token", "first_token_latency", streams),
        ("whole call", "total_latency", calls),
        ("  waiting here", "wait", calls),
        ("  the service", "service_latency", calls),
    ):
        figures = [getattr(metrics, f"{part}_{field}") for part in ("p50", "p95", "p99")]
        rows.append((name, *(f"{seconds * 1000:,.0f} ms" for seconds in figures), samples))
    speeds = [getattr(metrics, f"{part}_tokens_per_second") for part in ("p50", "p95", "p99")]
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
    print_text(", ".join(f"{name.upper()}: {_LIMIT_NAMES.get(name, name)}" for name in used))
