"""The values that go into the library and come out of it: immutable, slotted, keyword-only, and picklable.

- ``messages``: ``Message``: one turn of a conversation
- ``parts``: parts of messages, tools, tool calls; loaded late
- ``request``: ``LLMRequest``: a chat completion to ask for
- ``options``: settings of a request with fields of their own; loaded late
- ``request_fields``: keyword arguments of ``generate`` and ``generate_stream``, for type checkers
- ``allowed``: the rules of each type of provider: ranges, word lists, further keys
- ``response``: ``LLMResponse``, its chunks, timing, attempts
- ``usage``: the tokens and times that an answer reports
- ``activity``: server-side tools, citations, usage by model; loaded late
- ``model_info``: models, their abilities and prices
- ``status``: health, latency figures, rate-limit windows
- ``_base``: strict construction, read-only mappings, masked ``repr``

To add a field to a request, add it to ``request`` and ``request_fields``, and its range to ``allowed``. To add a field to an answer, add it
to ``response`` and read it in ``groq_provider.wire.codec``.
"""

from __future__ import annotations

__all__ = ["load_annotations"]


def load_annotations() -> None:
    """Load the late modules and put their names where annotations refer to them.

    Call this before anything resolves the annotations of these classes (``typing.get_type_hints``, cattrs, documentation tools).
    Programs that only make and read values do not need it, and start faster without it.
    """
    from groq_provider.types import activity, messages, options, parts, request, response

    late_names = {name: getattr(home, name) for home in (activity, options, parts) for name in home.__all__}
    for module in (messages, request, response):
        for name, value_class in late_names.items():
            vars(module).setdefault(name, value_class)
