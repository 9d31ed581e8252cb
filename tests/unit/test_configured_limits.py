"""A configured limit is enforced, whatever the service says of its own."""

import random
from contextlib import ExitStack

import pytest
from support.fakes import FakeClock
from support.limiter_kinds import KINDS, MODEL, SHARED_KINDS

from groq_provider.config import RateLimits
from groq_provider.errors import RateLimitedError
from groq_provider.ratelimit.bucket import DIMENSIONS, SECOND
from groq_provider.types.response import RateLimitInfo, Usage

LIMIT = 20
#: The service's limits, in requests or tokens: more than any test uses.
SERVICE = 14_400


def _nothing(_limit, _random):
    return None, None


def _full(_limit, _random):
    return RateLimitInfo(**_headers(SERVICE, SERVICE, 0.0)), None


def _used(_limit, _random):
    return RateLimitInfo(**_headers(SERVICE, SERVICE - 1, 6.0)), None


def _same_size(limit, _random):
    return RateLimitInfo(**_headers(limit, limit, 0.0)), None


def _no_reset(limit, _random):
    return RateLimitInfo(**_headers(SERVICE, SERVICE - 1, None)), None


def _no_remaining(limit, _random):
    return RateLimitInfo(**_headers(SERVICE, None, 0.5)), None


def _no_limit(limit, _random):
    return RateLimitInfo(**_headers(None, SERVICE, 0.0)), None


def _to_and_fro(limit, rng):
    """Others come and go: the service's bucket is empty at one time and full at another."""
    size = rng.choice([limit // 2, limit, SERVICE])
    left = rng.choice([0, 1, size // 2, size])
    return RateLimitInfo(**_headers(size, left, rng.choice([None, 0.0, 3.0, 60.0]))), None


def _refused(name):
    """The service refuses for its own, larger limit."""

    def says(_limit, rng):
        used = rng.choice([None, 0, SERVICE // 2, SERVICE])
        error = RateLimitedError("no", limit_name=name.upper(), limit=SERVICE, used=used, retry_after=0.0)
        return RateLimitInfo(**_headers(SERVICE, SERVICE, 0.0)), error

    return says


def _headers(limit, remaining, reset):
    return {
        f"{what}_{of}": value
        for of in ("requests", "tokens")
        for what, value in (("limit", limit), ("remaining", remaining), ("reset", reset))
    }


HEADERS = {
    "none": _nothing,
    "full": _full,
    "used": _used,
    "same-size": _same_size,
    "no-reset": _no_reset,
    "no-remaining": _no_remaining,
    "no-limit": _no_limit,
    "to-and-fro": _to_and_fro,
    "refused": None,
}


@pytest.fixture(params=[*KINDS, *SHARED_KINDS])
def make_limiter(request):
    """Makes a limiter of limits and a clock, kept where the parameter says."""
    with ExitStack() as cleanup:
        yield lambda limits, clock: {**KINDS, **SHARED_KINDS}[request.param](limits, clock, cleanup)


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize(
    "share", [pytest.param(0.3, marks=pytest.mark.full), pytest.param(0.97, marks=pytest.mark.full), 1.0]
)
@pytest.mark.parametrize("name", DIMENSIONS)
def test_configured_limit_holds(make_limiter, name, share, headers):
    """In no time does more go out than the limit at once and its rate since, of requests or of tokens at their share."""
    rng = random.Random(f"{name} {share} {headers}")
    clock = FakeClock()
    limiter = make_limiter(RateLimits(**{name: LIMIT}, share=share), clock)
    says = HEADERS[headers] or _refused(name)
    dimension = DIMENSIONS[name]
    most = LIMIT if dimension.unit == "requests" else int(LIMIT * share)
    begun, used, open_ = clock.monotonic(), 0, []
    for _ in range(60):
        place = limiter.try_reserve(MODEL, prompt_tokens=1, max_output_tokens=1)
        if place is not None:
            used += {"requests": 1, "input tokens": 1, "output tokens": 1, "tokens": 2}[dimension.unit]
            open_.append(place)
        while open_ and (place is None or rng.random() < 0.7):
            ended = open_.pop(rng.randrange(len(open_)))
            ended.feedback(*says(LIMIT, rng))
            ended.settle(Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))
        if rng.random() < 0.2:
            clock.advance(dimension.period / SECOND / 40)
        since = (clock.monotonic() - begun) / (dimension.period / SECOND)
        assert used <= most * (1 + since) + 1e-6
    if headers not in {"same-size", "to-and-fro", "refused"}:  # which name smaller limits, or close the gate
        assert used >= most - 2  # and it is there to be used


def test_larger_service_takes_nothing(make_limiter):
    """Half of the service's day is used by others: all of a small limit of ours is left, and the next minute, too."""
    clock = FakeClock()
    limiter = make_limiter(RateLimits(rpd=5), clock)
    half = RateLimitInfo(limit_requests=SERVICE, remaining_requests=SERVICE // 2, reset_requests=43_200.0)
    for _ in range(5):
        place = limiter.try_reserve(MODEL, prompt_tokens=1, max_output_tokens=1)
        place.feedback(half)
        place.keep()
    assert limiter.try_reserve(MODEL, prompt_tokens=1, max_output_tokens=1) is None


def test_smaller_rest_counts(make_limiter):
    """Of a larger limit of the service less is left than of ours: no more goes out than that."""
    clock = FakeClock()
    limiter = make_limiter(RateLimits(rpd=5), clock)
    place = limiter.try_reserve(MODEL, prompt_tokens=1, max_output_tokens=1)
    place.feedback(RateLimitInfo(limit_requests=SERVICE, remaining_requests=2, reset_requests=86_388.0))
    place.keep()
    places = [limiter.try_reserve(MODEL, prompt_tokens=1, max_output_tokens=1) for _ in range(4)]
    assert [place is not None for place in places] == [True, True, False, False]


def test_learned_limit_only_lowers(make_limiter):
    """A limit that the service names lowers a configured one and heals; nothing raises it."""
    clock = FakeClock()
    limiter = make_limiter(RateLimits(tpm=1000), clock)
    seen = []
    for limit in (5000, 400, 800, 5000):
        limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1).feedback(
            RateLimitInfo(limit_tokens=limit, remaining_tokens=limit, reset_tokens=0.0)
        )
        seen.append(limiter.get_status()[MODEL].windows["tpm"].limit)
    assert seen == [1000, 400, 800, 1000]
