"""Values: what is asked, what comes back, the state of things. All immutable, slotted, keyword-only and picklable."""

from __future__ import annotations

__all__ = ["load_annotations"]


def load_annotations() -> None:
    """Load what is loaded late, and put its names where annotations look for them.

    For whoever reads the annotations of values: ``typing.get_type_hints``, cattrs, documentation tools. Those who only make values and
    read them do without, and start more quickly.
    """
    from groq_provider.types import activity, messages, options, parts, request, response

    names = {name: getattr(home, name) for home in (activity, options, parts) for name in home.__all__}
    for module in (messages, request, response):
        for name, found in names.items():
            vars(module).setdefault(name, found)
