"""An application for hypercorn that answers like the service, paced on command.

Run it as a program with a listening socket.

The field ``x-script`` of a request says in JSON how to answer it: the ``words`` of the answer; the ``pace``, in seconds
between them; ``hold``, a name at which it waits after ``after`` words until ``/release/NAME`` is requested; ``cut``
after so many words; ``pad`` to so many bytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from itertools import count

_numbers = count(1)
_holds: dict[str, asyncio.Event] = {}
_state = {"begun": 0, "ended": 0, "left": 0, "open": 0, "most": 0}


async def _body(receive):
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _send(send, status, body):
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", b"req_%d" % next(_numbers)),
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _event(model, content=None, finish=None, **more):
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [choice],
        **more,
    }
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def _stream(send, request, words, script):
    fields = [(b"content-type", b"text/event-stream"), (b"x-request-id", b"req_%d" % next(_numbers))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})

    async def put(data, more=True):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    for index, word in enumerate(words):
        if index == script.get("after", -1) and "hold" in script:
            await _holds.setdefault(script["hold"], asyncio.Event()).wait()
        if index == script.get("cut", -1):
            raise ConnectionAbortedError
        await put(_event(request["model"], word))
        if script.get("pace"):
            await asyncio.sleep(script["pace"])
    usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}
    await put(_event(request["model"], finish="stop", x_groq={"id": "req_1", "usage": usage}))
    await put(b"data: [DONE]\n\n", more=False)


async def _chat(scope, receive, send, body):
    request = json.loads(body)
    fields = dict(scope["headers"])
    script = json.loads(fields.get(b"x-script", b"{}"))
    prompt = request["messages"][-1]["content"]
    words = script.get("words") or [prompt]
    if request.get("stream"):
        work = asyncio.ensure_future(_stream(send, request, words, script))
        leaving = asyncio.ensure_future(receive())  # the next message says that the client has gone
        done, _ = await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, leaving):
            task.cancel()
        if work not in done:
            _state["left"] += 1
        await asyncio.gather(work, leaving, return_exceptions=True)
        if work in done and work.exception() is not None:
            raise work.exception()
        return
    if "hold" in script:
        await _holds.setdefault(script["hold"], asyncio.Event()).wait()
    if script.get("pace"):
        await asyncio.sleep(script["pace"])
    text = "".join(words).ljust(script.get("pad", 0), "x")
    message = {"role": "assistant", "content": text}
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    await _send(send, 200, json.dumps(data).encode())


async def app(scope, receive, send):
    """The application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/state":
        await _send(send, 200, json.dumps(_state).encode())
        return
    if path.startswith("/release/"):
        _holds.setdefault(path.rpartition("/")[2], asyncio.Event()).set()
        await _send(send, 200, b"{}")
        return
    _state["begun"] += 1
    _state["open"] += 1
    _state["most"] = max(_state["most"], _state["open"])
    try:
        body = await _body(receive)
        if body is None:
            _state["left"] += 1
        elif path.endswith("/chat/completions"):
            await _chat(scope, receive, send, body)
        elif path.endswith("/models"):
            await _send(send, 200, b'{"object": "list", "data": []}')
        else:
            await _send(send, 404, b'{"error": {"message": "no such place", "type": "invalid_request_error"}}')
    finally:
        _state["open"] -= 1
        _state["ended"] += 1


async def _main(descriptor, certificate, key, options):
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.certfile, config.keyfile = certificate, key
    config.errorlog = logging.getLogger("silent")
    config.errorlog.setLevel(logging.CRITICAL + 1)
    config.graceful_timeout = 0.1
    for name, value in options.items():
        setattr(config, name, value)
    loop, ending = asyncio.get_running_loop(), asyncio.Event()

    def watch():
        sys.stdin.buffer.read()  # ends when the parent process does
        loop.call_soon_threadsafe(ending.set)

    threading.Thread(target=watch, daemon=True).start()
    await serve(app, config, shutdown_trigger=ending.wait)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
