"""Base URLs in every form people write them, brought to one."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

from groq_provider.config.defaults import ProviderType
from groq_provider.errors import ConfigurationError
from groq_provider.types._base import shorten

__all__ = ["CHAT_PATH", "check_proxy", "hide_credentials", "normalise_base_url"]

_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*)://"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_PORTS = {"http": 80, "https": 443}

_ENCODED = "'#' as %23, '/' as %2F, '?' as %3F, '[' as %5B, ']' as %5D, a backslash as %5C"

#: The endpoint of chat completions, under the root of the API.
CHAT_PATH = "/chat/completions"
#: https://developers.cloudflare.com/ai-gateway/providers/groq/: it stands for the service's own /openai/v1.
_CLOUDFLARE = r"(?:/.*)?/v1/[^/]+/[^/]+/groq"

#: Endpoints people paste together with the root.
_ENDPOINTS = (
    "chat/completions",
    "completions",
    "models",
    "responses",
    "embeddings",
    "audio/transcriptions",
    "audio/translations",
    "audio/speech",
    "files",
    "batches",
    "reranking",
)


def hide_credentials(url: str) -> str:
    """Return a URL for messages: what stands before ``@`` and after ``?`` or ``#`` is cut out.

    >>> hide_credentials("http://user:secret@proxy.example:8080")
    'http://****@proxy.example:8080'
    """
    if "?" not in url and "#" not in url and "@" not in url:
        return url
    cut = re.split(r"[?#]", url, maxsplit=1)[0]
    # Everything up to the last "@", slashes included: a password may hold one.
    if "@" in url:
        scheme = re.match(_SCHEME, cut)
        cut = (scheme[0] if scheme else "") + "****@" + re.split(r"[?#]", url.rpartition("@")[2], maxsplit=1)[0]
    elif cut != url:
        cut += "…"
    return cut


def check_proxy(text: object) -> tuple[str, str]:
    """Return the URL of a proxy, and what is wrong with it.

    It raises nothing and the problem shows no part of the text: the password would be in the message, or among the local variables of
    the traceback. Where a password holds ``/``, ``#`` or ``?``, every parser cuts the URL in another place, so these must be
    percent-encoded. A URL without a scheme is one of ``http``, as in the environment.

    >>> check_proxy("http://user:s%23cret@proxy.example:8080")[1]
    ''
    >>> check_proxy("http://user:s#cret@proxy.example:8080")[1]
    "user name and password must be percent-encoded: '#' as %23, '/' as %2F, '?' as %3F, '[' as %5B, ']' as %5D, a backslash as %5C"
    """
    if not isinstance(text, str):
        return "", f"must be a URL such as 'http://proxy:8080', not {type(text).__name__}"
    if " " in text or not text.isprintable():  # of all spaces that one alone is printable
        return (
            "",
            "spaces, line ends and control characters are not allowed; in a user name or password percent-encode them: ' ' as %20",
        )
    match = re.match(_SCHEME, text)
    scheme = match[1].lower() if match else "http"
    if scheme not in _PORTS:
        return (
            "",
            f"the scheme must be http or https, not {scheme[:20]!r}: give an http:// or https:// proxy with a host",
        )
    rest = text[match.end() :] if match else text
    login, at, place = rest.rpartition("@")
    if at and re.search(r"[/?#\\[\]]", login):
        return "", f"user name and password must be percent-encoded: {_ENCODED}"
    try:
        unquote(login).encode("latin-1")
    except UnicodeEncodeError:
        return "", "user name or password holds characters beyond Latin-1, which proxies do not know"
    try:
        host, _ = _split_port(re.split(r"[/?#]", place, maxsplit=1)[0], "")
        if not re.fullmatch(r"\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%-]+)?\]", host):  # a link-local address has a zone
            _check_host(host, "")
    except ConfigurationError:
        hint = "" if at else f"; in a user name or password percent-encode {_ENCODED}"
        return (
            "",
            f"the part after the scheme must be a host and a port from 1 to 65535, as in 'http://proxy:8080'{hint}",
        )
    return f"{scheme}://{rest}", ""


def normalise_base_url(
    text: str, *, type: ProviderType = ProviderType.GROQ, allow_insecure: bool = False, what: str = "base_url"
) -> str:
    """Return the root that paths are appended to, without a trailing slash.

    For Groq the bare host, ``…/openai/v1`` and a full ``…/openai/v1/chat/completions`` URL all name the same place, and any ``…/v1``
    root stays, as does the form of Cloudflare's gateway, ``…/v1/ACCOUNT/GATEWAY/groq``. For other servers a path is kept as it is;
    without one it is ``/v1``. Every other URL that ends in ``/chat/completions`` is kept whole and used as it is: its root is what
    stands before that. A host without a scheme gets ``https``, a loopback one ``http``.

    Args:
        text: The URL or host.
        type: Groq's service has its API under ``/openai/v1``, others mostly under ``/v1``.
        allow_insecure: Whether ``http`` may be used for hosts other than loopback ones.
        what: Name of the setting, for messages.

    Raises:
        ConfigurationError: It is no such URL, holds credentials, a query or a fragment, or is not encrypted.

    >>> normalise_base_url("api.groq.com")
    'https://api.groq.com/openai/v1'
    >>> normalise_base_url("http://127.0.0.1:11434/v1/chat/completions")
    'http://127.0.0.1:11434/v1'
    >>> normalise_base_url("https://gateway.example/team/chat/completions")
    'https://gateway.example/team/chat/completions'

    .. versionadded:: 0.1.0
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{what} must be a string, not {text.__class__.__name__}")
    url = text.strip()
    here = f"{what} = {shorten(hide_credentials(url))}"
    if not url or len(url) > 2048:
        raise ConfigurationError(f"{here}: must be a URL such as 'https://api.groq.com', of at most 2048 characters")
    if "?" in url or "#" in url:
        raise ConfigurationError(f"{here}: leave out the query and the fragment")
    if "\\" in url or " " in url or not url.isprintable():  # of all spaces that one alone is printable
        raise ConfigurationError(f"{here}: spaces, control characters and backslashes are not allowed")
    match = re.match(_SCHEME, url)
    scheme = match[1].lower() if match else ""
    if (
        not match and url.find("//") > 0
    ):  # "http//host", "https:/host//": a scheme that lost something, not a host named http
        raise ConfigurationError(f"{here}: must begin with https:// and a host, or be a bare host")
    authority, _, path = url[match.end() if match else 0 :].partition("/")
    if match and scheme not in _PORTS:
        raise ConfigurationError(f"{here}: the scheme must be https (or http for this machine), not {scheme!r}")
    if "@" in authority:
        raise ConfigurationError(f"{here}: leave out user name and password; use api_key")
    host, port = _split_port(authority, here)
    name, loopback = _check_host(host, here)
    scheme = scheme or ("http" if loopback else "https")
    if scheme == "http" and not loopback and not allow_insecure:
        raise ConfigurationError(f"{here}: would send the key unencrypted; use https, or set allow_insecure=True")
    shown_port = "" if port in (None, _PORTS[scheme]) else f":{port}"
    return f"{scheme}://{name}{shown_port}{_root(path, here, type, name)}"


def _split_port(authority: str, here: str) -> tuple[str, int | None]:
    """Return host and port of an authority."""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        host += bracket
        if rest and not rest.startswith(":"):
            raise ConfigurationError(f"{here}: only a port may follow the address in brackets")
        colon, text = rest[:1], rest[1:]
    else:
        if authority.count(":") > 1:
            raise ConfigurationError(f"{here}: put an IPv6 address into brackets, as in 'http://[::1]:8000'")
        host, colon, text = authority.partition(":")
    if not colon:
        return host, None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ConfigurationError(f"{here}: the port must be a number from 1 to 65535")
    return host, int(text)


def _check_host(host: str, here: str) -> tuple[str, bool]:
    """Return the host in its one form, and whether it is this machine."""
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else "")
        except ValueError:
            address = None
        if address is None or address.scope_id:
            raise ConfigurationError(f"{here}: the brackets do not hold an IPv6 address")
        return f"[{address.compressed}]", address.is_loopback
    name = host.lower().removesuffix(".")
    if not name:
        raise ConfigurationError(f"{here}: the host is missing")
    if not name.isascii() or "xn--" in name:
        name = _idna(name)
    labels = name.split(".")
    if len(name) > 253 or not all(re.fullmatch(_LABEL, label) for label in labels):
        raise ConfigurationError(f"{here}: {shorten(host, 80)} is no host name")
    if labels[-1].isdigit() or (labels[-1].startswith("0x") and re.fullmatch(r"0x[0-9a-f]*", labels[-1])):
        try:
            return str(ipaddress.IPv4Address(name)), ipaddress.IPv4Address(name).is_loopback
        except ValueError:
            raise ConfigurationError(f"{here}: {shorten(host, 80)} is no IPv4 address") from None
    # Of the names only this one: one that merely ends in it is looked up like any other, and may lead to any machine.
    return name, name == "localhost"


def _idna(name: str) -> str:
    """Return an international name in ASCII, the empty string if there is none."""
    import idna  # comes with requests; wanted for such hosts only

    if len(name) > 253:  # its algorithms are quadratic
        return ""
    try:
        encoded = idna.encode(name, uts46=True).decode("ascii").lower().removesuffix(".")
        idna.decode(encoded)
    except (UnicodeError, IndexError, ValueError):
        return ""
    return encoded


def _root(path: str, here: str, type: ProviderType, host: str) -> str:
    """Return the part of a path that endpoints are appended to; with ``/chat/completions`` where that alone tells where it ends."""
    if not re.fullmatch(_PATH, path):
        raise ConfigurationError(f"{here}: the path holds characters that must be percent-encoded")
    segments = [segment for segment in path.split("/") if segment]
    if any(segment in {".", ".."} for segment in segments):
        raise ConfigurationError(f"{here}: leave out '.' and '..' in the path")
    given = root = "/" + "/".join(segments) if segments else ""
    while (shorter := _without_endpoint(root)) is not None:
        root = shorter
    usual = _usual_root(root, type)
    # At the service itself there is only one place.
    as_given = (
        given.endswith(CHAT_PATH) and root != usual and not (type is ProviderType.GROQ and host == "api.groq.com")
    )
    return root + CHAT_PATH if as_given else usual


def _usual_root(root: str, type: ProviderType) -> str:
    """Return the root that a path without an endpoint stands for."""
    if type is not ProviderType.GROQ:
        return root or "/v1"
    if root.endswith("/v1") or (root.endswith("/groq") and re.fullmatch(_CLOUDFLARE, root)):
        return root
    # A prefix before it is a gateway, as Groq's own SDK has it: GROQ_BASE_URL + "/openai/v1/…".
    return f"{root}/v1" if root.endswith("/openai") else f"{root}/openai/v1"


def _without_endpoint(root: str) -> str | None:
    """Return the path without a pasted endpoint, ``None`` if it has none."""
    for endpoint in _ENDPOINTS:
        if root.endswith(f"/v1/{endpoint}"):
            return root.removesuffix(f"/{endpoint}")
    return root.removesuffix(CHAT_PATH) if root.endswith(CHAT_PATH) else None
