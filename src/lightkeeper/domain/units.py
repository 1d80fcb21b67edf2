"""Amounts of data as people write and read them."""

import re
from datetime import timedelta

from lightkeeper.domain.errors import Invalid

_PER_SECOND = {"bit": 1 / 8, "kbit": 125, "mbit": 125_000, "gbit": 125_000_000, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9}


def readable_bytes(n: float) -> str:
    """'1.5 GB': powers of ten, as storage is sold and measured."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} PB"


_BYTES = (
    {"b": 1}
    | {f"{p}b": 1000**n for n, p in enumerate("kmgtp", 1)}
    | {f"{p}ib": 1024**n for n, p in enumerate("kmgtp", 1)}
)


def parse_bytes(text: str) -> int:
    """Bytes of '10 TB', '1.5 TiB' or '1000'; raises Invalid."""
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*", text)
    size = round(float(match[1]) * _BYTES.get(match[2].lower() or "b", 0)) if match else 0
    if not 0 < size < 2**63:
        raise Invalid(f"'{text}' is not an amount of data", hint="write it like '10 TB' or '500 GB'")
    return size


def exact_bytes(n: int) -> str:
    """'10 TB': as `parse_bytes` reads it, nothing rounded away."""
    unit = next((unit for unit in ("PB", "TB", "GB", "MB", "kB") if n % _BYTES[unit.lower()] == 0), "B")
    return f"{n // _BYTES[unit.lower()]} {unit}"


def parse_rate(text: str) -> int:
    """Bytes per second of '1 Gbit/s' or '100 MB/s'; raises Invalid."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)/s\s*", text)
    if match is None or match[2].lower() not in _PER_SECOND or float(match[1]) <= 0:
        raise Invalid(f"'{text}' is not a rate", hint="write it like '1 Gbit/s' or '100 MB/s'")
    return int(float(match[1]) * _PER_SECOND[match[2].lower()])


_SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


def parse_time(text: str) -> timedelta:
    """The time of '90 d', '12 h', '30 min' or '5 s'; none for 'never' and '0'; raises Invalid."""
    if text.strip().lower() in ("never", "0"):
        return timedelta(0)
    match = re.fullmatch(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([a-z]+)\s*", text)
    if match is None or match[2] not in _SECONDS:
        raise Invalid(f"'{text}' is not a time", hint="write it like '90 d', '12 h', or 'never'")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def readable_time(seconds: float) -> str:
    """'3 hours': as people say it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


def exact_time(time: timedelta) -> str:
    """'90 d': as `parse_time` reads it, nothing rounded away."""
    seconds = time.total_seconds()
    if not seconds:
        return "never"
    unit = next((unit for unit, size in _SECONDS.items() if seconds % size == 0), "s")
    return f"{seconds / _SECONDS[unit]:g} {unit}"


def exact_rate(rate: int) -> str:
    """'50 MB/s': as `parse_rate` reads it, nothing rounded away."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if rate % size == 0:
            return f"{rate // size} {unit}/s"
    return f"{rate} B/s"
