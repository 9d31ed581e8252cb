"""Many processes: forks, gunicorn, Celery, multiprocessing, gevent. The server runs in a process of its own."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import json
import os
import pickle
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import attrs
import pytest
from support.certificates import new_authority
from support.fakes import PATIENCE
from support.servers import chunk, serving
from support.transports import fork, join
from support.workers import ask, echo, sign_in, throw, use

import groq_provider
from groq_provider import CancelToken, GroqProvider, LLMResponse, ToolFunction
from groq_provider import errors as e

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What a fork in a process with threads makes Python 3.12 and later say; forking is what is tested here.
QUIET = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
SERVE = "from groq_provider.testing import serve; serve('127.0.0.1', 0, speed=0)"


def first_line(process):
    """The URL the server prints first."""
    for line in process.stdout:
        for word in line.split():
            if word.startswith("http://"):
                return word.rstrip(".,")
    raise AssertionError(process.stderr and process.stderr.read())


@pytest.fixture(scope="module")
def server():
    """An emulator in another process; its base URL."""
    process = subprocess.Popen([sys.executable, "-u", "-c", SERVE], stdout=subprocess.PIPE, text=True)
    try:
        yield first_line(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
        process.stdout.close()


def run(program, *args, timeout=120, **environment):
    """Run a program in a fresh interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, *QUIET, "-c", textwrap.dedent(program), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "GROQ_API_KEY": "gsk_test", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ROUNDS = """
    import os, sys, threading, time
    from groq_provider import GroqProvider
    base, rounds, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    provider = GroqProvider(base_url=base, rate_limits={"rpm": 10_000_000})
    stop = threading.Event()

    def ask(tag):
        answer = provider.generate(tag, max_tokens=64)
        assert answer.content.startswith(tag), (tag, answer.content)
        with provider.generate_stream(tag + "s", max_tokens=64) as stream:
            assert stream.collect().content.startswith(tag + "s")

    def keep_busy(number):
        count = 0
        while not stop.is_set():
            count += 1
            ask(f"parent{number}x{count}")

    provider.warm_up(2)
    ask("first")
    workers = [threading.Thread(target=keep_busy, args=(n,)) for n in range(threads)]
    for worker in workers: worker.start()
    for number in range(rounds):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                ask(f"child{number}")
                code = 0
            finally:
                os._exit(code)
        if not threads:
            ask(f"own{number}")
        deadline = time.monotonic() + 20
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done: break
            assert time.monotonic() < deadline, f"child {number} hangs"
            time.sleep(0.001)
        assert status == 0, (number, status)
    stop.set()
    for worker in workers: worker.join()
    ask("last")
    provider.close()
    print("good")
"""


@pytest.mark.sample(1)
@pytest.mark.soak
@pytest.mark.parametrize("threads", [0, 4], ids=["quiet-parent", "busy-parent"])
def test_forks_share_no_socket(server, full, threads):
    """Forks share no socket and no lock, with a warm pool and held locks at the fork: no crossed answer."""
    assert run(ROUNDS, server, 1000 if full else 40, threads, timeout=900).strip() == "good"


def test_closing_child_spares_parents_calls(server):
    """A child that closes the provider ends nothing of the parent's, streams under way included."""
    program = """
        import os, sys
        from groq_provider import GroqProvider
        provider = GroqProvider(base_url=sys.argv[1])
        with provider.generate_stream("Hello", max_tokens=400) as stream:
            next(stream)
            child = os.fork()
            if child == 0:
                stream.cancel(); stream.close(); provider.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert stream.collect().finish_reason
        assert provider.generate("again").content
        provider.close()
        print("good")
    """
    assert run(program, server).strip() == "good"


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(content, finish=None):
    data = {"choices": [{"delta": {"content": content}, "finish_reason": finish}]}
    return chunk(b"data: " + json.dumps(data).encode() + b"\n\n")


@pytest.mark.sample(4)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("how", ["cancel", "token", "close", "provider", "garbage", "exit"])
def test_child_cannot_end_parents_read(secure, how, tmp_path):
    """Neither by a cancel, which shuts a socket down for both, nor by a close, nor by what TLS says at one."""
    go_on = threading.Event()
    context = None
    settings = {}
    if secure:
        authority = new_authority()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        settings["ca_bundle"] = str(tmp_path / "ca.pem")

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(SSE + event("one"))
            assert go_on.wait(PATIENCE)
            sock.sendall(event(" two") + event("", "stop") + b"0\r\n\r\n")

    token = CancelToken()
    with (
        serving(handler, context) as server,
        GroqProvider(api_key="gsk_test", base_url=server.url, default_model="m", **settings) as provider,
    ):
        held = [provider.generate_stream("x", cancel=token)]  # the only one who knows it
        assert next(held[0]).content == "one"

        def work():
            gone = weakref.ref(held[0])
            if how == "cancel":
                held[0].cancel()
                held[0].close()
            elif how == "token":
                token.cancel()
            elif how == "close":
                held[0].close()
            elif how == "provider":
                provider.close()
            elif how == "garbage":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)  # as an error it would keep the stream alive
                    held.clear()
                    gc.collect()
            else:
                groq_provider.call.registry._settle_all()
            return (gone() is None) == (how == "garbage")

        assert join(fork(work)) == 0
        assert not token.cancelled
        go_on.set()
        assert held[0].collect().content == "one two"
        assert provider.generate_stream("again").collect().content == "one two"
        assert server.connections == 1


def test_children_draw_own_delays():
    """Children draw delays of their own, or all of them would come back at the same moment."""
    with GroqProvider(api_key="gsk_test") as provider:
        read, write = os.pipe()

        def work():
            os.write(write, b"%.17g\n" % provider._runtime.rng.random())
            return True

        for _ in range(4):
            assert join(fork(work)) == 0
        os.close(write)
        drawn = os.read(read, 1000).decode().split()
        os.close(read)
        assert len({*drawn, f"{provider._runtime.rng.random():.17g}"}) == 5


@pytest.mark.parametrize("what", ["token", "breaker", "budget", "tracker"])
def test_held_lock_freed_in_child(what):
    """Whoever held it is not there."""
    token = CancelToken()
    with GroqProvider(api_key="gsk_test", circuit_breaker=True) as provider:
        runtime = provider._runtime
        held, use = {
            "token": (token, lambda: token.cancel() or token.cancelled),
            "breaker": (runtime.breaker, lambda: runtime.breaker.acquire() is not None),
            "budget": (runtime.budget, lambda: runtime.budget.spend(1.0)),
            "tracker": (provider._tracker, lambda: provider._tracker.record("m", total=1.0) is None),
        }[what]
        inside, done = threading.Event(), threading.Event()

        def hold():
            with held._lock:
                inside.set()
                assert done.wait(PATIENCE)

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(PATIENCE)
        try:
            assert join(fork(use)) == 0
        finally:
            done.set()
            holder.join()


def test_limits_live_on_in_child(server):
    """Limiter, tracker and breaker of a parent work in the child, whatever was held at the fork."""
    program = """
        import os, sys
        from groq_provider import GroqProvider, FallbackProvider, RateLimits
        provider = GroqProvider(base_url=sys.argv[1], rate_limits=RateLimits(rpm=600_000))
        both = FallbackProvider([provider])
        both.generate("one")
        child = os.fork()
        if child == 0:
            both.generate("two")
            status = provider.get_rate_limits()["openai/gpt-oss-120b"]
            os._exit(0 if (status.in_flight, status.waiting) == (0, 0) and provider.get_latency_metrics().sample_count == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        both.close()
        print("good")
    """
    assert run(program, server).strip() == "good"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pools_carry_answers_and_errors(server, method, monkeypatch):
    """Responses and errors come back as they are; a provider goes over without its key and reads it there."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk_test")
    with ProcessPoolExecutor(1, mp_context=get_context(method), initializer=sign_in, initargs=("gsk_test",)) as pool:
        assert "from a worker" in pool.submit(ask, server).result(timeout=60).content
        with pytest.raises(e.RateLimitedError) as caught:
            pool.submit(throw, e.RateLimitedError("limited", retry_after=2.0, status_code=429)).result(timeout=60)
        assert (caught.value.retry_after, caught.value.status_code) == (2.0, 429)
        with GroqProvider(base_url=server) as provider:
            assert pool.submit(use, provider).result(timeout=60).count("carried over") == 1


# --- values ------------------------------------------------------------------------------------------------------------------


def value_classes():
    """Every frozen class of ours that a caller can come by, public or on the way to one."""
    found = {}
    for name in sorted({*groq_provider._HOMES, "types.request_fields"}):
        for cls in vars(importlib.import_module(f"groq_provider.{name}")).values():
            if inspect.isclass(cls) and attrs.has(cls) and cls.__module__.startswith("groq_provider"):
                found[cls.__name__] = cls
    return {name: cls for name, cls in found.items() if not name.startswith("_")}


VALUES = value_classes()
#: What cannot be made without words: how it is.
MADE = {
    "Attempt": {"number": 1, "started_at": "2026-11-01"},
    "BulkFailure": {"index": 0, "custom_id": "0", "error": e.RateLimitedError("limited", retry_after=1.0)},
    "BulkResult": {"index": 0, "custom_id": "0", "error": e.RateLimitedError("limited", retry_after=1.0)},
    "BulkSuccess": {"index": 0, "custom_id": "0", "response": LLMResponse(content="ok")},
    "Document": {"text": "words"},
    "DocumentPart": {"data": {"a": 1}},
    "ImagePart": {"url": "https://example.org/a.png"},
    "JSONSchemaFormat": {"name": "n", "schema": {}},
    "LLMRequest": {"messages": "Hello"},
    "Message": {"role": "user", "content": "Hello"},
    "OtherPart": {"data": {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}},
    "ProviderConfig": {"api_key": "gsk_test"},
    "ResponseFormat": {"type": "json_object"},
    "TextPart": {"text": "words"},
    "Tool": {"function": ToolFunction(name="f")},
}


def made(cls):
    """A value of a class; what it must be given is made up by the names of its fields."""
    given = dict(MADE.get(cls.__name__, {}))
    for field in attrs.fields(cls):
        if field.default is attrs.NOTHING and field.init and field.name not in given:
            given[field.name] = "x"
    return cls(**given)


@pytest.mark.parametrize("cls", VALUES.values(), ids=VALUES)
def test_values_pickle_and_copy(cls):
    """With every protocol; what comes out is equal."""
    value = made(cls)
    for travel in (
        *(lambda v, p=p: pickle.loads(pickle.dumps(v, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy,
        copy.deepcopy,
    ):
        again = travel(value)
        assert type(again) is cls
        if cls is not groq_provider.ProviderConfig:  # which loses its key
            assert repr(again) == repr(value)
        if cls.__eq__ is not object.__eq__ and cls not in (groq_provider.ProviderConfig, groq_provider.BulkResult):
            assert again == value


def test_there_are_values():
    """All that the package names, unless they are parts with state, protocols or errors."""
    public = {
        name
        for name in groq_provider.__all__
        if inspect.isclass(found := getattr(groq_provider, name)) and attrs.has(found)
    }
    assert public <= set(VALUES)
    assert len(public) >= 50


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_all_values_cross_process_pool(method):
    """Every value and every error crosses a process pool there and back, returned and raised."""
    values = [made(cls) for name, cls in VALUES.items() if name != "ProviderConfig"]
    errors = [getattr(e, name)("went wrong", retry_after=1.5, model="m") for name in e.__all__]
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert [repr(value) for value in pool.map(echo, values)] == [repr(value) for value in values]
        for error, future in [(error, pool.submit(throw, error)) for error in errors]:
            raised = future.exception(timeout=60)
            assert type(raised) is type(error)
            assert vars(raised) == vars(error)


APP = """
import os, sys
from flask import Flask, Response
from groq_provider import GroqProvider

app = Flask(__name__)
provider = GroqProvider(base_url=os.environ["BASE"], prewarm=2)  # before the workers are forked
provider.generate("warm")

@app.get("/ask/<tag>")
def ask(tag):
    return {"answer": provider.generate(tag, max_tokens=64).content, "pid": os.getpid()}

@app.get("/stream/<tag>")
def stream(tag):
    answer = provider.generate_stream(tag, max_tokens=64)
    def body():
        with answer:
            for chunk in answer:
                yield chunk.content
    return Response(body(), mimetype="text/plain")
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("worker", [["sync"], ["gthread", "--threads", "4"]], ids=["sync", "gthread"])
def test_gunicorn_workers_with_preload(server, tmp_path, worker):
    """One provider made before the fork serves every worker: no crossed answer."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("flask")
    import socket
    from concurrent.futures import ThreadPoolExecutor
    from urllib.request import urlopen

    (tmp_path / "app.py").write_text(APP)
    # Gunicorn gets the socket itself: a port that is free now may be somebody else's when it has imported the application.
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "-w",
        "3",
        "-k",
        *worker,
        "-b",
        f"fd://{listener.fileno()}",
        "--chdir",
        str(tmp_path),
        "app:app",
    ]
    environment = {**os.environ, "BASE": server, "GROQ_API_KEY": "gsk_test"}
    with listener, (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, pass_fds=[listener.fileno()])
    try:

        def fetch(number):
            with urlopen(
                f"http://127.0.0.1:{port}/{'ask' if number % 2 else 'stream'}/tag{number}x", timeout=60
            ) as answer:
                assert f"tag{number}x" in answer.read().decode()

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(fetch, range(120)))
    finally:
        process.terminate()
        process.wait(timeout=60)


TASKS = """
import os
from celery import Celery
from groq_provider import GroqProvider
from groq_provider.errors import RateLimitedError

folder = os.environ["FOLDER"]
app = Celery("tasks", broker="filesystem://", backend=f"file://{folder}/results")
app.conf.update(
    broker_transport_options={"data_folder_in": f"{folder}/queue", "data_folder_out": f"{folder}/queue"},
    task_serializer="json", result_serializer="pickle", accept_content=["json", "pickle"], result_accept_content=["json", "pickle"],
)
provider = GroqProvider(base_url=os.environ["BASE"])
provider.generate("warm")  # before the pool is forked

@app.task
def ask(tag):
    return provider.generate(tag, max_tokens=64).content

@app.task
def refused():
    raise RateLimitedError("limited", retry_after=2.0)
"""


@pytest.mark.full
def test_celery_prefork_serves_provider(server, tmp_path, monkeypatch):
    """A provider made at import serves the forked pool; errors of tasks come back as they are."""
    pytest.importorskip("celery")
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks_under_test.py").write_text(TASKS)
    environment = {
        **os.environ,
        "BASE": server,
        "GROQ_API_KEY": "gsk_test",
        "FOLDER": str(tmp_path),
        "C_FORCE_ROOT": "1",
    }
    program = """
        from tasks_under_test import ask, refused
        from groq_provider.errors import RateLimitedError
        pending = [(f"tag{n}x", ask.delay(f"tag{n}x")) for n in range(20)]
        wrong = refused.delay()
        print("queued", flush=True)
        for tag, result in pending:
            assert result.get(timeout=60).startswith(tag)
        try:
            wrong.get(timeout=60)
        except RateLimitedError as error:
            assert error.retry_after == 2.0
            print("good")
    """
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tasks_under_test",
        "worker",
        "-P",
        "prefork",
        "-c",
        "3",
        "-l",
        "error",
        "--without-gossip",
    ]
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as caller,
    ):
        # A queue of files has no order of its own: a worker would take one that is made, but not written yet.
        queued = caller.stdout.readline()
        worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            out, err = caller.communicate(timeout=90)
            log.seek(0)
            assert (queued + out).split() == ["queued", "good"], err[-2000:] + log.read()[-2000:]
        finally:
            caller.kill()
            worker.terminate()
            worker.wait(timeout=60)


def test_gevent_calls_run_concurrently(server):
    """Under gevent's monkey-patching, greenlets call at once and a cancel wakes a blocked reader."""
    pytest.importorskip("gevent")
    program = """
        from gevent import monkey; monkey.patch_all()
        import gevent, sys, time
        from groq_provider import GroqProvider, CancelToken, RequestCancelledError
        provider = GroqProvider(base_url=sys.argv[1])
        def ask(tag):
            assert provider.generate(tag, max_tokens=64).content.startswith(tag)
            with provider.generate_stream(tag, max_tokens=64) as stream:
                assert stream.collect().content.startswith(tag)
        jobs = [gevent.spawn(ask, f"tag{n}x") for n in range(50)]
        gevent.joinall(jobs, timeout=60, raise_error=True)
        assert all(job.successful() for job in jobs)
        assert len([r for r in provider.generate_many(["a", "b", "c"]) if r.ok]) == 3
        provider.close()
        print("good")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), server],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "GROQ_API_KEY": "gsk_test"},
    )
    assert done.stdout.strip() == "good", done.stderr[-2000:]


LATE = """
    import os, sys, threading
    from groq_provider import GroqProvider
    provider = GroqProvider(base_url=sys.argv[1])
    assert "groq_provider.call.call" not in sys.modules

    class Slow:  # another thread is in the middle of the first call's imports when the child is made
        def find_spec(self, name, path=None, target=None):
            if name == "groq_provider.call.call":
                started.set()
                go.wait(20)

    started, go = threading.Event(), threading.Event()
    sys.meta_path.insert(0, Slow())
    first = threading.Thread(target=provider.generate, args=("first",))
    first.start()
    assert started.wait(20)
    threading.Timer(0.2, go.set).start()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert provider.generate("child", timeout=15).content
            code = 0
        finally:
            os._exit(code)
    first.join()
    assert os.waitpid(child, 0)[1] == 0
    provider.close()
    print("good")
"""


def test_fork_leaves_no_half_import(server):
    """A fork during the first call leaves nothing half imported, which the child would await for ever."""
    assert run(LATE, server).strip() == "good"
