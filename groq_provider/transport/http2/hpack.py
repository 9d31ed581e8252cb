"""Unpacks the heads of answers (HPACK, RFC 7541), with the tables of the ``hpack`` library.

Its own decoder takes a third of the CPU of a whole call: servers such as nginx pack every text of every head anew, with a Huffman code
that is slow to undo in Python. They are the same texts nearly every time, and are looked up here.
"""

from __future__ import annotations

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

__all__ = ["Unpacker"]

#: Of the texts met, so many are remembered, none longer than this.
_MAX_KNOWN, _MAX_KNOWN_LENGTH = 512, 256
#: What every entry of a head counts beside its texts (RFC 9113, 6.5.2).
_FIELD_OVERHEAD = 32


class Unpacker:
    """The receiving end of one connection; each head has to go through it, in order.

    Args:
        max_size: Size of a head unpacked, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._table = HeaderTable()
        self._max_table_size = self._table.maxsize  # that of the protocol, as our settings say nothing else
        self._known_texts: dict[bytes, bytes] = {}

    def unpack(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a head.

        Raises:
            ValueError: It cannot be unpacked, or is too large; nor can any after it.
        """
        try:
            return self._unpack_fields(block)
        except (HPACKError, IndexError, OverflowError) as error:
            raise ValueError(type(error).__name__) from None

    def _unpack_fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        table = self._table
        fields: list[tuple[bytes, bytes]] = []
        position, end, size = 0, len(block), 0
        while position < end:
            first = block[position]
            if first & 0x80:  # a whole field from the table
                index, position = _read_integer(block, position, 7)
                name, value = table.get_by_index(index)
            elif first & 0xE0 == 0x20:  # another size of the table
                table_size, position = _read_integer(block, position, 5)
                if fields or table_size > self._max_table_size:
                    raise ValueError("a size of the table that may not be")
                table.maxsize = table_size
                continue
            else:  # texts, for the table (0x40) or not
                index, position = _read_integer(block, position, 6 if first & 0x40 else 4)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, position = self._read_text(block, position)
                value, position = self._read_text(block, position)
                if first & 0x40:
                    table.add(name, value)
            size += len(name) + len(value) + _FIELD_OVERHEAD
            if size > self._max_size:
                raise ValueError("a head that is too large")
            fields.append((name, value))
        return fields

    def _read_text(self, block: bytes, position: int) -> tuple[bytes, int]:
        is_huffman = block[position] & 0x80
        length, position = _read_integer(block, position, 7)
        end = position + length
        text = block[position:end]
        if len(text) != length:
            raise ValueError("a text that is cut off")
        if is_huffman:
            known_texts = self._known_texts
            plain = known_texts.get(text)
            if plain is None:
                plain = bytes(decode_huffman(text))
                if length <= _MAX_KNOWN_LENGTH:
                    if len(known_texts) >= _MAX_KNOWN:
                        known_texts.clear()
                    known_texts[text] = plain
            text = plain
        return text, end


def _read_integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """Read a number that begins in the last *bits* of a byte; return it and where it ends."""
    mask = (1 << bits) - 1
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    for shift in (0, 7, 14, 21):
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number that is too large")
