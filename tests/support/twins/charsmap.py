"""The table of characters that SentencePiece puts in its models and ``tokenizer.json`` calls ``precompiled_charsmap``.

Layout: four bytes with the size of the trie, the trie, then the replacements, each ended by a zero byte. The trie is a
double array of darts-clone, 32 bits a unit: bits 0 to 7 are the label, bit 8 says that a key ends here, bits 10 to 30
are the distance to the children; the unit of an ended key holds where its replacement begins.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Mapping

_ENDS = 1 << 8


def nfkc_charsmap() -> bytes:
    """Return a table of a few characters that NFKC changes, and of controls that become spaces or nothing."""
    changed = "①②③④⑤％＆ＡＢＣａｂｃ１２３ﬁ㈜㎏½"
    table = {character: unicodedata.normalize("NFKC", character) for character in changed}
    return charsmap({**table, **dict.fromkeys("\t\n\r\u3000\xa0", " "), "\u200b": "", "\xad": ""})


def charsmap(table: Mapping[str, str]) -> bytes:
    """Return the table for ``table``, from characters to what replaces them."""
    starts: dict[bytes, int] = {}
    replacements = b""
    for key, replacement in table.items():
        starts[key.encode()] = len(replacements)
        replacements += replacement.encode() + b"\0"
    prefixes = sorted({key[:end] for key in starts for end in range(len(key) + 1)})
    block = {prefix: 256 * (number + 1) for number, prefix in enumerate(prefixes)}  # one per prefix: none overlap
    units = [0] * (256 * (len(prefixes) + 1))
    units[0] = block[b""] << 10
    for prefix in prefixes[1:]:
        place = block[prefix[:-1]] + prefix[-1]
        units[place] = (place ^ block[prefix]) << 10 | prefix[-1]
        if prefix in starts:
            units[place] |= _ENDS
            units[block[prefix]] = starts[prefix]
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + replacements
