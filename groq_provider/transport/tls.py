"""TLS contexts: one for the same settings and the same contents of the certificate files."""

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
    versions: object = None,  # noqa: ARG001 - part of the cache key: the versions of the files
) -> ssl.SSLContext:
    """Return the shared context of these settings.

    It is made once and not per connection, because loading the CA bundle takes 30 to 40 ms.
    """
    try:
        paths = (ca_bundle,) if isinstance(ca_bundle, str) else ca_bundle
        context = ssl.create_default_context(**_load_arguments(paths[0]))
        for path in paths[1:]:
            context.load_verify_locations(**_load_arguments(path))
        if cert is not None:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"the CA bundle {ca_bundle!r} or the client certificate cannot be loaded: {reason}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TLSSocket
    # urllib3 calls this before every handshake, on a context that other threads may be using. Setting it once is
    # enough.
    context.set_alpn_protocols(list(protocols))
    context.set_alpn_protocols = _ignore_protocols  # type: ignore[assignment, method-assign]  # on this instance only
    return context


def file_versions(ca_bundle: CABundle, cert: str | tuple[str, str] | None) -> tuple[object, ...]:
    """Return a value that changes when one of the files changes."""
    versions: list[object] = []
    for path in (
        *((ca_bundle,) if isinstance(ca_bundle, str) else ca_bundle),
        *((cert,) if isinstance(cert, str) else cert or ()),
    ):
        try:
            status = os.stat(path)  # noqa: PTH116 - cheaper than pathlib
        except OSError:
            versions.append(None)
        else:
            versions.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(versions)


def _load_arguments(path: str) -> dict[str, Any]:
    """Return the arguments by which OpenSSL loads certificates from a file, or from folders separated as in ``PATH``."""
    return {"capath" if Path(path.split(os.pathsep, 1)[0]).is_dir() else "cafile": path}


def _ignore_protocols(_protocols: object) -> None:
    """Do nothing: the protocols of the context are set already."""
