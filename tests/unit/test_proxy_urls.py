"""A proxy that cannot be read is an error at construction, by the name of its setting, and shows no password."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import parse_url

from groq_provider import ConfigurationError, GroqProvider, ProviderConfig, SystemClock
from groq_provider.config.urls import check_proxy
from groq_provider.transport.requests_adapter import Adapter
from groq_provider.transport.session import SessionTransport

PASSWORD = "hunter2hunter2"
BAD = {
    "hash": f"http://user:{PASSWORD}#x@proxy:8080",
    "slash": f"http://user:{PASSWORD}/x@proxy:8080",
    "question mark": f"http://user:{PASSWORD}?x@proxy:8080",
    "bracket": f"http://user:{PASSWORD}[x@proxy:8080",
    "backslash": f"http://user:{PASSWORD}\\x@proxy:8080",
    "space": f"http://user:{PASSWORD} x@proxy:8080",
    "space around": f" http://user:{PASSWORD}@proxy:8080",
    "newline": f"http://user:{PASSWORD}@proxy:8080\n",
    "newline inside": f"http://user:{PASSWORD}\n@proxy:8080",
    "no host": f"http://user:{PASSWORD}@",
    "no host but a port": f"http://user:{PASSWORD}@:8080",
    "no at": f"http://user:{PASSWORD}",
    "no at and a hash": f"http://user:{PASSWORD}#x",
    "port in words": f"http://user:{PASSWORD}@proxy:http",
    "port of zero": f"http://user:{PASSWORD}@proxy:0",
    "port too large": f"http://user:{PASSWORD}@proxy:65536",
    "no port": f"http://user:{PASSWORD}@proxy:",
    "two ports": f"http://user:{PASSWORD}@proxy:1:2",
    "IPv6 without brackets": f"http://user:{PASSWORD}@::1",
    "half an IPv6": f"http://user:{PASSWORD}@[::1",
    "beyond Latin-1": f"http://user:{PASSWORD}€@proxy:8080",
    "escaped beyond Latin-1": f"http://user:{PASSWORD}%E2%82%AC@proxy:8080",
    "scheme": f"socks5h://user:{PASSWORD}@proxy:1080",
    "lost slash": f"http:/user:{PASSWORD}@proxy:8080",
}
#: What percent-encoding would mend, or may.
ENCODED = {"hash", "slash", "question mark", "bracket", "backslash", "space", "newline inside", "no at and a hash"}


def refused(make):
    with pytest.raises(ConfigurationError) as caught:
        make()
    text = f"{caught.value} {caught.value!r} {caught.value.args}"
    assert "hunter" not in text
    return str(caught.value)


@pytest.fixture
def alone(monkeypatch):
    """No proxy of the machine's own."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", BAD)
def test_argument_is_refused(name):
    """By the configuration, before there is a provider."""
    message = refused(lambda: ProviderConfig(api_key="gsk_example", proxies={"https": BAD[name]}))
    assert message.startswith("proxies['https']: ")
    assert name not in ENCODED or "percent-encode" in message


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("name", BAD)
def test_environment_is_refused(name, variable, alone):
    """By the provider, which says which variable it is."""
    alone.setenv(variable, BAD[name])
    message = refused(lambda: GroqProvider(api_key="gsk_example"))
    assert message.startswith(f"the environment variable {variable}: ")
    assert name not in ENCODED or "percent-encode" in message


@pytest.mark.parametrize("key", ["https", "all", "https://api.groq.com", "all://api.groq.com"])
@pytest.mark.parametrize("name", BAD)
def test_session_is_refused(name, key, alone):
    """By the provider, which says whose it is."""
    with requests.Session() as session:
        session.proxies = {key: BAD[name]}
        message = refused(lambda: GroqProvider(api_key="gsk_example", session=session))
    assert message.startswith(f"session.proxies[{key!r}]: ")
    assert name not in ENCODED or "percent-encode" in message


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://proxy", "http://proxy"),
        ("http://proxy:8080/", "http://proxy:8080/"),
        ("HTTPS://u:p@proxy.example:8080", "https://u:p@proxy.example:8080"),
        ("proxy:3128", "http://proxy:3128"),
        ("u:p@10.0.0.1:3128", "http://u:p@10.0.0.1:3128"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[fe80::1%25eth0]:8080", "http://[fe80::1%25eth0]:8080"),
        ("http://u:p@ss@proxy:8080", "http://u:p@ss@proxy:8080"),
        ("http://proxy_1.intern:8080", "http://proxy_1.intern:8080"),
        ("http://user@proxy", "http://user@proxy"),
    ],
)
def test_good_urls_are_read(url, read):
    """In every form in which people write them, and in which they were read before."""
    assert check_proxy(url) == (read, "")


pieces = st.text(st.sampled_from("ab:@/#?%[]\\ \n.1€é&"), max_size=6)


urls = st.tuples(
    st.sampled_from(["http://", "https://", "", "socks5://", "http:/", "HTTP://"]),
    pieces,
    st.sampled_from(["@", ":@", ""]),
    st.sampled_from(["proxy", "127.0.0.1", "[::1]", ""]),
    st.sampled_from([":8080", ":", ":x", ":99999", ""]),
    st.sampled_from(["", "/", "/x", "#y", "?z"]),
).map("".join)


@given(urls)
def test_what_is_accepted_works(text):
    """A URL is refused here, or every part of the transport reads the same host, port and login in it."""
    url, problem = check_proxy(text)
    if problem:
        return
    adapter = Adapter("http://127.0.0.1:1/v1", clock=SystemClock(), proxy=url, ca_bundle=None, cert=None)
    try:
        pool = adapter.pool()
        found = parse_url(url)
        assert (pool.host, pool.port) == (
            found.host.strip("[]"),
            found.port or (443 if found.scheme == "https" else 80),
        )
        sent = adapter.proxy_headers(url).get("Proxy-Authorization")
        before, at, _ = url.partition("://")[2].rpartition("@")
        user, colon, word = before.partition(":")
        if sent is None:
            assert not (at and user and colon)
        else:
            assert base64.b64decode(sent.removeprefix("Basic ")).decode("latin-1") == f"{unquote(user)}:{unquote(word)}"
    finally:
        adapter.close()


@given(
    st.text(st.characters(max_codepoint=255), min_size=1, max_size=20),
    st.text(st.characters(max_codepoint=255), max_size=20),
)
def test_percent_encoding_mends_all(user, password):
    """As the message says: any user name and password of Latin-1 can be written."""
    url = f"http://{quote(user, safe='')}:{quote(password, safe='')}@proxy:8080"
    assert check_proxy(url) == (url, "")
    SessionTransport("https://h/v1", clock=SystemClock(), proxies={"https": url}).close()
