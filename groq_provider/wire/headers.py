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

__all__ = [
    "MAX_FIGURE",
    "MAX_HINT",
    "parse_duration",
    "parse_rate_limit",
    "parse_retry_after",
    "parse_wait",
    "request_id",
]

#: Longest hint that is believed, in seconds. Maintenance may take days; limits have no longer period than one.
MAX_HINT = 7 * 86_400.0
#: A limit above that is none, nor is what is left of it.
MAX_FIGURE = 999_999_999

#: A number of seconds above that is an instant of Unix time (of 2017 or later), and above the other in milliseconds.
_INSTANT, _INSTANT_MS = 1.5e9, 1.5e12
_MINUTE, _DAY = 60.0, 86_400.0

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PIECE = re.compile(r"(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(h|ms|m|us|µs|μs|ns|s)")
#: Nearly all durations of the service: ``7.66s``, ``2m59.56s``.
_USUAL = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(\d{1,9}(?:\.\d{0,9})?)s")
_PLAIN = re.compile(r"\d{1,15}(?:\.\d{0,15})?|\.\d{1,15}")

# Waits in sentences, compiled on first use: most programs meet few.
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
_SPOKEN = _NUMBER + r"\s{0,3}(?:" + "|".join(f"({words})" for words in _WORDS) + r")(?![^\W\d_])"
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
    if usual := _USUAL.fullmatch(text):
        hours, minutes, seconds = usual.groups()
        if minutes is hours is None:
            return float(seconds)
        return float(hours or 0) * 3600.0 + float(minutes or 0) * 60.0 + float(seconds)
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


def parse_wait(text: str) -> float | None:
    """Return the seconds of a wait with which a sentence goes on; ``None`` for what cannot be read whole.

    A number without a unit is seconds, at the end of the sentence only: what else follows is a unit nobody knows.

    Example:
        >>> parse_wait("2m59.56s. Need more?"), parse_wait("2 minutes"), parse_wait("1 hour and 30 minutes."), parse_wait("2 moons")
        (179.56, 120.0, 5400.0, None)
    """
    units = tuple(_WORDS.values())
    total, end, at = 0.0, 0, 0
    text = text[:200]
    while found := re.compile(_SPOKEN, re.IGNORECASE).match(text, at):
        total += float(found["number"]) * next(
            unit for unit, word in zip(units, found.groups()[1:], strict=True) if word
        )
        end = found.end()
        at = end + len(re.match(_BETWEEN, text[end:], re.IGNORECASE)[0])  # type: ignore[index]  # it matches nothing, too
    if end:
        return total if text[at : at + 1].isdigit() is False and re.match(_AFTER, text[end:]) else None
    bare = re.match(_BARE, text)
    return float(bare["number"]) if bare else None


def _integer(text: str | None) -> int | None:
    """Return a count that a limit can have."""
    if text is None:
        return None
    if len(text) < 10 and text.isdigit() and text.isascii():
        return int(text)
    text = text[:40].strip()
    return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else None


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """Return what the ``x-ratelimit-*`` headers say; ``None`` when there are none.

    On this service requests are counted per day and tokens per minute. What cannot be read is ``None``; so is a reset beyond the period
    of its limit (an instant instead of a duration), and one that what is left of the limit contradicts by half the period or more.
    """
    get = headers.get
    limit_requests, limit_tokens = get("x-ratelimit-limit-requests"), get("x-ratelimit-limit-tokens")
    remaining_requests, remaining_tokens = get("x-ratelimit-remaining-requests"), get("x-ratelimit-remaining-tokens")
    if limit_requests is limit_tokens is remaining_requests is remaining_tokens is None:
        return None
    requests, requests_left = _integer(limit_requests), _integer(remaining_requests)
    tokens, tokens_left = _integer(limit_tokens), _integer(remaining_tokens)
    reset_requests = parse_duration(get("x-ratelimit-reset-requests"))
    reset_tokens = parse_duration(get("x-ratelimit-reset-tokens"))
    # A bucket fills all the time: what is left and the time until it is full are two words for one thing. Nearly all headers agree.
    if not (
        requests
        and requests_left is not None
        and reset_requests is not None
        and requests_left <= requests
        and reset_requests <= _DAY
        and 0.5 < reset_requests / _DAY + requests_left / requests < 1.5
    ):
        requests_left, reset_requests = _reconciled(requests, requests_left, reset_requests, _DAY)
    if not (
        tokens
        and tokens_left is not None
        and reset_tokens is not None
        and tokens_left <= tokens
        and reset_tokens <= _MINUTE
        and 0.5 < reset_tokens / _MINUTE + tokens_left / tokens < 1.5
    ):
        tokens_left, reset_tokens = _reconciled(tokens, tokens_left, reset_tokens, _MINUTE)
    retry_after = get("retry-after")
    return RateLimitInfo(
        limit_requests=requests,
        remaining_requests=requests_left,
        reset_requests=reset_requests,
        limit_tokens=tokens,
        remaining_tokens=tokens_left,
        reset_tokens=reset_tokens,
        retry_after=None if retry_after is None else _believed(parse_duration(retry_after)),
    )


def _reconciled(
    limit: int | None, left: int | None, reset: float | None, period: float
) -> tuple[int | None, float | None]:
    """Return what is left of a limit and the time until it is full, as far as they can be that."""
    if limit is not None and left is not None:
        left = min(left, limit)
    if reset is None or reset > period * 1.01:
        return left, None
    reset = min(reset, period)  # rounding
    if limit and left is not None and abs(reset / period - 1 + left / limit) >= 0.5:
        return left, None
    return left, reset


def _believed(seconds: float | None) -> float | None:
    return None if seconds is None or seconds >= _INSTANT else min(seconds, MAX_HINT)


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds a server asks to wait, in whichever form it says so.

    ``retry-after-ms``, then ``retry-after`` as seconds (whole or fraction), Go duration, number with a unit in words, Unix time in
    seconds or milliseconds, or HTTP date; instants are held against the answer's own ``date`` header, so that a wrong local clock does no
    harm. Of a doubled header the longer wait counts. Negative, infinite or unreadable values count as not said; more than
    :data:`MAX_HINT` is cut.

    Args:
        headers: Case-insensitive header fields.
        now: Stands in for a missing ``date`` header.
    """
    milliseconds = (headers.get("retry-after-ms") or "").strip()
    if _PLAIN.fullmatch(milliseconds):
        wait = float(milliseconds)
        return min(max(0.0, wait / 1000 - (now.timestamp() if wait >= _INSTANT_MS else 0.0)), MAX_HINT)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = parse_duration(text)
    if seconds is None or seconds >= _INSTANT:
        own = _http_date(headers.get("date")) or now
        waits = [_wait_until(part, own) for part in _single(text)]
        known = [wait for wait in waits if wait is not None]
        if not waits or len(known) < len(waits):
            return None
        seconds = max(known)
    return min(seconds, MAX_HINT) if math.isfinite(seconds) else None


def _single(text: str) -> list[str]:
    """Return the values of a field that may have been sent several times. An HTTP date has a comma of its own."""
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
    if seconds < _INSTANT:
        return seconds
    return max(0.0, (seconds / 1000 if seconds >= _INSTANT_MS else seconds) - now.timestamp())


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
