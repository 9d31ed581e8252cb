"""Secrets beside the key: passwords of Redis and of proxies, headers. No frame, message, repr or log shows them."""

from __future__ import annotations

import base64
import logging

import pytest
import requests
from support.leaks import (
    HEADER,
    PROMPT,
    PROXY_PASSWORD,
    PROXY_USER,
    assert_hidden,
    frames_of,
    objects_of,
    texts_of,
    watched,
)
from support.servers import always, answer, proxy_handler, refusing_port, serving

from groq_provider import ConfigurationError, GroqProvider, GroqProviderError, ProviderConfig
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter

EXTRA = "EXTRAcanary"
REDIS = "REDIScanary"
BASIC = base64.b64encode(f"{PROXY_USER}:{PROXY_PASSWORD}".encode()).decode()
SECRETS = [EXTRA, HEADER, PROXY_PASSWORD, BASIC]


def shown_by(provider, **fields):
    """All that a failed call and its provider show."""
    with pytest.raises(GroqProviderError) as caught:
        provider.generate(PROMPT, extra_headers={"X-Extra": EXTRA}, **fields)
    return texts_of(caught.value) + objects_of(provider)


@pytest.mark.parametrize("how", ["status", "refused", "proxy", "tunnel"])
def test_headers_and_proxies_show_nowhere(how, caplog, capsys):
    """Whatever goes wrong with a call: neither its headers, nor those of all calls, nor the proxy's password in either form."""
    refusal = always(answer(b'{"error": {"message": "no"}}', status="500 Oops"))
    secure = how == "tunnel"
    with (
        watched(caplog, capsys),
        serving(refusal) as server,
        refusing_port() as nobody,
        serving(proxy_handler("other:words")) as proxy,
    ):
        url = f"http://127.0.0.1:{nobody}" if how == "refused" else server.url
        proxies = None
        if how in {"proxy", "tunnel"}:
            url = f"http{'s' * secure}://api.groq.test"
            proxies = {url.partition(":")[0]: f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:{proxy.port}"}
        with GroqProvider(
            api_key="k",
            base_url=url,
            headers={"X-Own": HEADER},
            proxies=proxies,
            max_retries=0,
            allow_insecure=True,
        ) as provider:
            assert_hidden(shown_by(provider), SECRETS)
            assert_hidden([repr(vars(provider._transport.adapter)), repr(provider._config)], SECRETS)
    assert_hidden([caplog.text], SECRETS)


def test_a_sessions_secrets_show_nowhere():
    """Its headers and its proxies are read, and hidden like ours."""
    session = requests.Session()
    session.headers["X-Own"] = HEADER
    session.proxies = {"http": f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:9"}
    with GroqProvider(api_key="k", base_url="http://127.0.0.1:9", max_retries=0, session=session) as provider:
        assert_hidden([repr(vars(provider._transport)), repr(vars(provider._transport.adapter))], SECRETS)
    session.proxies = {"http": f"ftp://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:9"}
    with pytest.raises(ConfigurationError) as caught:
        GroqProvider(api_key="k", base_url="http://127.0.0.1:9", session=session)
    assert_hidden([frames_of(caught.value), str(caught.value)], SECRETS)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:{}@127.0.0.1:1/0?unknown=1",
        "redis://user:{}@127.0.0.1:1/x",
        "redis://user:{}@127.0.0.1:99999/0",
        "rediss://user:{}@127.0.0.1:1/0?ssl_ca_certs=/nowhere",
        "rediss://user:{}@127.0.0.1:1/0?ssl_cert_reqs=none",
        "rediss://user:{}@[::1/0",
        "redis://user:{}@127.0.0.1:PORT/0",
    ],
)
def test_redis_passwords_show_nowhere(url, caplog):
    """A URL that is wrong in some way, or a server that refuses: in no frame, message or log."""
    pytest.importorskip("redis")
    caplog.set_level(logging.DEBUG)

    def refuse(sock, _server):
        while sock.recv(4096):
            sock.sendall(b"-WRONGPASS invalid username-password pair: user " + REDIS.encode() + b"\r\n")

    with serving(refuse) as server:
        store = url.format(REDIS).replace("PORT", str(server.port))
        makers = [
            lambda: GroqProvider(api_key="k", rate_limit_store=store),
            lambda: TokenBucketRateLimiter(store=store),
        ]
        for make in makers:
            with pytest.raises(ConfigurationError) as caught:
                make()
            assert_hidden([frames_of(caught.value), str(caught.value), repr(caught.value), caplog.text], [REDIS])
            del caught


def test_redis_stores_hide_their_password():
    """In their reprs, those of their parts, and of the configuration."""
    pytest.importorskip("redis")
    store = f"redis://user:{REDIS}@127.0.0.1:1/0"
    config = ProviderConfig(api_key="k", rate_limit_store=store)
    assert_hidden([repr(config), repr(config.rate_limit_store)], [REDIS])
    with GroqProvider(config) as provider:
        link = provider._limiter._store_link
        parts = [provider._limiter, link, link.store, link.store._address, *link.store._idle_links]
        assert_hidden([repr(item) + repr(vars(item)) for item in parts], [REDIS])


def test_hpack_logs_no_headers(caplog):
    """Values that a caller gave are never indexed, which is what hpack's debug log goes by."""
    pytest.importorskip("h2")
    from hpack import Encoder

    from groq_provider._validate import check_headers
    from groq_provider.transport.http2.headers import fields_of

    caplog.set_level(logging.DEBUG, logger="hpack")
    fields = fields_of("POST", "https", "h", "/x", check_headers({"X-Extra": EXTRA, "X-Own": HEADER}))
    Encoder().encode(fields)
    assert "hpack" in {record.name.partition(".")[0] for record in caplog.records}
    assert_hidden([caplog.text, *(repr(record.args) for record in caplog.records)], SECRETS)
