"""Read the header fields of the service: rate limits, ``retry-after``, Go durations, request ids."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from groq_provider.types.response import RateLimitInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_FIGURE",
    "MAX_HINT",
    "parse_duration",
    "parse_rate_limit",
    "parse_retry_after",
    "parse_wait",
    "request_id",
]

#: The longest wait that is believed, in seconds. Maintenance may take days; no limit has a period of more than one day.
MAX_HINT = 7 * 86_400.0
#: The largest limit, or remainder of a limit, that is believed.
MAX_FIGURE = 999_999_999

#: A larger number is not a duration but a Unix time (2017 or later): in seconds above the first bound, in milliseconds above the second.
_MIN_UNIX_TIME, _MIN_UNIX_TIME_MS = 1.5e9, 1.5e12
_MINUTE, _DAY = 60.0, 86_400.0

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(h|ms|m|us|µs|μs|ns|s)")
#: The form of nearly all durations of the service: ``7.66s``, ``2m59.56s``.
_USUAL_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(\d{1,9}(?:\.\d{0,9})?)s")
_PLAIN_NUMBER = re.compile(r"\d{1,15}(?:\.\d{0,15})?|\.\d{1,15}")

# Waits in the text of an error. The patterns are compiled on first use: most programs see few such errors.
_WORDS = {
    "milliseconds?|msecs?|ms": 1e-3,
    "microseconds?|us|µs|μs": 1e-6,
    "nanoseconds?|ns": 1e-9,
    "seconds?|secs?|s": 1.0,
    "minutes?|mins?|m": 60.0,
    "hours?|hrs?|h": 3600.0,
    "days?|d": 86_400.0,
}
_NUMBER = r"(?P<number>\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})"
_WORDED_WAIT = _NUMBER + r"\s{0,3}(?:" + "|".join(f"({words})" for words in _WORDS) + r")(?![^\W\d_])"
_BETWEEN = r"(?:\s{0,3}(?:,|and\b)?){0,2}\s{0,3}"
_AFTER = r"[.,;:!?)\]'\"]{0,3}(?:\s|$)"
_BARE = _NUMBER + r"(?:\s{0,3}$|[.;:!?)\]'\"]{1,3}(?:\s|$))"


def parse_duration(text: str | None) -> float | None:
    """Return the seconds of a Go duration (``2m59.56s``, ``120ms``) or of a plain number of seconds.

    Example:
        >>> parse_duration("2m59.56s"), parse_duration("120ms"), parse_duration("7"), parse_duration("soon")
        (179.56, 0.12, 7.0, None)
    """
    if text is None:
        return None
    if usual := _USUAL_DURATION.fullmatch(text):
        hours, minutes, seconds = usual.groups()
        if minutes is hours is None:
            return float(seconds)
        return float(hours or 0) * 3600.0 + float(minutes or 0) * 60.0 + float(seconds)
    text = text.strip()
    if not text or len(text) > 64:
        return None
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    total, end = 0.0, 0
    for match in _DURATION_PART.finditer(text):
        if match.start() != end:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        end = match.end()
    return total if end == len(text) else None


def parse_wait(text: str) -> float | None:
    """Return the seconds of the wait that *text* begins with; ``None`` if the wait cannot be read completely.

    A number without a unit means seconds, but only at the end of the sentence: a word after it would be an unknown unit.

    Example:
        >>> parse_wait("2m59.56s. Need more?"), parse_wait("2 minutes"), parse_wait("1 hour and 30 minutes."), parse_wait("2 moons")
        (179.56, 120.0, 5400.0, None)
    """
    units = tuple(_WORDS.values())
    total, end, position = 0.0, 0, 0
    text = text[:200]
    while match := re.compile(_WORDED_WAIT, re.IGNORECASE).match(text, position):
        total += float(match["number"]) * next(
            unit for unit, word in zip(units, match.groups()[1:], strict=True) if word
        )
        end = match.end()
        position = end + len(re.match(_BETWEEN, text[end:], re.IGNORECASE)[0])  # type: ignore[index]  # it matches the empty text, too
    if end:
        return total if text[position : position + 1].isdigit() is False and re.match(_AFTER, text[end:]) else None
    bare_number = re.match(_BARE, text)
    return float(bare_number["number"]) if bare_number else None


def _parse_count(text: str | None) -> int | None:
    """Return the value of a count in a header, or ``None`` if it is not an integer of at most nine digits."""
    text = (text or "")[:40].strip()
    return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else None


_NO_COUNTS = (None,) * 4


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """Return the values of the ``x-ratelimit-*`` headers; ``None`` when there are none.

    This service counts requests per day and tokens per minute. A value that cannot be read is ``None``. So is a reset longer than the
    period of its limit (some servers send an instant), and a reset that the remainder contradicts by half the period or more.
    """
    get = headers.get
    texts = (
        get("x-ratelimit-limit-requests"),
        get("x-ratelimit-remaining-requests"),
        get("x-ratelimit-limit-tokens"),
        get("x-ratelimit-remaining-tokens"),
    )
    if texts == _NO_COUNTS:
        return None
    counts: list[int | None] = []
    for text in texts:
        # Nearly all counts are plain; this is a hot path.
        is_plain = text is not None and len(text) < 10 and text.isdigit() and text.isascii()
        counts.append(int(text) if is_plain else _parse_count(text))  # type: ignore[arg-type]  # not None
    limit_requests, remaining_requests, limit_tokens, remaining_tokens = counts
    reset_requests = parse_duration(get("x-ratelimit-reset-requests"))
    reset_tokens = parse_duration(get("x-ratelimit-reset-tokens"))
    # A bucket refills continuously, so the remainder and the time until it is full tell the same thing twice. Nearly all headers agree.
    if not (
        limit_requests
        and remaining_requests is not None
        and reset_requests is not None
        and remaining_requests <= limit_requests
        and reset_requests <= _DAY
        and 0.5 < reset_requests / _DAY + remaining_requests / limit_requests < 1.5
    ):
        remaining_requests, reset_requests = _drop_contradictory_reset(
            limit_requests, remaining_requests, reset_requests, _DAY
        )
    if not (
        limit_tokens
        and remaining_tokens is not None
        and reset_tokens is not None
        and remaining_tokens <= limit_tokens
        and reset_tokens <= _MINUTE
        and 0.5 < reset_tokens / _MINUTE + remaining_tokens / limit_tokens < 1.5
    ):
        remaining_tokens, reset_tokens = _drop_contradictory_reset(
            limit_tokens, remaining_tokens, reset_tokens, _MINUTE
        )
    retry_after = get("retry-after")
    return RateLimitInfo(
        limit_requests=limit_requests,
        remaining_requests=remaining_requests,
        reset_requests=reset_requests,
        limit_tokens=limit_tokens,
        remaining_tokens=remaining_tokens,
        reset_tokens=reset_tokens,
        retry_after=None if retry_after is None else _bounded_wait(parse_duration(retry_after)),
    )


def _drop_contradictory_reset(
    limit: int | None, remaining: int | None, reset: float | None, period: float
) -> tuple[int | None, float | None]:
    """Return the remainder of a limit and its reset, without a reset that is too long or contradicts the remainder."""
    if limit is not None and remaining is not None:
        remaining = min(remaining, limit)
    if reset is None or reset > period * 1.01:
        return remaining, None
    reset = min(reset, period)  # rounding
    if limit and remaining is not None and abs(reset / period - 1 + remaining / limit) >= 0.5:
        return remaining, None
    return remaining, reset


def _bounded_wait(seconds: float | None) -> float | None:
    return None if seconds is None or seconds >= _MIN_UNIX_TIME else min(seconds, MAX_HINT)


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that a server asks the client to wait; ``None`` if it does not, or not readably.

    ``retry-after-ms`` comes first, then ``retry-after``: seconds (whole or with a fraction), a Go duration, a number with a unit in words,
    a Unix time in seconds or milliseconds, or an HTTP date. An instant is compared with the answer's own ``date`` header, so that a wrong
    local clock does no harm. If the header was sent twice, the longer wait counts. Waits are cut at :data:`MAX_HINT`.

    Args:
        headers: Case-insensitive header fields.
        now: The current time, used if there is no ``date`` header.
    """
    milliseconds = (headers.get("retry-after-ms") or "").strip()
    if _PLAIN_NUMBER.fullmatch(milliseconds):
        amount = float(milliseconds)
        return min(max(0.0, amount / 1000 - (now.timestamp() if amount >= _MIN_UNIX_TIME_MS else 0.0)), MAX_HINT)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = parse_duration(text)
    if seconds is None or seconds >= _MIN_UNIX_TIME:
        server_date = _http_date(headers.get("date")) or now
        waits = [_wait_until(part, server_date) for part in _split_field(text)]
        known = [wait for wait in waits if wait is not None]
        if not waits or len(known) < len(waits):
            return None
        seconds = max(known)
    return min(seconds, MAX_HINT) if math.isfinite(seconds) else None


def _split_field(text: str) -> list[str]:
    """Split a field that was sent several times into its values. The comma inside an HTTP date does not count."""
    parts = [part.strip() for part in text[:200].split(",")]
    if len(parts) == 1 or parts[0].isalpha():
        return [", ".join(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts


def _wait_until(text: str, now: datetime) -> float | None:
    seconds = parse_duration(text)
    if seconds is None:
        seconds = parse_wait(text)
    if seconds is None:
        then = _http_date(text)
        return None if then is None else max(0.0, (then - now) / timedelta(seconds=1))
    if seconds < _MIN_UNIX_TIME:
        return seconds
    return max(0.0, (seconds / 1000 if seconds >= _MIN_UNIX_TIME_MS else seconds) - now.timestamp())


def _http_date(text: str | None) -> datetime | None:
    if not text or len(text) > 64:
        return None
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the id that the service gave to the request, cut to 200 characters."""
    sent_id = headers.get("x-request-id")
    return sent_id[:200] if sent_id else None
