"""Decoding header blocks, compared with the decoder of the hpack library."""

from __future__ import annotations

import random

import hpack
import pytest

from groq_provider.transport.http2.hpack import HeaderDecoder

RNG = random.Random(7)
NAMES = [b":status", b"content-type", b"date", b"x-a", b"server", *(b"x-%d" % number for number in range(20))]
VALUES = [bytes(RNG.randrange(256) for _ in range(RNG.randrange(40))) for _ in range(60)]


def theirs(decoder, block):
    """The fields that the library decodes; ``None`` if it refuses the block."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except Exception:
        return None


def ours(header_decoder, block):
    try:
        return header_decoder.decode(block)
    except ValueError:
        return None


@pytest.mark.parametrize("seed", range(40))
def test_heads_are_decoded_alike(seed):
    """Thirty heads in a row: indexed, plain, never indexed, Huffman or not, now and then with a new table size."""
    rng = random.Random(seed)
    encoder, header_decoder, decoder = (
        hpack.Encoder(),
        HeaderDecoder(1 << 20),
        hpack.Decoder(max_header_list_size=1 << 20),
    )
    for _ in range(30):
        if rng.random() < 0.1:
            encoder.header_table_size = rng.choice([0, 100, 1_000, 4_096])
        kinds = [hpack.HeaderTuple, hpack.NeverIndexedHeaderTuple]
        fields = [rng.choice(kinds)(rng.choice(NAMES), rng.choice(VALUES)) for _ in range(rng.randrange(1, 20))]
        block = encoder.encode(fields, huffman=rng.random() < 0.7)
        assert ours(header_decoder, block) == theirs(decoder, block) == [tuple(field) for field in fields]


@pytest.mark.parametrize("seed", range(20))
def test_broken_heads_are_judged_alike(seed):
    """A byte or two changed, or the end missing: both decoders return the same fields, or none."""
    rng = random.Random(seed)
    for _ in range(100):
        block = bytearray(hpack.Encoder().encode([(rng.choice(NAMES), rng.choice(VALUES)) for _ in range(5)]))
        for _ in range(rng.randrange(1, 4)):
            block[rng.randrange(len(block))] = rng.randrange(256)
        if rng.random() < 0.3:
            del block[rng.randrange(len(block)) :]
        found = bytes(block)
        assert ours(HeaderDecoder(1 << 20), found) == theirs(hpack.Decoder(max_header_list_size=1 << 20), found)


@pytest.mark.parametrize(
    "block",
    [
        b"\x82\x3f\xe1\x1f",
        b"\x3f\xe2\x1f",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x80",
        b"\xfe",
        b"\x40\x05abc",
        b"\x40\x81\x00\x00",
        b"\x40",
    ],
    ids=[
        "size after a field",
        "size above ours",
        "endless number",
        "index zero",
        "unknown index",
        "cut text",
        "bad Huffman code",
        "nothing more",
    ],
)
def test_non_head_is_refused(block):
    """An invalid block raises ValueError, whatever the fault."""
    with pytest.raises(ValueError):
        HeaderDecoder(1 << 20).decode(block)


def test_oversized_head_refused_early():
    """A block that would decode to four megabytes is refused before that: one table entry, repeated."""
    block = hpack.Encoder().encode([(b"x", b"y" * 4_000)]) + b"\xbe" * 1_000
    assert len(block) < 6_000
    with pytest.raises(ValueError, match="too large"):
        HeaderDecoder(1 << 20).decode(block)


def test_few_texts_are_remembered():
    """A server that never repeats a string uses no memory."""
    header_decoder = HeaderDecoder(1 << 20)
    for number in range(5_000):
        header_decoder.decode(hpack.Encoder().encode([(b"x-number", b"a%d" % number)]))
    assert len(header_decoder._known_texts) <= 512
