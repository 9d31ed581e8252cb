"""A URL that names the endpoint is used as it is, and gateways for this service are known by their form."""

from __future__ import annotations

import pytest

from groq_provider import GroqProvider, ProviderConfig, SystemClock
from groq_provider.transport.session import SessionTransport

CLOUDFLARE = "https://gateway.ai.cloudflare.com/v1/0123abcd/my-gateway/groq"
COMPATIBLE = {"type": "openai_compatible", "default_model": "m"}


def sent_to(config, path="/chat/completions"):
    """The URL that a request of this configuration goes to."""
    transport = SessionTransport(config.base_url, clock=SystemClock(), api_key="gsk_example")
    try:
        return transport.url_of(path)
    finally:
        transport.close()


@pytest.mark.parametrize("more", [{}, COMPATIBLE], ids=["groq", "compatible"])
@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/chat/completions",
        "https://h.example/team/chat/completions",
        "https://h.example/openai/chat/completions",
        "https://h.example/v1/chat/completions",
        "https://h.example/openai/v1/chat/completions",
        "https://h.example/v1/a/b/c/chat/completions",
        "http://localhost:8080/api/chat/completions",
        f"{CLOUDFLARE}/chat/completions",
    ],
)
def test_full_urls_used_as_given(url, more):
    """Also after the configuration was changed, and from its own ``base_url``; other endpoints stand beside it."""
    config = ProviderConfig(api_key="gsk_example", base_url=url, **more)
    again = ProviderConfig(api_key="gsk_example", base_url=config.base_url, **more)
    for one in (config, again, config.with_(timeout=5)):
        assert sent_to(one) == url
        assert sent_to(one, "/models") == url.removesuffix("/chat/completions") + "/models"
        assert one.base_url == config.base_url


@pytest.mark.parametrize("tail", ["", "/", "/chat/completions"])
def test_cloudflare_form_works(tail):
    """The gateway puts the service's own prefix there itself."""
    with GroqProvider(api_key="gsk_example", base_url=CLOUDFLARE + tail) as provider:
        assert provider._transport.url_of("/chat/completions") == f"{CLOUDFLARE}/chat/completions"


def test_service_itself_has_one_place():
    """A host of which every form is known."""
    for url in (
        "api.groq.com",
        "https://api.groq.com/chat/completions",
        "https://api.groq.com/openai/v1/chat/completions",
    ):
        assert (
            sent_to(ProviderConfig(api_key="gsk_example", base_url=url))
            == "https://api.groq.com/openai/v1/chat/completions"
        )


@pytest.mark.parametrize(
    "url", ["https://gateway.example/groq", "https://gateway.example/v1/groq", "https://h.example/team"]
)
def test_other_prefixes_are_as_before(url):
    """A gateway that puts nothing in front gets the service's own prefix, as the official SDK sends it."""
    assert sent_to(ProviderConfig(api_key="gsk_example", base_url=url)) == f"{url}/openai/v1/chat/completions"
