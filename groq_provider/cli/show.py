"""`groq-provider models` and `groq-provider health`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider import default_catalogue
from groq_provider.cli.live import Waiting, limited
from groq_provider.cli.screen import Screen, as_data, out, out_json
from groq_provider.cli.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from groq_provider import GroqProvider, ModelInfo

__all__ = ["health", "models"]


def models(*, connect: Callable[[], GroqProvider], refresh: bool, everything: bool, as_json: bool) -> int:
    """List the models of the catalogue, or with *refresh* those of the service."""
    screen = None if as_json else Screen()
    found: Sequence[ModelInfo]
    if refresh:
        with connect() as provider, Waiting(lambda: "waiting for the list of models"):
            found = provider.list_models(refresh=True)
    else:
        found = default_catalogue().models
    shown = [model for model in found if everything or not model.deprecated]
    if screen is None:
        out_json([as_data(model) for model in shown], indent=2)
        return 0
    columns = ("model", "context", "answer", "speed", "$ in/out", "state ")
    screen.table(columns, [_row(model) for model in shown])
    out("context and answer: most tokens. speed: tokens per second, nominal, published by the service.")
    out("$ in/out: list price of a million tokens in US dollars.")
    if len(shown) < len(found):
        out(f"{len(found) - len(shown)} models that were shut down or will be are left out; --all shows them.")
    return 0


def _row(model: ModelInfo) -> tuple[str, ...]:
    speed = model.performance_profile and model.performance_profile.avg_tokens_per_second
    price = model.pricing
    state = model.stage or ("active" if model.active else "")
    if model.deprecated:
        state = f"{state}, shut down {model.shutdown_date or ''}".rstrip()
        following = default_catalogue().replacement_for(
            model.id
        )  # a live one; what was recommended then may be gone itself
        state += f"; use {following}" if following else ""
    return (
        model.id,
        f"{model.context_size:,}" if model.context_size else "",
        f"{model.max_tokens:,}" if model.max_tokens else "",
        f"{speed:,}" if speed else "",
        f"{price.input:g}/{price.output:g}" if price and price.input is not None and price.output is not None else "",
        state,
    )


def health(*, connect: Callable[[], GroqProvider], probe: str, timeout: float, as_json: bool) -> int:
    """Check the service; 0 when it is healthy."""
    with connect() as provider, Waiting(lambda: limited(provider, "waiting for the service")):
        found = provider.get_health(probe=probe, timeout=timeout)
    if as_json:
        out_json(as_data(found), indent=2)
    else:
        text = f"{found.status}: {found.model_count} models, answered in {found.latency * 1000:.0f} ms"
        if found.message:
            text = f"{found.status}: {one_line(found.message)}"
        out(text)
    return 0 if found.status == "healthy" else 1
