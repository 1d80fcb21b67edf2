"""What can be wrong with a delivery, and what a reader must say about it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from lightkeeper_ctao.fits import BLOCK, CARD, ones_complement

FIRST_BAD = 900


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to damage a delivery; `problem` is part of what a reader must say."""

    name: str
    problem: str
    damage: Callable[[bytes], bytes] = bytes


def _flipped(content: bytes, position: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 0x10
    return bytes(damaged)


def _without(content: bytes, key: str, table: str) -> bytes:
    """`content` without card `key` in the header of `table`, with right checksums."""
    damaged = bytearray(content)
    begin, end = next(span for span in spans_of(content) if f"EXTNAME = '{table}'".encode() in content[slice(*span)])
    card = content.index(f"{key:8s}=".encode(), begin, end)
    damaged[card : card + CARD] = b" " * CARD
    at = damaged.index(b"CHECKSUM= '", begin) + 11
    damaged[at : at + 16] = b"0" * 16
    damaged[at : at + 16] = encoded(ones_complement(bytes(damaged[begin:end])))
    return bytes(damaged)


def _without_sums(content: bytes) -> bytes:
    return re.sub(rb"(?:CHECKSUM|DATASUM )= '.{69}", b" " * CARD, content)


def spans_of(content: bytes) -> list[tuple[int, int]]:
    """Where each HDU begins and ends."""
    begins = [at for at in range(0, len(content), BLOCK) if content.startswith((b"SIMPLE  =", b"XTENSION="), at)]
    return list(zip(begins, [*begins[1:], len(content)], strict=True))


def encoded(total: int) -> bytes:
    """The complement of `total` as sixteen characters without punctuation; FITS standard, appendix J."""
    complement = 0xFFFFFFFF ^ total
    characters = [0] * 16
    for i in range(4):
        quotient, remainder = divmod(complement >> (24 - 8 * i) & 0xFF, 4)
        four = [quotient + remainder + 48, quotient + 48, quotient + 48, quotient + 48]
        while any(58 <= c <= 64 or 91 <= c <= 96 for c in four):
            for j in (0, 2):
                if any(58 <= c <= 64 or 91 <= c <= 96 for c in four[j : j + 2]):
                    four[j] += 1
                    four[j + 1] -= 1
        for j in range(4):
            characters[4 * j + i] = four[j]
    return bytes([characters[15], *characters[:15]])


NO_DATA = Fault("trigger without a data file", "")
OTHER_ID = Fault("observation id differs from the name", "the name says obs_id")
UNKNOWN_ELEMENT = Fault("unknown array element", "is not an array element of the observatory")
FAULTS = (
    Fault(
        "flipped data byte",
        "DATASUM of HDU Events is wrong",
        lambda c: _flipped(c, spans_of(c)[-1][1] - 2 * BLOCK),
    ),
    Fault("cut in the middle", "the file is cut", lambda c: c[: spans_of(c)[-1][1] - BLOCK - 1001]),
    Fault("empty", "the file is empty", lambda _: b""),
    Fault("card PBFHEAD missing", "card PBFHEAD is missing", lambda c: _without(c, "PBFHEAD", "DataStream")),
    Fault("not FITS", "this is not a FITS file", lambda c: b"\x1f\x8b" + c[2:]),
    OTHER_ID,
    NO_DATA,
    Fault("card DATE-END missing", "card DATE-END is missing", lambda c: _without(c, "DATE-END", "Events")),
    Fault("bytes after the end", "bytes follow the last HDU", lambda c: c + b"X" * 1234),
    UNKNOWN_ELEMENT,
    Fault(
        "flipped header byte",
        "CHECKSUM of HDU Events is wrong",
        lambda c: _flipped(c, c.rindex(b"COMPILED") + 12),
    ),
    Fault("no checksums", "carries no CHECKSUM", _without_sums),
    Fault("card ORIGIN missing", "card ORIGIN is missing", lambda c: _without(c, "ORIGIN", "DataStream")),
)
