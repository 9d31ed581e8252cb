"""A stream has one reader at a time: a second one gets an error at once, and the words stay whole and in order."""

from __future__ import annotations

import threading

import pytest
from support.bench import Bench, chunk, streamed
from support.fakes import PATIENCE, wait_for

from groq_provider import errors as e

END = b"data: [DONE]\n\n"


class Held:
    """A read that lasts until it is told, or until the call is cancelled, as a socket's does."""

    def __init__(self, piece):
        self.piece = piece
        self.reached, self.over = threading.Event(), threading.Event()
        self.stream = None

    def __call__(self):
        self.stream._scope.subscribe(self.over.set)
        self.reached.set()
        assert self.over.wait(PATIENCE)
        if self.stream._scope.cancelled:
            raise e.APIConnectionError("the socket was shut down", sent=True)
        return self.piece


def held_stream():
    """A stream whose third read waits."""
    held = Held(chunk("two", finish="stop") + END)
    bench = Bench(streamed(chunk("one "), held))
    stream = held.stream = bench.stream()
    assert next(stream).content == "one "
    return bench, stream, held


def reading(stream):
    """Read in a thread of its own; what comes of it."""
    found = []

    def read():
        try:
            found.append(next(stream))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, found


@pytest.mark.parametrize("how", ["next", "poll", "collect"])
def test_second_reader_is_refused(how):
    """At once, and the first one notices nothing."""
    _, stream, held = held_stream()
    thread, found = reading(stream)
    assert held.reached.wait(PATIENCE)
    with pytest.raises(RuntimeError, match="another thread is reading this stream just now"):
        {"next": lambda: next(stream), "poll": stream.poll, "collect": stream.collect}[how]()
    assert thread.is_alive()
    held.over.set()
    thread.join(PATIENCE)
    assert found[0].content == "two"
    assert stream.collect().content == "one two"


@pytest.mark.parametrize("how", ["close", "cancel", "with"])
def test_reader_ends_when_closed_elsewhere(how):
    """At once, with what had come; and all is accounted for."""
    bench, stream, held = held_stream()
    thread, found = reading(stream)
    assert held.reached.wait(PATIENCE)
    {"close": stream.close, "cancel": stream.cancel, "with": lambda: stream.__exit__(None, None, None)}[how]()
    thread.join(PATIENCE)
    (error,) = found
    assert type(error) is e.RequestCancelledError
    assert error.partial.content == "one "
    assert bench.endings == ["settle"]
    assert bench.runtime.in_flight == 0
    with pytest.raises(e.RequestCancelledError):
        next(stream)
    with pytest.raises(e.RequestCancelledError):
        _ = stream.response


def test_closing_between_reads_ends_it():
    """Nobody is inside: it is closed there and then, and reading on is an error, not the end."""
    bench, stream, _ = held_stream()
    thread = threading.Thread(target=stream.close)
    thread.start()
    thread.join(PATIENCE)
    assert bench.endings == ["settle"]
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)


def test_a_stream_may_change_hands():
    """One thread after the other, as a web server's pool does it."""
    words = [f"{number} " for number in range(20)]
    stream = Bench(
        streamed(*[chunk(word) for word in words[:10]], b"".join(map(chunk, words[10:])), chunk(finish="stop"), END)
    ).stream()
    found = []
    for _ in words:
        thread = threading.Thread(target=lambda: found.append(next(stream).content))
        thread.start()
        thread.join(PATIENCE)
    assert found == words
    assert stream.collect().content == "".join(words)


@pytest.mark.parametrize("together", [True, False], ids=["in few reads", "each by itself"])
def test_many_readers_break_no_words(together):
    """Eight threads that all try: each word goes to exactly one of them, in order, and the answer is whole."""
    words = [f"{number} " for number in range(600)]
    pieces = [chunk(word) for word in words]
    if together:
        pieces = [b"".join(pieces[at : at + 50]) for at in range(0, len(pieces), 50)]
    stream = Bench(streamed(*pieces, chunk(finish="stop") + END)).stream()
    start, found, refused = threading.Barrier(8), [[] for _ in range(8)], []

    def read(mine):
        start.wait(PATIENCE)
        while True:
            try:
                for piece in stream:
                    mine.append(piece.content)
            except RuntimeError as error:
                refused.append(error)
            else:
                return

    threads = [threading.Thread(target=read, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted((word for mine in found for word in mine if word), key=int) == words
    for mine in found:
        assert sorted((word for word in mine if word), key=int) == [word for word in mine if word]
    assert stream.response.content == "".join(words)
    assert {str(error).partition(" just")[0] for error in refused} <= {"another thread is reading this stream"}


@pytest.mark.parametrize("what", ["next", "poll", "close"])
def test_an_interrupt_leaves_it_free(what, monkeypatch):
    """Wherever it strikes inside, the next one is not taken for a second reader."""
    bench, stream, _ = held_stream()

    def struck(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, {"next": "_next_chunk", "poll": "_poll", "close": "_close"}[what], struck)
    with pytest.raises(KeyboardInterrupt):
        {"next": lambda: next(stream), "poll": stream.poll, "close": stream.close}[what]()
    monkeypatch.undo()
    stream.close()
    wait_for(lambda: bench.endings == ["settle"], "the books to be closed")
