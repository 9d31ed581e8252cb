"""Runs in a fresh interpreter, with as few imports as possible.

``import NAME PORT``: CPU seconds, wall seconds, modules and bytes in memory after each step: start, import, client, first answer.
``quiet``: the sockets, threads and files that this library opens during its import and the construction of a provider, as the
interpreter's audit hook reports them.
``cold NAME PORT CA THREADS WARM``: a client and its first calls, from threads at once, with WARM connections opened ahead;
imports before do not count.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def mark():
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pages = 0
    return [time.process_time(), time.perf_counter(), len(sys.modules), pages * 4096]


def imports(name, port):
    marks = [mark()]
    if name == "ours":
        from groq_provider import GroqProvider

        kept_client = marks.append(mark()) or GroqProvider(api_key="gsk_x")
    elif name == "groq":
        from groq import Groq

        kept_client = marks.append(mark()) or Groq(api_key="gsk_x")
    elif name == "openai":
        from openai import OpenAI

        kept_client = marks.append(mark()) or OpenAI(api_key="gsk_x")
    elif name == "session":
        from requests import Session

        kept_client = marks.append(mark()) or Session()
    else:
        import json  # noqa: F401
        from http.client import HTTPConnection

        kept_client = marks.append(mark()) or HTTPConnection("127.0.0.1", port)
    marks.append(mark())
    import contenders

    client = contenders.CONTENDERS[name](contenders.Where(port))
    marks.append(mark())
    client.answer()
    marks.append(mark())
    del kept_client  # alive until here, so that its memory counts
    return marks


def quiet():
    import attrs  # noqa: F401
    import cattrs  # noqa: F401
    import requests  # noqa: F401

    own = str(Path(__file__).resolve().parent.parent / "groq_provider")
    code = (".py", ".pyc", ".so", ".pyd")
    network, threads, files = [], [], []

    def hook(event, arguments):
        if event.startswith("socket."):
            network.append(event)
        elif event in ("_thread.start_new_thread", "_thread.start_joinable_thread"):
            threads.append(event)
        elif event == "open" and isinstance(arguments[0], str):
            path = arguments[0]
            if not path.endswith(code) and ".pyc." not in path and not path.startswith(own):
                files.append(path)

    sys.addaudithook(hook)
    from groq_provider import GroqProvider

    provider = GroqProvider(api_key="gsk_benchmark")
    results = {"network": network[:], "threads": threads[:], "files": files[:]}
    provider.close()
    return results


def cold(name, port, ca, count, warm):
    import importlib
    import threading

    import contenders

    importlib.import_module({"ours": "groq_provider", "session": "requests", "floor": "http.client"}.get(name, name))
    if name == "ours":
        for late in (
            "provider",
            "call.call",
            "catalog",
        ):  # the modules that ``from groq_provider import GroqProvider`` and the first call load
            importlib.import_module(f"groq_provider.{late}")
    gate, problems = threading.Barrier(count + 1), []

    def work():
        gate.wait()
        try:
            client.answer("bench/slow-30")
        except Exception as problem:
            problems.append(problem)

    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    began, ready = time.perf_counter(), 0
    if warm:
        client = contenders.CONTENDERS[name](contenders.Where(port, ca))
        ready = client.warm_up(warm)
    wall, cpu = time.perf_counter(), time.process_time()
    if not warm:
        client = contenders.CONTENDERS[name](contenders.Where(port, ca))
    gate.wait()
    for worker in workers:
        worker.join()
    results = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "warm_up": wall - began,
        "ready": ready,
    }
    if problems:
        results["error"] = f"{len(problems)} failed: {type(problems[0]).__name__}: {problems[0]}"[:300]
    return results


def main():
    what, *rest = sys.argv[1:]
    if what == "import":
        results = imports(rest[0], int(rest[1]))
    elif what == "quiet":
        results = quiet()
    else:
        results = cold(rest[0], int(rest[1]), rest[2], int(rest[3]), int(rest[4]))
    import json

    print(json.dumps(results))


main()
