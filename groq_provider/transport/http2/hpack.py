"""Decodes the header blocks of responses (HPACK, RFC 7541), with the tables of the ``hpack`` library.

The decoder of that library takes a third of the CPU of a whole call: servers such as nginx send every string of every
head anew, in a Huffman code that is slow to decode in Python. These strings are nearly always the same, so they are
looked up here.
"""

from __future__ import annotations

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

__all__ = ["HeaderDecoder"]

#: Most decoded strings to remember, and the longest of them.
_MAX_KNOWN, _MAX_KNOWN_LENGTH = 512, 256
#: Bytes that each field adds to the size of a head besides its strings (RFC 9113, 6.5.2).
_FIELD_OVERHEAD = 32


class HeaderDecoder:
    """The decoder of one connection. Pass every header block to it, in order.

    Args:
        max_size: Largest size of a decoded head, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._table = HeaderTable()
        self._max_table_size = self._table.maxsize  # the default, which our settings do not change
        self._known_texts: dict[bytes, bytes] = {}

    def decode(self, header_block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a head.

        Raises:
            ValueError: The block is invalid or too large. No later block can be decoded.
        """
        try:
            return self._decode_fields(header_block)
        except (HPACKError, IndexError, OverflowError) as error:
            raise ValueError(type(error).__name__) from None

    def _decode_fields(self, header_block: bytes) -> list[tuple[bytes, bytes]]:
        table = self._table
        fields: list[tuple[bytes, bytes]] = []
        position, end, head_size = 0, len(header_block), 0
        while position < end:
            first_byte = header_block[position]
            if first_byte & 0x80:  # a whole field from the table
                index, position = _read_integer(header_block, position, 7)
                name, value = table.get_by_index(index)
            elif first_byte & 0xE0 == 0x20:  # a new size of the table
                table_size, position = _read_integer(header_block, position, 5)
                if fields or table_size > self._max_table_size:
                    raise ValueError("invalid size of the header table")
                table.maxsize = table_size
                continue
            else:  # strings, to be added to the table (0x40) or not
                index, position = _read_integer(header_block, position, 6 if first_byte & 0x40 else 4)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, position = self._read_text(header_block, position)
                value, position = self._read_text(header_block, position)
                if first_byte & 0x40:
                    table.add(name, value)
            head_size += len(name) + len(value) + _FIELD_OVERHEAD
            if head_size > self._max_size:
                raise ValueError("the head is too large")
            fields.append((name, value))
        return fields

    def _read_text(self, header_block: bytes, position: int) -> tuple[bytes, int]:
        is_huffman = header_block[position] & 0x80
        length, position = _read_integer(header_block, position, 7)
        end = position + length
        text = header_block[position:end]
        if len(text) != length:
            raise ValueError("string cut off")
        if is_huffman:
            known_texts = self._known_texts
            decoded = known_texts.get(text)
            if decoded is None:
                decoded = bytes(decode_huffman(text))
                if length <= _MAX_KNOWN_LENGTH:
                    if len(known_texts) >= _MAX_KNOWN:
                        known_texts.clear()
                    known_texts[text] = decoded
            text = decoded
        return text, end


def _read_integer(header_block: bytes, position: int, prefix_bits: int) -> tuple[int, int]:
    """Read an integer that begins in the last *bits* of a byte; return it and the position of its end."""
    prefix_mask = (1 << prefix_bits) - 1
    number = header_block[position] & prefix_mask
    position += 1
    if number < prefix_mask:
        return number, position
    for shift in (0, 7, 14, 21):
        next_byte = header_block[position]
        position += 1
        number += (next_byte & 0x7F) << shift
        if next_byte < 0x80:
            return number, position
    raise ValueError("integer too large")
