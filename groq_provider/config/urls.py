"""Check URLs and bring base URLs, in all the forms that people write, to one form."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

from groq_provider.config.defaults import ProviderType
from groq_provider.errors import ConfigurationError
from groq_provider.types._base import shorten

__all__ = ["CHAT_PATH", "check_proxy", "hide_credentials", "normalise_base_url"]

_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*)://"
_HOST_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_URL_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_DEFAULT_PORTS = {"http": 80, "https": 443}

_ENCODING_HINT = "'#' as %23, '/' as %2F, '?' as %3F, '[' as %5B, ']' as %5D, a backslash as %5C"

#: The endpoint of chat completions, under the root of the API.
CHAT_PATH = "/chat/completions"
#: Cloudflare's gateway, which replaces ``/openai/v1``: https://developers.cloudflare.com/ai-gateway/providers/groq/
_CLOUDFLARE_ROOT = r"(?:/.*)?/v1/[^/]+/[^/]+/groq"

#: Endpoints that people paste together with the root.
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
    """Return a URL for messages: without user name and password, query and fragment.

    >>> hide_credentials("http://user:secret@proxy.example:8080")
    'http://****@proxy.example:8080'
    """
    if "?" not in url and "#" not in url and "@" not in url:
        return url
    cut = re.split(r"[?#]", url, maxsplit=1)[0]
    # Hide everything up to the last "@": a password may contain "@" and slashes.
    if "@" in url:
        scheme = re.match(_SCHEME, cut)
        cut = (scheme[0] if scheme else "") + "****@" + re.split(r"[?#]", url.rpartition("@")[2], maxsplit=1)[0]
    elif cut != url:
        cut += "…"
    return cut


def check_proxy(text: object) -> tuple[str, str]:
    """Return the URL of a proxy, and the problem with it (or ``""``).

    The caller must raise the error, and the problem quotes nothing of the URL: both would show the password. Parsers disagree on where
    a URL with ``/``, ``#`` or ``?`` in its password ends, so you must percent-encode these characters. A URL without a scheme means
    ``http``, as in environment variables.

    >>> check_proxy("http://user:s%23cret@proxy.example:8080")[1]
    ''
    >>> check_proxy("http://user:s#cret@proxy.example:8080")[1]
    "user name and password must be percent-encoded: '#' as %23, '/' as %2F, '?' as %3F, '[' as %5B, ']' as %5D, a backslash as %5C"
    """
    if not isinstance(text, str):
        return "", f"must be a URL such as 'http://proxy:8080', not {type(text).__name__}"
    if " " in text or not text.isprintable():  # U+0020 is the only space that is printable
        return (
            "",
            "spaces, line ends and control characters are not allowed; in a user name or password percent-encode them: ' ' as %20",
        )
    match = re.match(_SCHEME, text)
    scheme = match[1].lower() if match else "http"
    if scheme not in _DEFAULT_PORTS:
        return (
            "",
            f"the scheme must be http or https, not {scheme[:20]!r}: give an http:// or https:// proxy with a host",
        )
    rest = text[match.end() :] if match else text
    credentials, at, place = rest.rpartition("@")
    if at and re.search(r"[/?#\\[\]]", credentials):
        return "", f"user name and password must be percent-encoded: {_ENCODING_HINT}"
    try:
        unquote(credentials).encode("latin-1")
    except UnicodeEncodeError:
        return "", "user name or password holds characters beyond Latin-1, which proxies do not accept"
    try:
        host, _ = _split_port(re.split(r"[/?#]", place, maxsplit=1)[0], "")
        if not re.fullmatch(r"\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%-]+)?\]", host):  # a link-local address has a zone
            _check_host(host, "")
    except ConfigurationError:
        hint = "" if at else f"; in a user name or password percent-encode {_ENCODING_HINT}"
        return (
            "",
            f"the part after the scheme must be a host and a port from 1 to 65535, as in 'http://proxy:8080'{hint}",
        )
    return f"{scheme}://{rest}", ""


def normalise_base_url(
    text: str, *, type: ProviderType = ProviderType.GROQ, allow_insecure: bool = False, what: str = "base_url"
) -> str:
    """Return the root of the API, to which paths are appended, without a trailing slash.

    For Groq you may give the bare host, ``…/openai/v1``, or a full ``…/openai/v1/chat/completions`` URL. Any other root that ends in
    ``/v1`` is kept, as is that of Cloudflare's gateway, ``…/v1/ACCOUNT/GATEWAY/groq``. For other servers a path is kept, and a missing
    path becomes ``/v1``. Every other URL that ends in ``/chat/completions`` is used unchanged; its root is the part before that. A host
    without a scheme gets ``https``, and a loopback host ``http``.

    Args:
        text: The URL or host.
        type: The type of provider. Groq's API is under ``/openai/v1``, others are mostly under ``/v1``.
        allow_insecure: Whether ``http`` may be used for hosts other than loopback ones.
        what: The name of the setting, for error messages.

    Raises:
        ConfigurationError: The URL is invalid, has credentials, a query or a fragment, or is not encrypted.

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
    if "\\" in url or " " in url or not url.isprintable():  # U+0020 is the only space that is printable
        raise ConfigurationError(f"{here}: spaces, control characters and backslashes are not allowed")
    match = re.match(_SCHEME, url)
    scheme = match[1].lower() if match else ""
    if not match and url.find("//") > 0:  # "http//host" is a mistyped scheme, not a host named "http"
        raise ConfigurationError(f"{here}: must begin with https:// and a host, or be a bare host")
    authority, _, path = url[match.end() if match else 0 :].partition("/")
    if match and scheme not in _DEFAULT_PORTS:
        raise ConfigurationError(f"{here}: the scheme must be https (or http for this machine), not {scheme!r}")
    if "@" in authority:
        raise ConfigurationError(f"{here}: leave out user name and password; use api_key")
    host, port = _split_port(authority, here)
    name, loopback = _check_host(host, here)
    scheme = scheme or ("http" if loopback else "https")
    if scheme == "http" and not loopback and not allow_insecure:
        raise ConfigurationError(f"{here}: would send the key unencrypted; use https, or set allow_insecure=True")
    shown_port = "" if port in (None, _DEFAULT_PORTS[scheme]) else f":{port}"
    return f"{scheme}://{name}{shown_port}{_api_root(path, here, type, name)}"


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
    """Return the normalised host, and whether it is a loopback address."""
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
        name = _to_ascii_host(name)
    labels = name.split(".")
    if len(name) > 253 or not all(re.fullmatch(_HOST_LABEL, label) for label in labels):
        raise ConfigurationError(f"{here}: {shorten(host, 80)} is not a valid host name")
    if labels[-1].isdigit() or (labels[-1].startswith("0x") and re.fullmatch(r"0x[0-9a-f]*", labels[-1])):
        try:
            return str(ipaddress.IPv4Address(name)), ipaddress.IPv4Address(name).is_loopback
        except ValueError:
            raise ConfigurationError(f"{here}: {shorten(host, 80)} is not an IPv4 address") from None
    # Only this very name: a name such as "x.localhost" is looked up in DNS and may lead to any machine.
    return name, name == "localhost"


def _to_ascii_host(name: str) -> str:
    """Return an international host name in ASCII, or ``""`` if it is invalid."""
    import idna  # a dependency of requests; imported late, since few hosts need it

    if len(name) > 253:  # idna takes quadratic time
        return ""
    try:
        encoded = idna.encode(name, uts46=True).decode("ascii").lower().removesuffix(".")
        idna.decode(encoded)
    except (UnicodeError, IndexError, ValueError):
        return ""
    return encoded


def _api_root(path: str, here: str, type: ProviderType, host: str) -> str:
    """Return the root of the API within a path; with ``/chat/completions`` if the URL is to be used unchanged."""
    if not re.fullmatch(_URL_PATH, path):
        raise ConfigurationError(f"{here}: the path holds characters that must be percent-encoded")
    segments = [segment for segment in path.split("/") if segment]
    if any(segment in {".", ".."} for segment in segments):
        raise ConfigurationError(f"{here}: leave out '.' and '..' in the path")
    full_path = root = "/" + "/".join(segments) if segments else ""
    while (shorter_root := _without_endpoint(root)) is not None:
        root = shorter_root
    usual_root = _usual_root(root, type)
    # The service itself has a single root, so its URLs are always normalised.
    keeps_endpoint = (
        full_path.endswith(CHAT_PATH)
        and root != usual_root
        and not (type is ProviderType.GROQ and host == "api.groq.com")
    )
    return root + CHAT_PATH if keeps_endpoint else usual_root


def _usual_root(root: str, type: ProviderType) -> str:
    """Return the root that a path without an endpoint means."""
    if type is not ProviderType.GROQ:
        return root or "/v1"
    if root.endswith("/v1") or (root.endswith("/groq") and re.fullmatch(_CLOUDFLARE_ROOT, root)):
        return root
    # Any other path is the prefix of a gateway: Groq's own SDK appends "/openai/v1/…" to GROQ_BASE_URL.
    return f"{root}/v1" if root.endswith("/openai") else f"{root}/openai/v1"


def _without_endpoint(root: str) -> str | None:
    """Return the path without its endpoint; ``None`` if it has none."""
    for endpoint in _ENDPOINTS:
        if root.endswith(f"/v1/{endpoint}"):
            return root.removesuffix(f"/{endpoint}")
    return root.removesuffix(CHAT_PATH) if root.endswith(CHAT_PATH) else None
