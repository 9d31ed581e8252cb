"""What a server says, without the key and without what the caller wrote: it may repeat what it was sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Concealer"]

#: Shorter texts are words like any other; of longer ones no more than so much of the beginning may show.
_LEAST = 16
_KEY, _PROMPT = "****", "<prompt>"


class Concealer:
    """Takes secrets out of texts. To be used before a text is cut: of what was cut in two, the beginning would stay.

    Stateless after construction; safe to share.

    Args:
        secret: The API key.
        texts: What the caller wrote. Found where it is repeated from its beginning, as far as it is repeated, as it is or as JSON.
    """

    __slots__ = ("_secret", "_texts")

    def __init__(self, secret: str | None = None, texts: Iterable[str] = ()) -> None:
        self._secret = secret
        stripped = [text.strip() for text in texts]
        self._texts = [text for text in dict.fromkeys(stripped) if len(text) >= _LEAST]

    def __call__(self, text: str) -> str:
        """Return *text* without them."""
        text = self.key(text)
        if len(text) < _LEAST:
            return text
        forms = [form for given in self._texts for form in _forms(given[: len(text)])]
        starts = {form[:_LEAST] for form in forms}
        kept: list[str] = []
        at = 0
        while places := [place for start in starts if (place := text.find(start, at)) >= 0]:
            place = min(places)
            kept += text[at:place], _PROMPT
            at = place + max(_common(text, place, form) for form in forms)
        return "".join([*kept, text[at:]])

    def key(self, text: str) -> str:
        """Return *text* without the key alone."""
        return text.replace(self._secret, _KEY) if self._secret else text

    def in_bytes(self, body: bytes) -> bytes:
        """Return *body* without them, whatever bytes it is made of."""
        return self(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _forms(given: str) -> list[str]:
    """Return a text as it may be repeated: bare, inside JSON, and inside JSON that is itself a text in JSON."""
    forms = [given]
    for ascii_only in (True, False):
        once = json.dumps(given, ensure_ascii=ascii_only)[1:-1]
        forms += once, json.dumps(once, ensure_ascii=ascii_only)[1:-1]
    return list(dict.fromkeys(forms))


def _common(text: str, place: int, form: str) -> int:
    """Return how many characters from *place* on are those of *form*."""
    if text.startswith(form, place):
        return len(form)
    low, high = 0, len(form)
    while high - low > 1:
        middle = (low + high) // 2
        if text.startswith(form[:middle], place):
            low = middle
        else:
            high = middle
    return low
