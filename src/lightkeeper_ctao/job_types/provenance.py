"""The provenance logs of ctapipe: JSON lists of activities, written back to back without a separator."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import printable
from lightkeeper.domain.provenance import RanActivity

MAX_LOG = 20_000_000


def read_log(log: str) -> list[RanActivity]:
    """The activities in the order they were written; raises Invalid when the log is cut or not such a log."""
    if len(log) > MAX_LOG:
        raise Invalid(f"a provenance log of {len(log)} characters", hint=f"at most {MAX_LOG} are read")
    try:
        ran = [_activity(entry) for entry in _entries(log)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError) as error:
        raise Invalid(
            f"not a provenance log of ctapipe: {printable(f'{type(error).__name__}: {error}')}",
            hint="it holds JSON lists of activities; a cut one means that the program was stopped",
        ) from error
    if not ran:
        raise Invalid("the provenance log tells of no activity")
    return ran


def _entries(log: str) -> Iterator[Mapping[str, Any]]:
    decoder = json.JSONDecoder(parse_constant=lambda _: None)  # NaN is not JSON: the database would refuse it
    position = 0
    while position < len(log):
        if log[position].isspace():
            position += 1
            continue
        entries, position = decoder.raw_decode(log, position)
        if not isinstance(entries, list):
            raise TypeError("a list was expected")
        yield from entries


def _activity(entry: Mapping[str, Any]) -> RanActivity:
    system = entry.get("system") or {}
    stop = entry.get("stop") or {}
    return RanActivity(
        name=_text(entry["activity_name"]),
        uuid=_text(entry["activity_uuid"]),
        started=_time(entry["start"]["time_utc"]),
        ended=_time(stop["time_utc"]) if stop.get("time_utc") else None,
        status=_text(entry["status"]),
        software=_software(system),
        used=_file_names(entry.get("input") or []),
        generated=_file_names(entry.get("output") or []),
        configuration=dict(entry.get("config") or {}),
    )


def _software(system: Mapping[str, Any]) -> dict[str, str]:
    """The program first, then the language, then every package."""
    python = system.get("python") or {}
    software: dict[str, str] = {}
    if "ctapipe_version" in system:
        software["ctapipe"] = _text(system["ctapipe_version"])
    if "version" in python:
        software["python"] = ".".join(map(str, python["version"]))
    return software | {_text(p["name"]): _text(p["version"]) for p in python.get("packages") or []}


def _file_names(products: list[Mapping[str, Any]]) -> tuple[str, ...]:
    names = (_text(product["url"]).rstrip("/").rpartition("/")[2] for product in products)
    return tuple(dict.fromkeys(name for name in names if name))


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"text was expected, not {value!r:.80}")
    return value


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
