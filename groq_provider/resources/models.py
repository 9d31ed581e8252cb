"""The models: the catalogue that comes with the package, and the service's own list merged over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groq_provider.errors import ResponseDecodeError
from groq_provider.types._base import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from groq_provider.catalog import Catalogue
    from groq_provider.types.model_info import ModelCapability, ModelInfo

__all__ = ["Models"]


class Models:
    """Models of one provider.

    Thread safety: every method may be called from any thread.

    Args:
        configured: Ids to offer, in this order; empty: the whole catalogue.
        fetch: Asks the service for its list.
        with_catalogue: Whether the package's catalogue speaks for this provider.
    """

    def __init__(self, configured: tuple[str, ...], fetch: Callable[[], Any], *, with_catalogue: bool) -> None:
        self._configured = configured
        self._fetch = fetch
        self._static = _catalogue if with_catalogue else _nothing
        self._live: Catalogue | None = None

    def get(self) -> tuple[ModelInfo, ...]:
        """Return the models offered, without I/O."""
        catalogue = self._static()
        return catalogue.select(self._configured) if self._configured else catalogue.models

    def count(self) -> int:
        """Return how many models there are: those of the catalogue or the configuration, for another server those that it listed."""
        live = self._live
        return len(live.models) if live is not None and self._static is _nothing else len(self.get())

    def find(self, model: str) -> ModelInfo | None:
        """Return the known data of a model, without I/O."""
        live = self._live
        return (live.find(model) if live is not None else None) or self._static().find(model)

    def replacement_for(self, model: str) -> str | None:
        """Return the successor of a model that was shut down, if the package's catalogue speaks for this provider and knows one."""
        return self._static().replacement_for(model)

    def nearest_to(self, model: str) -> str:
        """Return ``" (did you mean …?)"`` for an id close to that of a model that is offered, else nothing."""
        live = self._live
        known = {
            one.id
            for catalogue in (live, self._static())
            if catalogue is not None
            for one in catalogue.models
            if not one.deprecated
        }
        return nearest(model, sorted(known - {model}))

    def list(self, *, refresh: bool, fetch: Callable[[], Any] | None = None) -> tuple[ModelInfo, ...]:
        """Return the service's own list merged over the catalogue, asking the service when needed.

        Threads that come at once each ask: one that waited for another's answer would wait beyond its own time limit.
        """
        if refresh or self._live is None:
            self.update((fetch or self._fetch)())
        live = self._live
        return live.models if live is not None else ()

    def update(self, data: Any) -> int:
        """Take in a decoded answer of ``/models``; return how many models it names.

        Raises:
            ResponseDecodeError: It is no such answer.
        """
        entries = data.get("data") if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise ResponseDecodeError("the list of models has no 'data' array @ $.data")
        good = [item for item in entries if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"]]
        self._live = self._static().merged(good)
        return len(good)

    def capabilities(self) -> Sequence[ModelCapability]:
        """Return the capabilities of all offered models together."""
        return self._static().capabilities(self._configured or None)


def _catalogue() -> Catalogue:
    from groq_provider.catalog import default_catalogue  # when it is first asked: not every program gets that far

    return default_catalogue()


def _nothing() -> Catalogue:
    from groq_provider.catalog import Catalogue

    return Catalogue(())
