"""TLS contexts, made once for the same settings and files."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import Any

from groq_provider.errors import ConfigurationError
from groq_provider.transport.http1.connection import TLSSocket

__all__ = ["CABundle", "file_versions", "tls_context"]

#: A file or folder of CA certificates, or several that are trusted together.
CABundle = str | tuple[str, ...]


@functools.lru_cache(maxsize=8)
def tls_context(
    ca_bundle: CABundle,
    cert: str | tuple[str, str] | None,
    protocols: tuple[str, ...] = ("http/1.1",),
    stamp: object = None,  # noqa: ARG001 - of the files: with another one they are read again
) -> ssl.SSLContext:
    """Return the one context of these settings. Loading the CA bundle costs 30 to 40 ms: once a process, not once a connection."""
    try:
        places = (ca_bundle,) if isinstance(ca_bundle, str) else ca_bundle
        context = ssl.create_default_context(**_place(places[0]))
        for place in places[1:]:
            context.load_verify_locations(**_place(place))
        if cert is not None:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"the CA bundle {ca_bundle!r} or the client certificate cannot be loaded: {reason}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TLSSocket
    # urllib3 sets this before every handshake, on a context that other threads are using just then: once is enough.
    context.set_alpn_protocols(list(protocols))
    context.set_alpn_protocols = _nothing_more  # type: ignore[assignment, method-assign]  # this context's only
    return context


def file_versions(ca_bundle: CABundle, cert: str | tuple[str, str] | None) -> tuple[object, ...]:
    """Return what changes when one of the files does."""
    found: list[object] = []
    for path in (
        *((ca_bundle,) if isinstance(ca_bundle, str) else ca_bundle),
        *((cert,) if isinstance(cert, str) else cert or ()),
    ):
        try:
            status = os.stat(path)  # noqa: PTH116 - cheaper
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _place(path: str) -> dict[str, Any]:
    """Return certificates at a path as OpenSSL takes them: a file, or folders separated as in ``PATH``."""
    return {"capath" if Path(path.split(os.pathsep, 1)[0]).is_dir() else "cafile": path}


def _nothing_more(_protocols: object) -> None:
    """Leave the protocols as they are."""
