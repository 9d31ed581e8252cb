"""``groq-provider models`` and ``groq-provider health``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider import default_catalogue
from groq_provider.cli.live import Spinner, describe_wait
from groq_provider.cli.screen import Screen, as_data, print_json, print_text
from groq_provider.cli.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from groq_provider import GroqProvider, ModelInfo

__all__ = ["health", "models"]


def models(*, connect: Callable[[], GroqProvider], refresh: bool, everything: bool, as_json: bool) -> int:
    """List the models of the catalogue, or with *refresh* those of the service; return the exit code."""
    screen = None if as_json else Screen()
    known_models: Sequence[ModelInfo]
    if refresh:
        with connect() as provider, Spinner(lambda: "waiting for the list of models"):
            known_models = provider.list_models(refresh=True)
    else:
        known_models = default_catalogue().models
    shown_models = [model for model in known_models if everything or not model.deprecated]
    if screen is None:
        print_json([as_data(model) for model in shown_models], indent=2)
        return 0
    columns = ("model", "context", "answer", "speed", "$ in/out", "state ")
    screen.table(columns, [_row(model) for model in shown_models])
    print_text("context and answer: most tokens. speed: tokens per second, nominal, published by the service.")
    print_text("$ in/out: list price of a million tokens in US dollars.")
    hidden_count = len(known_models) - len(shown_models)
    if hidden_count:
        print_text(f"{hidden_count} models that were shut down or will be are not shown; --all shows them.")
    return 0


def _row(model: ModelInfo) -> tuple[str, ...]:
    speed = model.performance_profile and model.performance_profile.avg_tokens_per_second
    price = model.pricing
    state = model.stage or ("active" if model.active else "")
    if model.deprecated:
        state = f"{state}, shut down {model.shutdown_date or ''}".rstrip()
        # Ask the catalogue for a live model: the replacement recommended at the time may be shut down itself.
        replacement = default_catalogue().replacement_for(model.id)
        state += f"; use {replacement}" if replacement else ""
    return (
        model.id,
        f"{model.context_size:,}" if model.context_size else "",
        f"{model.max_tokens:,}" if model.max_tokens else "",
        f"{speed:,}" if speed else "",
        f"{price.input:g}/{price.output:g}" if price and price.input is not None and price.output is not None else "",
        state,
    )


def health(*, connect: Callable[[], GroqProvider], probe: str, timeout: float, as_json: bool) -> int:
    """Check the service; return 0 if it is healthy, else 1."""
    with connect() as provider, Spinner(lambda: describe_wait(provider, "waiting for the service")):
        outcome = provider.get_health(probe=probe, timeout=timeout)
    if as_json:
        print_json(as_data(outcome), indent=2)
    else:
        text = f"{outcome.status}: {outcome.model_count} models, answered in {outcome.latency * 1000:.0f} ms"
        if outcome.message:
            text = f"{outcome.status}: {one_line(outcome.message)}"
        print_text(text)
    return 0 if outcome.status == "healthy" else 1
