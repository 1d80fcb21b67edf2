"""Manifests: what a storage holds, told beside the data, for whoever has lost the catalogue.

A manifest is one text file. Ordinary tools check it: `sha256sum` takes lines that begin with '#' for comments and reads
the others, each a checksum and a path below the storage's root. The comments are '# ' and a JSON object each:

    # {"manifest": 1, "storage": "north", "previous": "…", …}                    the first line
    # {"set": 0, "state": "Current", "meta": {…}}                                metadata that files share
    # {"document": "…", "body": {…}}                                            what activities share
    # {"activity": 0, "uuid": "…", "name": "…", "used": ["/vo/…"], …}           who made files
    # {"gone": "/vo/scope/old"}                                                  no copy here any more
    # {"size": 5, "adler32": "…", "set": 0, "activity": 0, "created": "…", …}   of the next line's file
    2cf2…9824  vo/scope/file

Numbers of sets and activities hold within one manifest. A manifest is never changed. Its name has the moment of its
facts, by which manifests are read in order, a later line over an earlier one of the same path; and its own sha256.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeAlias, cast
from uuid import UUID

from lightkeeper.domain.errors import Corrupt, Invalid
from lightkeeper.domain.names import Fixity, Lfn, parse_lfn, printable
from lightkeeper.domain.states import File

AREA = "/.lightkeeper/manifests"
VERSION = 1
_NAME = re.compile(r"/(\d{8}T\d{6}\.\d{6})Z-([0-9a-f]{64})\.manifest\Z")
_STAMP = "%Y%m%dT%H%M%S.%f"
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)\Z")


# --- what is told ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class MetaSet:
    """Metadata that files share, and the state of those files."""

    number: int
    state: File
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """A text that activities share: a configuration, a software environment. `sha256` as in the catalogue."""

    sha256: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """An activity that made or registered files, and the names of what it used."""

    number: int
    uuid: str
    name: str
    agent: str
    software: Mapping[str, str]
    started: datetime
    ended: datetime | None
    environment: str | None
    configuration: str | None
    used: Sequence[str]


@dataclass(frozen=True, slots=True)
class Held:
    """A copy that lies on the storage, with all that the catalogue knows of its file. `by`: the file that took its
    place."""

    lfn: Lfn
    fixity: Fixity
    set: int
    activity: int
    created: datetime
    extra: Mapping[str, Any] | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """A copy that does not lie there any more: deleted, forgotten or lost."""

    lfn: Lfn


Item: TypeAlias = MetaSet | Document | Made | Held | Gone


# --- names -----------------------------------------------------------------------------------------------------
def path_of(stamp: datetime, digest: str) -> str:
    """Where the manifest of this moment with this sha256 lies: one folder for each month."""
    at = stamp.astimezone(UTC)
    return f"{AREA}/{at:%Y-%m}/{at:{_STAMP}}Z-{digest}.manifest"


def named(path: str) -> tuple[datetime, str] | None:
    """Moment and sha256 of the manifest at this path; None when it is none."""
    found = _NAME.search(path)
    if not found:
        return None
    try:
        return datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC), found[2]
    except ValueError:
        return None


# --- writing ---------------------------------------------------------------------------------------------------
def written(storage: str, stamp: datetime, previous: str, program: str, items: Iterable[Item]) -> bytes:
    """The manifest of these items, in their order; what copies refer to comes before them."""
    first = {
        "manifest": VERSION,
        "storage": storage,
        "stamp": stamp.astimezone(UTC).isoformat(),
        "previous": previous,
        "program": program,
    }
    lines = [f"# {_dump(first)}\n"]
    lines += [_line(item) for item in items]
    return "".join(lines).encode()


def digest_of(content: bytes) -> str:
    """The sha256 that stands in a manifest's name."""
    return sha256(content).hexdigest()


def _line(item: Item) -> str:
    match item:
        case Held():
            told: dict[str, Any] = {
                "size": item.fixity.size,
                "adler32": item.fixity.adler32,
                "set": item.set,
                "activity": item.activity,
                "created": item.created.isoformat(),
            }
            if item.extra:
                told["extra"] = item.extra
            if item.by:
                told["by"] = item.by
            return f"# {_dump(told)}\n{item.fixity.sha256}  {item.lfn[1:]}\n"
        case Gone():
            return f"# {_dump({'gone': item.lfn})}\n"
        case MetaSet():
            return f"# {_dump({'set': item.number, 'state': str(item.state), 'meta': item.meta})}\n"
        case Document():
            return f"# {_dump({'document': item.sha256, 'body': item.body})}\n"
        case Made():
            activity = {
                "activity": item.number,
                "uuid": item.uuid,
                "name": item.name,
                "agent": item.agent,
                "software": item.software,
                "started": item.started.isoformat(),
                "ended": item.ended and item.ended.isoformat(),
                "environment": item.environment,
                "configuration": item.configuration,
                "used": list(item.used),
            }
            return f"# {_dump(activity)}\n"


_dump = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


# --- reading ---------------------------------------------------------------------------------------------------
def read(path: str, content: bytes) -> Iterator[Item]:
    """What a manifest tells. Raises Corrupt when it is not what was written: its bytes do not have the sha256 of its
    name, or its text cannot be understood. Its content is nobody's we trust: every name and number is checked."""
    name = named(path)
    if name is None:
        raise Corrupt(f"{printable(path)} is no manifest: its name has no time and sha256")
    if digest_of(content) != name[1]:
        raise Corrupt(f"manifest {path} was changed: its bytes have another sha256 than its name says")
    number = 0
    try:
        facts: dict[str, Any] | None = None
        sets: set[int] = set()
        activities: set[int] = set()
        for number, line in enumerate(content.decode().removesuffix("\n").split("\n"), 1):
            if line.startswith("# "):
                told = _object(line[2:])
                facts = None
                if number == 1:
                    _check_first(told)
                elif "size" in told:
                    facts = told
                else:
                    item = _comment(told)
                    if isinstance(item, MetaSet):
                        sets.add(item.number)
                    elif isinstance(item, Made):
                        activities.add(item.number)
                    yield item
                continue
            held = _held(line, facts)
            facts = None
            if held.set not in sets or held.activity not in activities:
                raise Invalid("it refers to a set or an activity that was not told before")
            yield held
    except (ValueError, KeyError, TypeError, AttributeError, Invalid) as error:
        raise Corrupt(f"manifest {path}, line {number}, cannot be understood: {error}") from error


def previous_of(content: bytes) -> str:
    """Path of the manifest that was written to the storage before this one; empty for the first."""
    try:
        return str(_object(content.partition(b"\n")[0].decode()[2:]).get("previous", ""))
    except ValueError:
        return ""


def _check_first(told: Mapping[str, Any]) -> None:
    if told.get("manifest") != VERSION:
        raise Invalid(f"it is of version {printable(str(told.get('manifest')))}, and this program knows {VERSION}")


def _object(text: str) -> dict[str, Any]:
    told = json.loads(text)
    if not isinstance(told, dict):
        raise Invalid("it is no JSON object")
    return cast("dict[str, Any]", told)


def _comment(told: Mapping[str, Any]) -> MetaSet | Document | Made | Gone:
    if "gone" in told:
        return Gone(parse_lfn(str(told["gone"])))
    if "set" in told:
        return MetaSet(int(told["set"]), File(told["state"]), _map(told["meta"]))
    if "document" in told:
        return Document(Fixity(0, str(told["document"]), "00000001").sha256, _map(told["body"]))
    ended = told["ended"]
    return Made(
        number=int(told["activity"]),
        uuid=str(UUID(told["uuid"])),
        name=str(told["name"]),
        agent=str(told["agent"]),
        software={str(key): str(value) for key, value in _map(told["software"]).items()},
        started=datetime.fromisoformat(told["started"]),
        ended=datetime.fromisoformat(ended) if ended else None,
        environment=told["environment"] and str(told["environment"]),
        configuration=told["configuration"] and str(told["configuration"]),
        used=[parse_lfn(str(lfn)) for lfn in told["used"]],
    )


def _held(line: str, facts: Mapping[str, Any] | None) -> Held:
    found = _SUM.match(line)
    if found is None or facts is None:
        raise Invalid(f"'{printable(line[:80])}' is no checksum and path after a line of facts")
    extra, by = facts.get("extra"), facts.get("by")
    return Held(
        lfn=parse_lfn("/" + found[2]),
        fixity=Fixity(int(facts["size"]), found[1], str(facts["adler32"])),
        set=int(facts["set"]),
        activity=int(facts["activity"]),
        created=datetime.fromisoformat(facts["created"]),
        extra=_map(extra) if extra is not None else None,
        by=parse_lfn(str(by)) if by is not None else None,
    )


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid("where a map should be is none")
    return cast("dict[str, Any]", value)
