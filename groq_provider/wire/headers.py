"""Header fields of the service: rate limits, ``retry-after``, Go durations."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from groq_provider.types.response import RateLimitInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_HINT", "parse_duration", "parse_rate_limit", "parse_retry_after", "request_id"]

#: Longest hint that is believed, in seconds: the longest period of a limit is a day.
MAX_HINT = 7 * 86_400.0

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PIECE = re.compile(r"(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(h|ms|m|us|µs|μs|ns|s)")
_PLAIN = re.compile(r"\d{1,15}(?:\.\d{0,15})?|\.\d{1,15}")


def parse_duration(text: str | None) -> float | None:
    """Return the seconds of a Go duration (``2m59.56s``, ``120ms``) or of a plain number of seconds.

    Example:
        >>> parse_duration("2m59.56s"), parse_duration("120ms"), parse_duration("7"), parse_duration("soon")
        (179.56, 0.12, 7.0, None)
    """
    if text is None:
        return None
    number = text[:-1]
    if text[-1:] == "s" and len(text) < 16 and number.isascii() and number.replace(".", "", 1).isdigit():
        return float(number)  # most of them: 7.66s
    text = text.strip()
    if not text or len(text) > 64:
        return None
    if _PLAIN.fullmatch(text):
        return float(text)
    total, end = 0.0, 0
    for match in _PIECE.finditer(text):
        if match.start() != end:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        end = match.end()
    return total if end == len(text) else None


def _integer(text: str | None) -> int | None:
    if text is None or len(text) > 18:
        return None
    if text.isdigit() and text.isascii():
        return int(text)
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """Return what the ``x-ratelimit-*`` headers say; ``None`` when there are none.

    On this service requests are counted per day and tokens per minute. What cannot be read is ``None``.
    """
    get = headers.get
    limit_requests, limit_tokens = get("x-ratelimit-limit-requests"), get("x-ratelimit-limit-tokens")
    remaining_requests, remaining_tokens = get("x-ratelimit-remaining-requests"), get("x-ratelimit-remaining-tokens")
    if limit_requests is limit_tokens is remaining_requests is remaining_tokens is None:
        return None
    return RateLimitInfo(
        limit_requests=_integer(limit_requests),
        remaining_requests=_integer(remaining_requests),
        reset_requests=parse_duration(get("x-ratelimit-reset-requests")),
        limit_tokens=_integer(limit_tokens),
        remaining_tokens=_integer(remaining_tokens),
        reset_tokens=parse_duration(get("x-ratelimit-reset-tokens")),
        retry_after=parse_duration(get("retry-after")),
    )


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds a server asks to wait, in whichever form it says so.

    ``retry-after-ms``, then ``retry-after`` as seconds (whole or fraction), Go duration or HTTP date; the date is held against
    the answer's own ``date`` header, so that a wrong local clock does no harm. Negative, infinite, unreadable or double values
    count as not said; more than :data:`MAX_HINT` is cut.

    Args:
        headers: Case-insensitive header fields.
        now: Stands in for a missing ``date`` header.
    """
    milliseconds = (headers.get("retry-after-ms") or "").strip()
    if _PLAIN.fullmatch(milliseconds):
        return min(float(milliseconds) / 1000, MAX_HINT)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = parse_duration(text)
    if seconds is None:
        then = _http_date(text)
        if then is None:
            return None
        seconds = max(0.0, (then - (_http_date(headers.get("date")) or now)) / timedelta(seconds=1))
    return min(seconds, MAX_HINT) if math.isfinite(seconds) else None


def _http_date(text: str | None) -> datetime | None:
    if not text or len(text) > 64:
        return None
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the service's id of this exchange."""
    found = headers.get("x-request-id")
    return found[:200] if found else None
