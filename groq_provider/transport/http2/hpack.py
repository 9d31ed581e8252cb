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
_KNOWN, _LONGEST = 512, 256
#: What every entry of a head counts beside its texts (RFC 9113, 6.5.2).
_ENTRY = 32


class Unpacker:
    """The receiving end of one connection; each head has to go through it, in order.

    Args:
        most: Size of a head unpacked, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._table = HeaderTable()
        self._largest = self._table.maxsize  # that of the protocol, as our settings say nothing else
        self._known: dict[bytes, bytes] = {}

    def unpack(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a head.

        Raises:
            ValueError: It cannot be unpacked, or is too large; nor can any after it.
        """
        try:
            return self._unpack(block)
        except (HPACKError, IndexError, OverflowError) as error:
            raise ValueError(type(error).__name__) from None

    def _unpack(self, block: bytes) -> list[tuple[bytes, bytes]]:
        table = self._table
        found: list[tuple[bytes, bytes]] = []
        position, end, size = 0, len(block), 0
        while position < end:
            first = block[position]
            if first & 0x80:  # a whole field from the table
                index, position = _integer(block, position, 7)
                name, value = table.get_by_index(index)
            elif first & 0xE0 == 0x20:  # another size of the table
                largest, position = _integer(block, position, 5)
                if found or largest > self._largest:
                    raise ValueError("a size of the table that may not be")
                table.maxsize = largest
                continue
            else:  # texts, for the table (0x40) or not
                index, position = _integer(block, position, 6 if first & 0x40 else 4)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, position = self._text(block, position)
                value, position = self._text(block, position)
                if first & 0x40:
                    table.add(name, value)
            size += len(name) + len(value) + _ENTRY
            if size > self._most:
                raise ValueError("a head that is too large")
            found.append((name, value))
        return found

    def _text(self, block: bytes, position: int) -> tuple[bytes, int]:
        packed = block[position] & 0x80
        length, position = _integer(block, position, 7)
        end = position + length
        text = block[position:end]
        if len(text) != length:
            raise ValueError("a text that is cut off")
        if packed:
            known = self._known
            plain = known.get(text)
            if plain is None:
                plain = bytes(decode_huffman(text))
                if length <= _LONGEST:
                    if len(known) >= _KNOWN:
                        known.clear()
                    known[text] = plain
            text = plain
        return text, end


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
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
