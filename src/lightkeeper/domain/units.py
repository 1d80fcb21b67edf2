"""Amounts of data as people write and read them."""

import re

from lightkeeper.domain.errors import Invalid

_PER_SECOND = {"bit": 1 / 8, "kbit": 125, "mbit": 125_000, "gbit": 125_000_000, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9}


def readable_bytes(n: float) -> str:
    """'1.5 GB': powers of ten, as storage is sold and measured."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} PB"


def parse_rate(text: str) -> int:
    """Bytes per second of '1 Gbit/s' or '100 MB/s'; raises Invalid."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)/s\s*", text)
    if match is None or match[2].lower() not in _PER_SECOND or float(match[1]) <= 0:
        raise Invalid(f"'{text}' is not a rate", hint="write it like '1 Gbit/s' or '100 MB/s'")
    return int(float(match[1]) * _PER_SECOND[match[2].lower()])
