"""Where a secret could show: texts, frames, pickles and logs of an error or a provider, and the assertion that it does not."""

from __future__ import annotations

import contextlib
import copy
import gc
import http.client
import logging
import pickle
import traceback
import types
import warnings
from pathlib import Path

import groq_provider
from groq_provider import errors as e

KEY = "gsk_CANARYsecretCANARYsecret0123456789abcdef"
#: Also when it is cut or split: no part of the key may show, but for its last four characters.
KEY_PARTS = ["CANARYsecret", "secretCANARY", "0123456789ab"]
PROMPT = "PROMPTcanary tells of a hidden treasure below the old oak; " * 12
PROMPT_PARTS = ["PROMPTcanary", "hidden treasure"]
PROXY_USER, PROXY_PASSWORD = "proxyuser", "PROXYcanary"
HEADER = "HEADERcanary"
OURS = str(Path(groq_provider.__file__).parent)


def held_by(found):
    """Yield the texts of everything an object leads to, but for code, frames and what lives in modules."""
    seen: set[int] = set()
    pending = [found]
    skipped = (type, types.ModuleType, types.FunctionType, types.CodeType, types.FrameType, types.BuiltinFunctionType)
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, skipped):
            continue
        seen.add(id(item))
        if isinstance(item, (str, bytes)):
            yield item if isinstance(item, str) else item.decode("latin-1")
        pending.extend(gc.get_referents(item))


def frames_of(error):
    """The traceback as crash reporters print it, with the local variables of every frame but those of the tests."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    pending, seen = [report], []
    while pending:
        part = pending.pop()
        if part is None or part in seen:
            continue
        seen.append(part)
        part.stack[:] = [frame for frame in part.stack if "/tests/" not in frame.filename]
        pending += [part.__cause__, part.__context__]
    return "".join(report.format())


def links_of(error):
    """An error and all it was raised from."""
    pending, seen = [error], []
    while pending:
        link = pending.pop()
        if link is not None and link not in seen:
            seen.append(link)
            pending += [link.__cause__, link.__context__]
    return seen


def foreign_frames(error):
    """The files of others in the tracebacks of an error and of what it was raised from: their frames hold head and body."""
    found = []
    for link in links_of(error):
        if isinstance(link, e.GroqProviderError):
            assert not vars(link).keys() & {"request", "response"}
        else:
            assert isinstance(link, (OSError, http.client.HTTPException, KeyboardInterrupt)), link
        frames = [frame.filename for frame in traceback.extract_tb(link.__traceback__)]
        found += [name for name in frames if "/tests/" not in name and not name.startswith(OURS)]
    return found


def texts_of(error):
    """Everything that can be shown of an error."""
    assert foreign_frames(error) == []
    shown = [frames_of(error), str(error), repr(error), repr(error.args), repr(vars(error))]
    bare = pickle.loads(pickle.dumps(error))
    shown += [pickle.dumps(error).decode("latin-1"), repr(vars(bare)), repr(copy.copy(error))]
    shown += [repr(link) + repr(link.args) + repr(vars(link)) for link in links_of(error)]
    # Without the frames, whose objects hold the key by need: an error that is kept leads to nothing secret.
    shown += held_by(error.with_traceback(None))
    return shown


def objects_of(provider):
    """Everything of a provider that can be shown."""
    transport = provider._transport
    shown = []
    for item in (
        provider,
        provider._runtime,
        transport,
        transport.session,
        transport.adapter,
        provider._limiter,
        provider._tracker,
    ):
        shown += [repr(item), str(item), repr(vars(item))]
    for item in (provider._config, provider._config.api_key, provider._config.timeout, provider._config.retry):
        shown += [repr(item), str(item), f"{item}"]
    shown.append(repr(transport.adapter._pool))
    # Pickles work elsewhere with the headers and proxies that were configured, so of them only the key is kept out.
    kept = [provider._config, transport.session, *([] if provider._passed else [provider])]
    pickles = [pickle.dumps(item).decode("latin-1") for item in kept]
    assert_hidden(pickles, [*KEY_PARTS, *PROMPT_PARTS])
    shown += [
        repr(provider.get_latency_metrics()),
        repr(provider.get_rate_limits()),
        repr(provider._limiter.get_status()),
    ]
    return shown


def assert_hidden(shown, parts):
    for text in shown:
        for part in parts:
            place = text.find(part)
            assert place < 0, f"{part!r} shows: …{text[max(0, place - 300) : place + 80]}"


@contextlib.contextmanager
def watched(caplog, capsys):
    """Collect logs at DEBUG, warnings and output for the length of a block, and check them for secrets."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "requests", "groq_provider"):
        caplog.set_level(logging.DEBUG, logger=name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    shown = [logging.Formatter().format(record) + repr(record.args) for record in caplog.records]
    shown += [str(item.message) for item in caught]
    shown += list(capsys.readouterr())
    assert_hidden(shown, [*KEY_PARTS, *PROMPT_PARTS, PROXY_PASSWORD, HEADER])
