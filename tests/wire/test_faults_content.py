"""The fault matrix, cases 41 to 71: what is inside the body, and every status. The ids are those of the matrix.

A server answers each request of a call with the next entry of a case; a fake clock stands still but for the waits of the library, so
that what the limiter counts and how long it waits are exact.
"""

from __future__ import annotations

import pytest
from support.content_faults import (
    CONTENT,
    FINE,
    FULL,
    KEY,
    MODEL,
    PROMPT,
    ROLE,
    SECRETS,
    STATUSES,
    WORDS,
    Case,
    Step,
    bench,
    chunked,
    refused,
    reserved,
    run,
    status,
)
from support.fakes import PATIENCE
from support.servers import chunk, serving

from groq_provider import GroqProvider, RateLimits, Timeouts
from groq_provider import errors as e

pytestmark = [pytest.mark.usefixtures("nothing_secret_is_said"), pytest.mark.secrets(*SECRETS)]

# --- a case ------------------------------------------------------------------------------------------------------------------


# --- 41 to 59: event streams and JSON ----------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("case", CONTENT, ids=lambda case: case.id)
def test_content_case_ends_as_expected(case, small_caps):
    """Cases 41 to 59: the answer, or the error with what had come; counted, settled and recorded once."""
    run(case)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"], ids=["lf", "cr", "crlf"])
def test_45_complete_event_goes_out(newline):
    """A complete event is not held back while the server is silent, whatever may still belong to its line end."""
    body = (ROLE + WORDS[0]).replace(b"\n", newline)
    if newline == b"\r\n":
        body = body[:-1]  # the LF of the last CRLF never comes
    case = Case(id="45", steps=[Step(chunked(body)[:-1], end="hang", kept=False)])
    with bench(case) as made, made.provider.generate_stream(PROMPT) as stream:
        assert next(stream).content == "one"


@pytest.mark.over_http2("bridge")
def test_46_only_data_keeps_alive():
    """A peer that sends comments and nothing else is silent."""

    def handler(sock, server):
        server.read(sock)
        for part in chunked(ROLE, WORDS[0])[:-1]:
            sock.sendall(part)
        while not server.released.wait(0.02):
            sock.sendall(chunk(b": ping\n\n"))

    with serving(handler) as server, GroqProvider(api_key=KEY, base_url=server.url, default_model=MODEL) as provider:
        stream = provider.generate_stream(PROMPT, timeout=Timeouts(first_token=PATIENCE, idle=0.3))
        assert next(stream).content == "one"
        with pytest.raises(e.StreamIdleTimeoutError) as caught:
            next(stream)
        assert caught.value.partial.content == "one"


# --- 60 to 71: statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("case", STATUSES, ids=lambda case: case.id)
def test_status_case_ends_as_expected(case):
    """Cases 60 to 71: the class, tried again or not and when, the tokens given back, the connection kept."""
    run(case)


@pytest.mark.over_http2("bridge")
def test_63_reset_headers_delay_retry():
    """Without hint and text the reset headers hold the retry back: they tell the limiter when tokens fit again."""
    headers = ["x-ratelimit-limit-tokens: 1000", "x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 1m0s"]
    case = Case(
        id="63", steps=[Step(status(429, FULL, *headers), "T"), FINE], settings={"rate_limits": RateLimits(share=1.0)}
    )
    with bench(case) as made:
        made.call()
        fits = 60 * reserved() / 1000
        assert fits * 0.9 <= made.times[1] - made.times[0] <= fits * 1.4


@pytest.mark.over_http2("bridge")
def test_71_server_cannot_refill_budget():
    """The server cannot refill the budget of retries, however often it asks for one."""
    refusal = Step(status(400, None, "x-should-retry: true"), "T")
    case = Case(id="71", stream=False, steps=[refusal] * 100)
    with bench(case) as made:
        for _ in range(10):
            with pytest.raises(e.InvalidRequestError) as caught:
                made.call()
        assert len(made.server.requests) == 10 + 7
        assert len(caught.value.attempts) == 1


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_70_nothing_follows_redirect(code):
    """Nothing is sent to where a redirect points, neither key nor body, whether host or port is another."""

    def handler(sock, server):
        server.read(sock)

    with serving(handler) as elsewhere:
        case = refused("70", code, e.RedirectRefusedError, b"", f"Location: {elsewhere.url}/openai/v1/chat/completions")
        run(case)
        assert elsewhere.connections == 0
