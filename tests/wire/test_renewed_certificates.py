"""Bundles of CA certificates are files that others replace while a program runs."""

from __future__ import annotations

import ssl

import pytest
from support.certificates import new_authority
from support.servers import always, answer, serving

from groq_provider import GroqProvider, TLSError

ANSWER = always(answer(b'{"data": []}', "Connection: close"))


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_replaced_bundle_is_read(http2, tmp_path):
    """The same provider trusts what the file holds now; a file that is away for a moment changes nothing."""
    if http2:
        pytest.importorskip("h2")
    bundle = tmp_path / "ca.pem"
    old, new = new_authority(), new_authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    new.issue_cert("localhost").configure_cert(context)
    old.cert_pem.write_to_path(str(bundle))
    with (
        serving(ANSWER, context) as server,
        GroqProvider(api_key="k", base_url=server.url, ca_bundle=str(bundle), max_retries=0, http2=http2) as provider,
    ):
        with pytest.raises(TLSError):
            provider.request("GET", "/models")
        fresh = tmp_path / "fresh.pem"
        new.cert_pem.write_to_path(str(fresh))
        fresh.replace(bundle)
        assert provider.request("GET", "/models") == {"data": []}
        bundle.rename(fresh)
        assert provider.request("GET", "/models") == {"data": []}
        old.cert_pem.write_to_path(str(bundle))
        with pytest.raises(TLSError):
            provider.request("GET", "/models")
