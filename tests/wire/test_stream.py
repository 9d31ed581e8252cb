"""Streams, over real sockets against the emulator."""

from __future__ import annotations

import gc
import os
import threading
import time
import urllib.request
from collections import deque
from contextlib import ExitStack

import pytest
from support.fakes import PATIENCE, ShiftedClock
from support.transports import fork, join

from groq_provider import CancelToken, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.testing import Fault, Gate, Reply
from groq_provider.wire.assemble import Assembler

pytestmark = pytest.mark.warm_http2

TEXT = "The quick brown fox jumps over the lazy dog."
NO_RETRY = RetryPolicy(max_retries=0)
QUICK = RetryPolicy(base_delay=0.0, throttle_delay=0.0)
KEYS = {"first_token_latency_ms", "total_latency_ms", "tokens_per_second"}
MODEL = "qwen/qwen3.8-27b"
#: Long enough that a loaded machine does not run into it, where no limit is to be hit.
PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)


@pytest.fixture
def provider(make):
    return make()


@pytest.fixture
def time_to_look(monkeypatch):
    """Who comes late takes in what has come by then, however long a loaded machine takes for that."""
    monkeypatch.setattr("groq_provider.call.stream._GRACE", PATIENCE)


def text_of(chunks):
    return "".join(chunk.content for chunk in chunks)


def in_flight(provider):
    return sum(status.in_flight for status in provider.get_rate_limits().values())


def is_settled(provider):
    """Nothing is under way any more, and every call has left one record."""
    return provider._runtime.in_flight == 0 and in_flight(provider) == 0


def fails(stream, error):
    """Read to the error; return what came before it, and it."""
    chunks: list = []
    with pytest.raises(error) as caught:
        deque(map(chunks.append, stream), maxlen=0)  # keeps what came before it raised
    return chunks, caught.value


# --- whole streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge", "nginx")
def test_chunks_give_answer_once(emulator, provider):
    """The last one adds nothing to the text and tells how it ended."""
    emulator.reply(TEXT)
    with provider.generate_stream("x") as stream:
        chunks = list(stream)
    assert text_of(chunks) == TEXT == stream.response.content
    *deltas, last = chunks
    assert last.content == ""
    assert last.finish_reason == "stop"
    assert last.usage.source == "reported"
    assert set(last.provider_metadata) == KEYS
    assert all(value is not None for value in last.provider_metadata.values())
    assert all(chunk.content and chunk.finish_reason is None and chunk.usage is None for chunk in deltas)
    assert not any(chunk.provider_metadata for chunk in deltas)


@pytest.mark.over_http2("bridge", "nginx")
def test_ended_stream_has_full_response(emulator, provider):
    """As that of a plain call, with the time to the first token."""
    emulator.reply(TEXT)
    stream = provider.generate_stream("x", max_completion_tokens=100)
    response = stream.collect()
    assert stream.response is response
    assert response.content == TEXT
    assert response.model == MODEL
    assert response.id.startswith("chatcmpl-")
    assert response.request_id.startswith("req_")
    assert response.timing.time_to_first_token > 0
    assert response.timing.total >= response.timing.time_to_first_token
    assert response.timing.tokens_per_second > 0
    assert [attempt.status_code for attempt in response.attempts] == [200]
    assert response.usage.total_tokens > 0
    assert is_settled(provider)
    assert emulator.requests[-1].json["stream"] is True
    assert "stream_options" not in emulator.requests[-1].json
    assert emulator.requests[-1].headers["accept"] == "text/event-stream"


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize(
    "where",
    [
        pytest.param({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}}, id="chunk without choices"),
        pytest.param(
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}},
            id="beside the finish reason",
        ),
        pytest.param({"choices": [], "x_groq": {"id": "req_9", "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}}}, id="x_groq"),
        pytest.param(
            {"choices": [{"index": 0, "delta": {"content": "b"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}},
            id="with content",
        ),
    ],
)  # fmt: skip
def test_usage_counts_wherever_it_comes(emulator, provider, where):
    """Once, also after the finish reason."""
    emulator.enqueue(Reply(chunks=["a", _event(where)], fault=Fault(omit_usage=True)))
    usage = provider.generate_stream("x").collect().usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (3, 7, "reported")


@pytest.mark.over_http2("bridge", "nginx")
def test_missing_usage_is_estimated(emulator, provider):
    """And says so."""
    emulator.enqueue(Reply(TEXT, fault=Fault(omit_usage=True)))
    chunks = list(provider.generate_stream("x"))
    assert chunks[-1].usage.source == "estimated"
    assert chunks[-1].usage.completion_tokens > 5


def _event(data):
    import json

    return b"data: " + json.dumps(data).encode() + b"\n\n"


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize(
    "empty",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": ""},
        {},
        {"content": None},
        {"content": ""},
        {"reasoning": ""},
        _event({"choices": [{"index": 0, "delta": None, "finish_reason": None}]}),
        _event({"choices": []}),
        _event({"novel": 1}),
        b": comment\n\n",
        b"event: ping\n\n",
        b"id: 7\nretry: 10\n\n",
    ],
    ids=str,
)
def test_textless_events_are_not_yielded(emulator, provider, empty):
    """Events without text are not yielded; they neither raise nor show."""
    emulator.enqueue(Reply(chunks=["a", empty, "b"]))
    assert [chunk.content for chunk in provider.generate_stream("x")] == ["a", "b", ""]


@pytest.mark.over_http2("bridge", "nginx")
def test_tool_calls_are_assembled(emulator, provider):
    """Fragments by index; the whole ones are on the response."""
    fragments = [
        {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "add", "arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 1, "id": "call_b", "type": "function", "function": {"name": "sub", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]  # fmt: skip
    emulator.enqueue(Reply(chunks=fragments, finish_reason="tool_calls"))
    stream = provider.generate_stream("x")
    chunks = list(stream)
    assert [len(chunk.tool_calls) for chunk in chunks] == [1, 1, 1, 0]
    assert chunks[-1].finish_reason == "tool_calls"
    first, second = stream.response.tool_calls
    assert (first.id, first.name, first.parse()) == ("call_a", "add", {"x": 1})
    assert (second.id, second.name, second.parse()) == ("call_b", "sub", {})


@pytest.mark.over_http2("bridge", "nginx")
def test_reasoning_is_kept_apart(emulator, provider):
    """Its own field; it ends the wait for the first token."""
    emulator.enqueue(Reply("So: 4.", reasoning="Two and two."))
    stream = provider.generate_stream("x")
    chunks = list(stream)
    assert text_of(chunks) == "So: 4."
    assert "".join(chunk.reasoning or "" for chunk in chunks) == "Two and two." == stream.response.reasoning


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_byte_cuts_do_not_matter(emulator, provider, newline, size):
    """The cut of the bytes does not matter: HTTP chunks of any size, every line end, comments between."""
    emulator.enqueue(Reply("Grüße, 世界! 🎉", fault=Fault(chunk_bytes=size, newline=newline, comments=True)))
    assert text_of(provider.generate_stream("x")) == "Grüße, 世界! 🎉"


@pytest.mark.over_http2("bridge", "nginx")
def test_json_answer_becomes_stream(emulator, provider):
    """A JSON answer to a stream request is taken: one chunk with everything, then the last one."""
    emulator.enqueue(Reply(TEXT, fault=Fault(payload="json")))
    stream = provider.generate_stream("x")
    assert next(stream).content == TEXT == stream.partial.content
    assert stream.partial.usage == stream.response.usage
    assert stream.partial.finish_reason is None
    assert [chunk.content for chunk in stream] == [""]
    assert stream.response.content == TEXT
    emulator.enqueue(Reply(tool_calls=[{"name": "add", "arguments": {"x": 1}}], fault=Fault(payload="json")))
    stream = provider.generate_stream("x")
    first, last = list(stream)
    assert first.tool_calls[0].name == "add"
    assert last.finish_reason == "tool_calls"
    assert stream.response.tool_calls[0].parse() == {"x": 1}
    assert is_settled(provider)


@pytest.mark.over_http2("bridge", "nginx")
def test_broken_utf8_replaced_and_counted(emulator, provider):
    """The JSON around it holds."""
    emulator.enqueue(Reply(chunks=["a", b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n', "b"]))
    stream = provider.generate_stream("x")
    assert text_of(stream) == "a�b"
    assert stream.decode_errors == 1


@pytest.mark.over_http2("bridge", "nginx")
def test_missing_finish_reason_can_pass(emulator, make):
    """A server that never sends a finish reason can be used with require_finish_reason=False; the end mark ends."""
    lenient = make(require_finish_reason=False)
    emulator.enqueue(Reply(TEXT, fault=Fault(omit_finish_reason=True)))
    response = lenient.generate_stream("x").collect()
    assert (response.content, response.finish_reason) == (TEXT, None)
    emulator.enqueue(Reply(TEXT, fault=Fault(omit_finish_reason=True, omit_done=True)))
    _, error = fails(lenient.generate_stream("x"), e.StreamInterruptedError)
    assert error.partial.content == TEXT


# --- connections -------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
def test_connection_serves_after_end(emulator, provider, unhurried):
    """Many streams, one connection."""
    before = emulator.connections
    for _ in range(20):
        provider.generate_stream("x").collect()
    assert emulator.connections - before == 1


@pytest.mark.over_http2("bridge", "nginx")
def test_open_body_delays_nothing(emulator, provider):
    """The end mark ends the answer; the connection is dropped."""
    fault = Fault(hold_open=True)
    emulator.enqueue(Reply(TEXT, fault=fault))
    started = time.monotonic()
    assert provider.generate_stream("x").collect().content == TEXT
    assert time.monotonic() - started < PATIENCE / 4
    assert emulator.wait_until(lambda emulator: not emulator.open_connections)
    fault.release()


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("framing", [None, "close-delimited"], ids=["chunked", "close-delimited"])
def test_chunk_precedes_next_send(emulator, provider, framing):
    """The server waits for the reader after each: nothing is held back."""
    gate = Gate()
    words = ["one", " two", " three"]
    emulator.enqueue(Reply(chunks=words, gate=gate, fault=Fault(framing=framing)))
    gate.release(2)  # the role chunk and the first word
    with provider.generate_stream("x") as stream:
        for index, word in enumerate(words):
            assert stream.poll(PATIENCE)
            assert next(stream).content == word
            assert gate.wait_for(index + 2)
            assert not stream.poll(0)
            gate.release()
        gate.open()
        assert next(stream).finish_reason == "stop"


@pytest.mark.over_http2("bridge")
def test_poll_shows_if_next_waits(emulator, provider):
    """A chunk, the end, an error: ready; silence: not."""
    gate = Gate()
    emulator.enqueue(Reply("word", gate=gate))
    with provider.generate_stream("x") as stream:
        assert stream.poll(0) is False
        gate.open()
        contents = []
        while stream.poll(PATIENCE):
            chunk = next(stream, None)
            if chunk is None:
                break
            contents.append(chunk.content)
        assert contents == ["word", ""]
        assert stream.poll(0) is True


@pytest.mark.over_http2("bridge", "nginx")
def test_poll_hears_of_time_limits(emulator, make):
    """A reader that only polls does not wait for ever."""
    fault = Fault(stall_after_events=2)
    emulator.enqueue(Reply(TEXT, fault=fault))
    with make(timeout=Timeouts(idle=0.1)).generate_stream("x") as stream:
        next(stream)
        assert stream.poll(PATIENCE) is True
        with pytest.raises(e.StreamIdleTimeoutError):
            next(stream)
    fault.release()


def until_late(stream):
    """Return when the limit for the next event has passed."""
    deadline = stream._call.scope.deadline
    while time.monotonic() <= deadline:
        time.sleep(0.01)


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("limit", ["first_token", "idle"])
@pytest.mark.parametrize("again", [False, True], ids=["read", "polled again"])
def test_readers_absence_is_no_silence(emulator, make, limit, again, time_to_look):
    """After a look in vain, absence of the reader is no silence: chunks that came by its return are taken in."""
    clock, gate = ShiftedClock(), Gate()
    emulator.enqueue(Reply(chunks=["one", " two"], gate=gate))
    gate.release(2 if limit == "idle" else 1)
    with make(clock=clock).generate_stream("x") as stream:
        if limit == "idle":
            assert next(stream).content == "one"
        else:
            assert stream._wire.ready(PATIENCE)  # the role, which is taken in now: what comes next is text
        assert not stream.poll(0)
        gate.open()
        assert stream._wire.ready(PATIENCE)
        clock.ahead = PATIENCE + 1  # past the limit for the next event
        assert not again or stream.poll(0)
        assert stream.collect().content == "one two"


@pytest.mark.over_http2("bridge", "nginx")
def test_silence_after_vain_look_counts(emulator, make):
    """After a look in vain silence is silence: nothing had come, and the limit has run on."""
    fault = Fault(stall_after_events=2)
    emulator.enqueue(Reply(TEXT, fault=fault))
    with make(timeout=Timeouts(idle=0.2)).generate_stream("x") as stream:
        next(stream)
        assert not stream.poll(0)
        until_late(stream)
        assert stream.poll(0)
        with pytest.raises(e.StreamIdleTimeoutError):
            next(stream)
    fault.release()


@pytest.mark.over_http2("bridge", "nginx")
def test_poll_waits_for_no_retry(emulator, make):
    """Poll waits for no other try: it says that there is something to see to, and next() does that."""
    emulator.enqueue(Reply(TEXT, fault=Fault(cut_after_events=0)), Reply(TEXT))
    with make(retry=RetryPolicy(base_delay=0.0, max_retries=1)).generate_stream("x") as stream:
        assert stream.poll(PATIENCE)
        assert stream.poll(0)
        assert len(emulator.requests) == 1
        assert stream.collect().content == TEXT
        assert len(emulator.requests) == 2
    emulator.enqueue(Reply(TEXT, fault=Fault(cut_after_events=0)))
    with make(retry=RetryPolicy(base_delay=0.0, max_retries=1)).generate_stream("x") as stream:
        assert stream.poll(PATIENCE)
    assert len(emulator.requests) == 3
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 1e300], ids=str)
def test_poll_waits_as_told(emulator, make, timeout):
    """Poll waits as long as it is told, however long that is."""
    gate = Gate()
    emulator.enqueue(Reply(TEXT, gate=gate))
    gate.release()  # the role chunk: nginx keeps a head to itself until something follows
    with make(timeout=Timeouts(first_token=None, idle=None)).generate_stream("x") as stream:
        opener = threading.Timer(0.05, gate.open)
        opener.start()
        assert stream.poll(timeout)
        assert stream.collect().content == TEXT
        opener.join()


@pytest.mark.over_http2("bridge", "nginx")
def test_poll_refuses_non_number(emulator, provider):
    """Poll refuses a timeout that is no number: it would compare with nothing."""
    with provider.generate_stream("x") as stream:
        for wrong in (float("nan"), "1", None, True):
            with pytest.raises(e.InvalidRequestError, match="timeout = "):
                stream.poll(wrong)
        stream.collect()


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("act", ["next", "poll", "rest"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_leaves_parents_stream(emulator, provider, act):
    """It would be missing in the parent, which would not notice."""
    gate = Gate()
    emulator.enqueue(Reply(chunks=["one", " two", " three"], gate=gate))
    gate.release(2)
    with provider.generate_stream("x") as stream:
        assert next(stream).content == "one"
        gate.open()
        assert stream._wire.ready(PATIENCE)

        def child():
            with pytest.raises(RuntimeError, match="belongs to the process"):
                {"next": stream.__next__, "poll": lambda: stream.poll(1), "rest": stream.collect}[act]()
            stream.cancel()
            stream.close()
            return True

        assert join(fork(child)) == 0
        assert stream.collect().content == "one two three"


# --- leaving early -----------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("how", ["close", "break", "exception"])
def test_early_exit_frees_and_settles(emulator, provider, how):
    """Leaving early frees the connection and settles exactly once, with the first token and no failure."""
    gate = Gate()
    emulator.enqueue(Reply("word " * 50, gate=gate))
    gate.release(3)
    if how == "close":
        stream = provider.generate_stream("x")
        next(stream)
        stream.close()
        stream.close()
    elif how == "break":
        with provider.generate_stream("x") as stream:
            for _ in stream:
                break
    else:
        stream = provider.generate_stream("x")
        with pytest.raises(ZeroDivisionError), stream:
            _ = len(next(stream).content) / 0
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)  # not a quiet end: the beginning is not the whole
    assert is_settled(provider)
    gate.open()
    assert emulator.wait_until(lambda emulator: not emulator.open_connections)
    metrics = provider.get_latency_metrics()
    assert (metrics.sample_count, metrics.first_token_count, metrics.error_count) == (1, 1, 0)
    assert stream.partial.content.startswith("word")
    assert stream.partial.finish_reason is None
    with pytest.raises(RuntimeError, match="closed before its end"):
        _ = stream.response


@pytest.mark.over_http2("bridge")
def test_exit_before_token_records_nothing(emulator, provider):
    """Leaving before the first token records nothing: there is no figure."""
    gate = Gate()
    emulator.enqueue(Reply("word", gate=gate))
    provider.generate_stream("x").close()
    gate.open()
    assert is_settled(provider)
    assert provider.get_latency_metrics().sample_count == 0


@pytest.mark.over_http2("bridge", "nginx")
def test_forgotten_stream_warns_and_frees(emulator, provider):
    """The books are closed by the next call: a finalizer may not touch a lock."""
    gate = Gate()
    emulator.enqueue(Reply("word " * 50, gate=gate))
    gate.release(3)
    stream = provider.generate_stream("x")
    next(stream)
    states = list(provider._limiter._models.values())
    with ExitStack() as held:
        for state in states:
            held.enter_context(state._lock)  # as if the collector ran inside of it
        held.enter_context(pytest.warns(ResourceWarning, match=r"unclosed <ResponseStream .* open"))
        del stream
        gc.collect()
    gate.open()
    assert emulator.wait_until(lambda emulator: not emulator.open_connections)
    provider.generate("y")
    assert is_settled(provider)
    assert provider.get_latency_metrics().success_count == 2


@pytest.mark.over_http2("bridge", "nginx")
def test_ended_stream_is_forgotten_silently(emulator, provider):
    """An ended stream is forgotten silently, whether it ended well or not."""
    emulator.enqueue(TEXT, Reply(TEXT, fault=Fault(cut_after_events=3)))
    provider.generate_stream("x").collect()
    with pytest.raises(e.StreamInterruptedError):
        provider.generate_stream("x").collect()
    gc.collect()


@pytest.mark.over_http2("bridge", "nginx")
def test_reading_past_end_gives_nothing(emulator, provider):
    """Reading on after the end gives nothing, or the same failure again."""
    emulator.enqueue(TEXT, Reply(TEXT, fault=Fault(cut_after_events=3)))
    stream = provider.generate_stream("x")
    assert len(list(stream)) > 1
    assert list(stream) == []
    stream = provider.generate_stream("x")
    _, error = fails(stream, e.StreamInterruptedError)
    for again in (lambda: next(stream), lambda: stream.response, stream.collect):
        with pytest.raises(e.StreamInterruptedError) as caught:
            again()
        assert caught.value is error


@pytest.mark.over_http2("bridge", "nginx")
def test_early_response_is_error(emulator, provider):
    """The response before the end is an error; the answer so far is on partial."""
    gate = Gate()
    emulator.enqueue(Reply(chunks=["one", "two"], gate=gate))
    gate.release(2)
    with provider.generate_stream("x") as stream:
        assert stream.partial.content == ""
        next(stream)
        with pytest.raises(RuntimeError, match="has not ended"):
            _ = stream.response
        assert stream.partial.content == "one"
        assert stream.partial.finish_reason is None
        assert stream.partial.usage.source == "estimated"
        gate.open()
        assert stream.collect().content == "onetwo"
        assert stream.partial.content == "onetwo"


# --- broken streams ----------------------------------------------------------------------------------------------------------

#: Role chunk, three words, the last chunk, the end mark.
WORDS = ["one", " two", " three"]


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("kind", ["cut", "reset"])
@pytest.mark.parametrize("count", range(5))
def test_cut_stream_is_never_success(emulator, make, kind, count):
    """A stream cut after any event before the finish reason is never a success; all that had come is on the error."""
    provider = make()
    emulator.enqueue(Reply(chunks=WORDS, fault=Fault(**{f"{kind}_after_events": count})))
    try_stream = lambda: provider.generate_stream("x")  # noqa: E731
    if kind == "reset" and count == 0:
        with pytest.raises((e.StreamInterruptedError, e.APIConnectionError)):
            try_stream().collect()
    else:
        chunks, error = fails(try_stream(), e.StreamInterruptedError)
        assert text_of(chunks) == error.partial.content
        if kind == "cut":
            assert text_of(chunks) == "".join(WORDS[: max(0, count - 1)])
        assert error.partial.finish_reason is None
        assert len(error.attempts) == 1
    assert is_settled(provider)
    assert provider.get_latency_metrics().error_count == 1


@pytest.mark.over_http2("bridge", "nginx")
def test_cut_after_finish_is_complete(emulator, provider):
    """Only the end mark is missing."""
    for fault in (Fault(cut_after_events=5), Fault(omit_done=True)):
        emulator.enqueue(Reply(chunks=WORDS, fault=fault))
        response = provider.generate_stream("x").collect()
        assert (response.content, response.finish_reason) == ("one two three", "stop")


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("framing", [None, "close-delimited"], ids=["chunked", "close-delimited"])
def test_cut_is_whole_or_error(emulator, make, framing):
    """A stream cut at any byte is an error with its text, or whole once its finish reason has come."""
    provider = make()
    emulator.enqueue(Reply(chunks=WORDS), Reply(chunks=WORDS))
    provider.generate_stream("x").collect()
    body = _raw_stream(emulator)
    # A clean end may lack the blank line after the last event; a broken one may not.
    complete = body.index(b"\n\ndata: [DONE]") + (2 if framing is None else 0)
    for at in [*range(0, complete, 61), complete - 3, complete, complete + 1, len(body) - 3]:
        emulator.enqueue(Reply(chunks=WORDS, fault=Fault(framing=framing, cut_at_byte=at)))
        stream = provider.generate_stream("x")
        if at < complete:
            chunks, error = fails(stream, e.StreamInterruptedError)
            assert text_of(chunks) == error.partial.content
            assert "one two three".startswith(error.partial.content)
        else:
            response = stream.collect()
            assert (response.content, response.finish_reason) == ("one two three", "stop")
    assert is_settled(provider)


def _raw_stream(emulator):
    """The body of the newest request, asked for again."""
    request = emulator.requests[-1]
    headers = {"Authorization": request.headers["authorization"], "Content-Type": "application/json"}
    again = urllib.request.Request(emulator.base_url + request.path, request.body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(again) as response:
        return response.read()


@pytest.mark.over_http2("bridge", "nginx", but=("nginx:* chunk size",))
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(Fault(omit_finish_reason=True), e.StreamInterruptedError, id="finish_reason null"),
        pytest.param(Fault(omit_finish_chunk=True), e.StreamInterruptedError, id="no last chunk"),
        pytest.param(Fault(omit_finish_chunk=True, omit_done=True), e.StreamInterruptedError, id="no end at all"),
        pytest.param(Fault(x_groq_error="over capacity", after_events=3), e.StreamInterruptedError, id="x_groq.error"),
        pytest.param(Fault(framing="bad-chunk-size", after_events=3), e.StreamError, id="bad chunk size"),
        pytest.param(Fault(framing="negative-chunk-size", after_events=3), e.StreamError, id="negative chunk size"),
        pytest.param(Fault(framing="long-content-length"), None, id="announced more, but complete"),
        pytest.param(Fault(error_event={"error": {"message": "boom", "status_code": 500}}, after_events=3), e.ProviderUnavailableError, id="error event 500"),
        pytest.param(Fault(error_event={"error": {"message": "boom"}}, after_events=3), e.StreamInterruptedError, id="error event bare"),
        pytest.param(Fault(error_event={"error": {"message": "slow down", "status_code": 429}}, after_events=3), e.RateLimitedError, id="error event 429"),
    ],
)  # fmt: skip
def test_failing_stream_raises_own_error(emulator, provider, fault, error):
    """A stream that goes wrong raises its own error, with the partial, never a success, settled once."""
    emulator.enqueue(Reply(chunks=WORDS, fault=fault))
    stream = provider.generate_stream("x")
    if error is None:
        assert stream.collect().content == "one two three"
    else:
        chunks, raised = fails(stream, error)
        assert text_of(chunks) == raised.partial.content != ""
        assert raised.provider == "groq"
        assert raised.model == MODEL
        assert len(raised.attempts) == 1
        assert provider.get_latency_metrics().error_count == 1
    assert is_settled(provider)


@pytest.mark.over_http2("bridge", "nginx")
def test_refused_tool_call_keeps_error(emulator, provider):
    """A refused tool call in the stream is the same error as without, with all that had arrived."""
    emulator.enqueue(Reply(chunks=WORDS, fault=Fault(error_event=True, after_events=3)))
    chunks, error = fails(provider.generate_stream("x"), e.ToolUseFailedError)
    assert error.failed_generation
    assert error.status_code == 400
    assert error.partial.content == text_of(chunks) == "one two"


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize(
    "bad",
    [b"data: {broken\n\n", b"data: \xff\xfe\n\n", b"data: [1]\n\n", b'data: {"choices": {}}\n\n', b"data: " + b"[" * 5000 + b"\n\n"],
    ids=["not JSON", "not UTF-8", "no object", "wrong type", "deeply nested"],
)  # fmt: skip
@pytest.mark.parametrize("words", [[], ["one"]], ids=["at first", "later"])
def test_unreadable_event_is_protocol_error(emulator, provider, bad, words):
    """Never skipped."""
    emulator.enqueue(Reply(chunks=[*words, bad, "two"]))
    _, error = fails(provider.generate_stream("x"), e.StreamProtocolError)
    assert error.partial.content == "".join(words)
    assert is_settled(provider)


@pytest.mark.over_http2("bridge", "nginx")
def test_an_oversized_line_is_refused(emulator, provider, small_caps):
    """More than the cap in one line."""
    emulator.enqueue(Reply(chunks=["one", b"data: " + b"x" * 1_200_000 + b"\n\n"]))
    _, error = fails(provider.generate_stream("x"), e.ResponseTooLargeError)
    assert error.partial.content == "one"


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("retries", [0, 2], ids=["without retries", "with retries"])
def test_page_instead_of_stream_fails(emulator, make, retries):
    """A page instead of a stream is a clear error: a gateway answered, with status 200."""
    provider = make(retry=RetryPolicy(max_retries=retries, base_delay=0))
    emulator.enqueue(Reply(status=200, body="<html>hi</html>", headers={"content-type": "text/html"}, times=None))
    with pytest.raises(e.StreamProtocolError, match="JSON") as caught:
        provider.generate_stream("x").collect()
    assert len(caught.value.attempts) == (2 if retries else 1)


# --- time limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge", "nginx")
def test_silence_after_chunk_times_out(emulator, make):
    """Silence after the first chunk is an idle timeout, with the partial."""
    fault = Fault(stall_after_events=2)
    emulator.enqueue(Reply(chunks=["one two", " three"], fault=fault))
    chunks, error = fails(make(timeout=Timeouts(idle=0.1)).generate_stream("x"), e.StreamIdleTimeoutError)
    assert text_of(chunks) == error.partial.content == "one two"
    assert isinstance(error, TimeoutError)
    fault.release()


@pytest.mark.over_http2("bridge", "nginx")
def test_comments_never_keep_alive(emulator, make):
    """Comments do not keep a stream alive, only events of data do."""
    pace = threading.Event()  # never set: each comment is sent a moment after the one before
    emulator.enqueue(
        Reply(chunks=["one", *[b": ping\n\n"] * 400, "two"], gate=lambda index: index > 1 and pace.wait(0.02))
    )
    _, error = fails(make(timeout=Timeouts(idle=0.3)).generate_stream("x"), e.StreamIdleTimeoutError)
    assert error.partial.content == "one"


@pytest.mark.over_http2("bridge", "nginx")
def test_textless_events_keep_alive(emulator, make):
    """Events without text keep a stream alive: the service is at work, with nothing to show."""
    clock, gate = ShiftedClock(), Gate()
    quiet = [_event({"choices": []})] * 4
    emulator.enqueue(Reply(chunks=["one", *quiet, "two"], gate=gate))
    gate.release(2)
    with make(clock=clock).generate_stream("x") as stream:
        assert next(stream).content == "one"
        for _ in quiet:
            gate.release()
            assert stream._wire.ready(PATIENCE)
            assert not stream.poll(0)  # it is taken in
            clock.ahead += 0.6 * PATIENCE  # more than the limit, from one to the one after the next
            assert not stream.poll(0)
        gate.open()
        assert stream.collect().content == "onetwo"


@pytest.mark.over_http2("bridge", "nginx", but=("nginx:nothing",))
@pytest.mark.parametrize("count", [0, 1], ids=["nothing", "only the role chunk"])
def test_first_token_has_own_limit(emulator, make, count):
    """The role chunk neither ends it nor starts the idle limit."""
    clock, fault = ShiftedClock(), Fault(stall_after_events=count)
    emulator.enqueue(Reply(TEXT, fault=fault))
    stream = make(clock=clock, timeout=Timeouts(first_token=PATIENCE, idle=0.01)).generate_stream("x")
    assert not count or stream._wire.ready(PATIENCE)
    assert not stream.poll(0.1)
    clock.ahead = PATIENCE + 1
    _, error = fails(stream, e.ReadTimeoutError)
    assert not isinstance(error, e.StreamError)
    assert error.partial.content == ""
    fault.release()


@pytest.mark.over_http2("bridge", "nginx")
def test_total_ends_with_partial(emulator, make):
    """The total ends a stream with its partial, whatever still comes."""
    clock, pace = ShiftedClock(), threading.Event()
    emulator.enqueue(Reply(chunks=["word "] * 500, gate=lambda index: pace.wait(0.02)))
    stream = make(clock=clock).generate_stream("x", timeout=PATIENCE)
    first = next(stream).content
    started = time.monotonic()
    clock.ahead = PATIENCE
    chunks, error = fails(stream, e.DeadlineExceededError)
    assert time.monotonic() - started < PATIENCE / 4
    assert error.partial.content == first + text_of(chunks)
    assert f"{PATIENCE:g} s" in str(error)


@pytest.mark.over_http2("bridge", "nginx")
def test_dripping_stream_ends_at_total(emulator, make):
    """Each read brings something; the clock counts."""
    emulator.enqueue(Reply("word " * 2000, fault=Fault(drip=20, drip_interval=0.01)))
    started = time.monotonic()
    with pytest.raises(e.DeadlineExceededError):
        make().generate_stream("x", timeout=0.6).collect()
    assert 0.6 <= time.monotonic() - started < PATIENCE / 2


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("total", [None, 10 * PATIENCE])
def test_slow_reader_never_times_out(emulator, make, total):
    """The time spent elsewhere is not the service's silence."""
    clock, gate = ShiftedClock(), Gate()
    emulator.enqueue(Reply(chunks=["one", "two"], gate=gate))
    gate.release(2)
    stream = make(clock=clock, timeout=Timeouts(idle=PATIENCE, total=total)).generate_stream("x")
    assert next(stream).content == "one"
    gate.open()
    clock.ahead = PATIENCE + 1
    assert [chunk.content for chunk in stream] == ["two", ""]


@pytest.mark.over_http2("bridge", "nginx")
def test_late_reader_gets_first_chunk(emulator, make, time_to_look):
    """The limit for the first token has passed, but not for want of one."""
    clock = ShiftedClock()
    emulator.enqueue(Reply(TEXT))
    stream = make(clock=clock).generate_stream("x")
    assert stream._wire.ready(PATIENCE)
    clock.ahead = PATIENCE + 1
    assert text_of(stream) == TEXT


# --- retries -----------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(status=503), id="503"),
        pytest.param(Fault(cut_before_headers=True), id="no answer"),
        pytest.param(Fault(cut_after_events=0), id="cut after the headers"),
        pytest.param(Fault(cut_after_events=1), id="cut after the role chunk"),
        pytest.param(Fault(reset_after_events=1), id="reset after the role chunk"),
        pytest.param(Fault(omit_finish_chunk=True, after_events=1, x_groq_error="x"), id="x_groq.error at first"),
        pytest.param(Fault(error_event={"error": {"message": "x", "status_code": 503}}, after_events=1), id="error event at first"),
    ],
)  # fmt: skip
def test_early_failure_repeats_unseen(emulator, make, fault):
    """A failure before the first chunk is repeated unseen: it is on the attempts only."""
    provider = make(retry=QUICK)
    emulator.enqueue(Reply(TEXT, fault=fault) if fault.status is None else fault, TEXT)
    stream = provider.generate_stream("x")
    chunks = list(stream)
    assert text_of(chunks) == TEXT
    assert [chunk.finish_reason for chunk in chunks].count("stop") == 1
    first, second = stream.response.attempts
    assert first.error is not None
    assert (second.number, second.status_code, second.error) == (2, 200, None)
    assert is_settled(provider)
    metrics = provider.get_latency_metrics()
    assert (metrics.success_count, metrics.error_count) == (1, 0)


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize(
    "fault", [Fault(cut_after_events=3), Fault(error_event=True, after_events=3)], ids=["cut", "error"]
)
def test_started_stream_is_not_repeated(emulator, make, fault):
    """A stream is not repeated after the first chunk: the text would come twice."""
    provider = make(retry=QUICK)
    emulator.enqueue(Reply(chunks=WORDS, fault=fault), TEXT)
    _, error = fails(provider.generate_stream("x"), e.GroqProviderError)
    assert len(error.attempts) == 1
    assert len(emulator.requests) == 1


@pytest.mark.over_http2("bridge", "nginx")
def test_stream_retries_end_too(emulator, make):
    """Every attempt is on the error."""
    provider = make(retry=QUICK)
    for _ in range(3):
        emulator.enqueue(Reply(TEXT, fault=Fault(cut_after_events=1)))
    _, error = fails(provider.generate_stream("x"), e.StreamInterruptedError)
    assert [attempt.number for attempt in error.attempts] == [1, 2, 3]
    assert error.partial.content == ""
    assert is_settled(provider)


@pytest.mark.over_http2("bridge", "nginx")
def test_refused_stream_retry_raises_refusal(emulator, make):
    """A retry inside the stream that is refused raises the refusal, with both attempts."""
    provider = make(retry=QUICK)
    emulator.enqueue(Reply(TEXT, fault=Fault(cut_after_events=1)), Fault(status=401))
    _, error = fails(provider.generate_stream("x"), e.AuthenticationError)
    assert [attempt.status_code for attempt in error.attempts] == [200, 401]
    assert is_settled(provider)


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_call_itself_raises_refusal(emulator, provider, status):
    """So that a web view can still choose its status."""
    emulator.enqueue(Fault(status=status))
    with pytest.raises(e.APIStatusError) as caught:
        provider.generate_stream("x")
    assert caught.value.status_code == status
    assert is_settled(provider)


# --- cancelling --------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("framing", [None, "close-delimited"], ids=["chunked", "close-delimited"])
@pytest.mark.parametrize("how", ["stream.cancel", "token", "provider.close"])
@pytest.mark.parametrize("words", [0, 1], ids=["before the first chunk", "after it"])
def test_blocked_reader_can_be_woken(emulator, make, how, words, framing):
    """A blocked reader is woken from another thread at once, with all that had come."""
    provider = make(retry=QUICK)
    gate = Gate()
    emulator.enqueue(Reply(chunks=WORDS, gate=gate, fault=Fault(framing=framing)))
    token = CancelToken()
    gate.release(1 + words)
    stream = provider.generate_stream("x", cancel=token)
    for _ in range(words):
        next(stream)
    ended: list = []

    def read():
        with pytest.raises(e.GroqProviderError) as caught:
            next(stream)
        ended.append((caught.value, time.monotonic()))

    reader = threading.Thread(target=read)
    reader.start()
    assert gate.wait_for(1 + words)
    {"stream.cancel": stream.cancel, "token": token.cancel, "provider.close": provider.close}[how]()
    reader.join(PATIENCE)
    ((error, _),) = ended
    assert type(error) is (e.ProviderClosedError if how == "provider.close" else e.RequestCancelledError)
    assert error.partial.content == "".join(WORDS[:words])
    assert is_settled(provider)
    gate.open()
    assert len(emulator.requests) == 1
    assert "0 calls" in repr(token)


@pytest.mark.over_http2("bridge", "nginx")
def test_cancelled_token_stops_sending(emulator, provider):
    """A cancelled token stops the call before it is sent: nothing goes out."""
    token = CancelToken()
    token.cancel()
    with pytest.raises(e.RequestCancelledError) as caught:
        provider.generate_stream("x", cancel=token)
    assert caught.value.sent is False
    assert emulator.requests == []


@pytest.mark.over_http2("bridge")
def test_one_token_ends_many_streams(emulator, provider):
    """At once."""
    token, gate = CancelToken(), Gate()
    emulator.enqueue(Reply(chunks=WORDS, gate=gate, times=None))
    streams = [provider.generate_stream("x", cancel=token) for _ in range(4)]
    token.cancel()
    for stream in streams:
        fails(stream, e.RequestCancelledError)
    gate.open()
    assert is_settled(provider)


@pytest.mark.over_http2("bridge")
def test_late_cancel_changes_nothing(emulator, provider, unhurried):
    """A cancel after the end changes nothing: the answer is there, and the connection serves the next call."""
    token = CancelToken()
    stream = provider.generate_stream("x", cancel=token)
    response = stream.collect()
    token.cancel()
    stream.cancel()
    assert stream.response is response
    before = emulator.connections
    provider.generate("x")
    assert emulator.connections == before


@pytest.mark.over_http2("bridge", "nginx")
def test_a_stream_shows_its_state(emulator, provider):
    """For the debugger; no text."""
    emulator.enqueue("secret words", Reply("secret", fault=Fault(cut_after_events=2)))
    stream = provider.generate_stream("x")
    assert "open, 0 chunks" in repr(stream)
    stream.collect()
    assert "complete" in repr(stream)
    failed = provider.generate_stream("x")
    fails(failed, e.StreamInterruptedError)
    assert "failed" in repr(failed)
    assert "secret" not in repr(stream) + repr(failed)


@pytest.mark.over_http2("bridge", "nginx")
def test_interrupt_between_chunks_closes_stream(emulator, provider, monkeypatch):
    """The chunk it struck at is missing: whoever reads on must not get the rest for the whole."""
    emulator.enqueue(Reply(chunks=[f"{number} " for number in range(20)]))
    stream = provider.generate_stream("x")
    again, calls = Assembler.reuse_template, []

    def struck(self, data):
        calls.append(data)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return again(self, data)

    monkeypatch.setattr(Assembler, "reuse_template", struck)
    with pytest.raises(KeyboardInterrupt):
        deque(stream, maxlen=0)
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)
    assert is_settled(provider)
