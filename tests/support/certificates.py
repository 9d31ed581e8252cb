"""Certificate authorities for tests: trustme's, or the openssl program's where trustme cannot be installed.

trustme needs the package cryptography, which does not build for every Python that the suite runs on (3.13 free-threaded).
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
import itertools
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    import ssl

__all__ = ["new_authority"]


def new_authority() -> Any:
    """Return a new certificate authority, with the methods of ``trustme.CA``."""
    try:
        import trustme
    except ImportError:
        return OpenSSLAuthority()
    return trustme.CA()


class PEM:
    """The bytes of a file, as ``trustme.Blob`` has them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def bytes(self) -> bytes:
        return self._data

    def write_to_path(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        with Path(path).open("ab" if append else "wb") as file:
            file.write(self._data)


class Certificate:
    """A certificate with its key, as ``trustme.LeafCert`` has them."""

    def __init__(self, key: bytes, certificate: bytes) -> None:
        self.private_key_pem = PEM(key)
        self.cert_chain_pems = [PEM(certificate)]
        self.private_key_and_cert_chain_pem = PEM(key + certificate)

    def configure_cert(self, context: ssl.SSLContext) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.private_key_and_cert_chain_pem.bytes())
            file.flush()
            context.load_cert_chain(file.name)


_SETTINGS = """
[ca]
default_ca = here
[here]
database = index
unique_subject = no
serial = serial
new_certs_dir = .
policy = any
default_md = sha256
[any]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""
_PERIOD = dt.timedelta(days=1000)
_numbers = itertools.count(1)


class OpenSSLAuthority:
    """A certificate authority that the openssl program serves."""

    def __init__(self) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="groq-provider-ca-"))
        weakref.finalize(self, shutil.rmtree, self._path)
        (self._path / "index").touch()
        (self._path / "serial").write_text("1000\n")
        self._make_key("ca.key")
        subject = f"/CN=tests {next(_numbers)}"
        use = "keyUsage=critical,keyCertSign,cRLSign"  # Python 3.13 asks for it
        self._run(
            *(
                "req",
                "-x509",
                "-new",
                "-key",
                "ca.key",
                "-subj",
                subject,
                "-addext",
                use,
                "-days",
                "1000",
                "-out",
                "ca.pem",
            )
        )

    @functools.cached_property
    def cert_pem(self) -> PEM:
        return PEM((self._path / "ca.pem").read_bytes())

    def configure_trust(self, context: ssl.SSLContext) -> None:
        context.load_verify_locations(cadata=self.cert_pem.bytes().decode())

    def issue_cert(
        self, *names: str, not_before: dt.datetime | None = None, not_after: dt.datetime | None = None
    ) -> Certificate:
        settings = _SETTINGS.format(names=", ".join(map(_alternative_name, names)))
        (self._path / "settings").write_text(settings)
        self._make_key("leaf.key")
        self._run("req", "-new", "-key", "leaf.key", "-subj", f"/CN={names[0]}", "-out", "leaf.csr")
        now = dt.datetime.now(dt.timezone.utc)
        period = ["-startdate", _utc(not_before or now - _PERIOD), "-enddate", _utc(not_after or now + _PERIOD)]
        signing = ["-config", "settings", "-cert", "ca.pem", "-keyfile", "ca.key", "-extensions", "leaf"]
        self._run("ca", "-batch", "-notext", *signing, *period, "-in", "leaf.csr", "-out", "leaf.pem")
        return Certificate((self._path / "leaf.key").read_bytes(), (self._path / "leaf.pem").read_bytes())

    def _make_key(self, name: str) -> None:
        self._run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name)

    def _run(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self._path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _utc(instant: dt.datetime) -> str:
    return instant.strftime("%Y%m%d%H%M%SZ")


def _alternative_name(name: str) -> str:
    if "@" in name:
        return f"email:{name}"
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"
