"""Files, replicas, storage elements, sites, links, metadata keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite
from typing import Any, TypeAlias

from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import Fixity, Lfn, printable
from lightkeeper.domain.states import Health
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.domain.units import readable_bytes

MetaValue: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any]


class KeyType(StrEnum):
    """Type of a metadata key's values; TIME is ISO 8601 in UTC, JSON is any list or map."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    TIME = "time"
    JSON = "json"


class KeyLevel(StrEnum):
    """SET: the same for all files of a set (campaign, night, observation). FILE: differs from file to file."""

    SET = "set"
    FILE = "file"


class KeyRole(StrEnum):
    """What a key says of a night, so that nights can be counted. At most one key has each.

    NIGHT: which observing night; a set-level key. LEVEL: the data level, raw files have 0. ELEMENT: telescope or
    device. DIVISION: event, monitoring, service. BLOCK: the observation block. STREAM: files of one stream are
    numbered, CHUNK: their number, from 0. MEMBER: the number by which other files speak of the element, MEMBERS: the
    elements whose data a file announces.
    """

    NIGHT = "night"
    LEVEL = "level"
    ELEMENT = "element"
    DIVISION = "division"
    BLOCK = "block"
    STREAM = "stream"
    CHUNK = "chunk"
    MEMBER = "member"
    MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class MetaKey:
    """A registered metadata key. `unit` as in the IVOA's VOUnits ('deg', 's', 'TeV'), empty when it has none. `role`:
    what it says of a night, if it says anything."""

    name: str
    type: KeyType
    level: KeyLevel = KeyLevel.SET
    unit: str = ""
    description: str = ""
    role: KeyRole | None = None


OUTPUT = MetaKey("output", KeyType.STRING, description="which output of the CWL tool that made it a file is")
"""The only key that is not the observatory's: it tells apart what one tool makes."""


class Vocabulary:
    """The registered keys; checks and normalises metadata against them."""

    def __init__(self, keys: Iterable[MetaKey]) -> None:
        self._keys = {key.name: key for key in keys}

    def key(self, name: str) -> MetaKey:
        """The key `name`; raises Invalid that names the nearest known one."""
        try:
            return self._keys[name]
        except KeyError:
            raise Invalid(f"unknown metadata key '{printable(name)}'", hint=nearest(name, self._keys)) from None

    def split(self, meta: Mapping[str, MetaValue]) -> tuple[dict[str, MetaValue], dict[str, MetaValue]]:
        """`meta`, checked and normalised, as (set-level values, file-level values)."""
        by_level: dict[KeyLevel, dict[str, MetaValue]] = {KeyLevel.SET: {}, KeyLevel.FILE: {}}
        for name, value in meta.items():
            key = self.key(name)
            by_level[key.level][name] = normalise(key, value)
        return by_level[KeyLevel.SET], by_level[KeyLevel.FILE]

    @property
    def file_level(self) -> frozenset[str]:
        """Names of the keys that differ from file to file."""
        return frozenset(key.name for key in self._keys.values() if key.level is KeyLevel.FILE)

    @property
    def keys(self) -> list[MetaKey]:
        """All keys by name."""
        return sorted(self._keys.values(), key=lambda key: key.name)


MAX_NESTING = 100


def is_storable(value: object, depth: int = 0) -> bool:
    """Whether a JSON value can be kept: texts without NUL and lone surrogates, finite numbers, not nested too deep."""
    if depth > MAX_NESTING:
        return False
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, str):
        try:
            return "\0" not in value and bool(value.encode() or True)
        except UnicodeEncodeError:
            return False
    if isinstance(value, list):
        return all(is_storable(part, depth + 1) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, dict):
        return all(is_storable(k) and is_storable(v, depth + 1) for k, v in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return True


def normalise(key: MetaKey, value: object) -> MetaValue:
    """`value` as the type of `key`, so that equal values are equal in the catalogue: 20 is 20.0 for a float key.

    Raises Invalid for anything that would have to be guessed.
    """
    if type(value) is int and key.type is KeyType.INT:
        return value  # as nearly all are
    if type(value) is str and key.type is KeyType.STRING and value.isascii() and "\0" not in value:
        return value
    if not is_storable(value):
        raise Invalid(
            f"metadata key '{key.name}' holds a character that no catalogue can keep (NUL or half a character), "
            f"or a number that is none, or is nested deeper than {MAX_NESTING}"
        )
    match key.type, value:
        case KeyType.BOOL, bool():
            return value
        case KeyType.INT | KeyType.FLOAT, bool():
            pass
        case KeyType.INT, int():
            return value
        case KeyType.INT, float() if value.is_integer():
            return int(value)
        case KeyType.FLOAT, int() | float() if value == value and abs(value) != float("inf"):
            return float(value)
        case KeyType.STRING, str():
            return value
        case KeyType.TIME, datetime():
            return _time_text(value)
        case KeyType.TIME, str():
            try:
                return _time_text(datetime.fromisoformat(value))
            except (ValueError, OverflowError):
                pass
        case KeyType.JSON, list() | dict():
            return value  # type: ignore[return-value]  # checked to be JSON where it was parsed
        case _:
            pass
    raise Invalid(f"metadata key '{key.name}' is of type {key.type}; {value!r} is not")


def _time_text(time: datetime) -> str:
    """Texts in one zone sort as the times do."""
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return time.isoformat(timespec="microseconds" if time.microsecond else "seconds")


class SiteKind(StrEnum):
    """OBSERVATORY: where data are taken, its storage is a buffer. DATA_CENTRE: where data are kept and processed."""

    OBSERVATORY = "observatory"
    DATA_CENTRE = "data centre"


class Media(StrEnum):
    """What a storage writes on."""

    DISK = "disk"
    TAPE = "tape"


@dataclass(frozen=True, slots=True)
class StorageProtocol:
    """One way to speak to a storage. `rank` 0 is tried first; `answers`: not found away by the last probes."""

    rank: int
    driver: str
    root: str
    answers: bool = True


@dataclass(frozen=True, slots=True)
class StorageElement:
    """A storage at a site. `root` is where its driver finds it; with `ingest`, deliveries are made there. `attributes`
    are what storage expressions ask for; the site's latitude and longitude are in degrees, north and east positive.

    `enabled`: not given up. `read`, `write` and `delete` are switches of the operator, `health` is found by probes;
    what follows from all of them is `readable`, `writable` and `deletable`. `used` counts the bytes of copies that are
    there, and of those that transfers are to bring.
    """

    storage_id: int
    name: str
    site: str
    site_kind: SiteKind
    media: Media
    driver: str
    root: str
    ingest: bool = False
    enabled: bool = True
    country: str = ""
    latitude: float | None = None
    longitude: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    max_transfers: int = 8
    """Streams that go from or to it at once."""
    max_rate: int | None = None
    """Bytes per second that go from or to it; None: no limit."""
    read: bool = True
    write: bool = True
    delete: bool = True
    draining: bool = False
    quota: int | None = None
    used: int = 0
    health: Health = Health.GOOD
    protocols: tuple[StorageProtocol, ...] = ()
    """Every way to speak to it; `driver` and `root` are those of the one that is used now."""

    def by(self, protocol: StorageProtocol) -> "StorageElement":
        """The storage as one of its protocols speaks to it."""
        return replace(self, driver=protocol.driver, root=protocol.root)

    @property
    def readable(self) -> bool:
        """Whether its copies may be read now."""
        return self.enabled and self.read and self.health is not Health.BANNED

    @property
    def writable(self) -> bool:
        """Whether new copies may be written to it now, while there is room: see `has_room`."""
        return self.enabled and self.write and not self.draining and self.health is not Health.BANNED

    @property
    def deletable(self) -> bool:
        """Whether copies may be deleted on it now."""
        return self.enabled and self.delete and self.health is not Health.BANNED

    @property
    def streams(self) -> int:
        """How many streams of transfers it takes at once: a single one while something fails there."""
        return self.max_transfers if self.health is Health.GOOD else 1

    @property
    def keeps(self) -> bool:
        """Whether its copies count for what files are owed: also while it does not answer, but not while it drains."""
        return self.enabled and not self.draining

    @property
    def vouches(self) -> bool:
        """Whether its copies are evidence when another copy is to be deleted: those that stay and can be read now."""
        return self.keeps and self.readable

    def has_room(self, size: int) -> bool:
        """Whether a file of so many bytes stays within the quota."""
        return self.quota is None or self.used + size <= self.quota

    def refuses(self, size: int) -> str:
        """Why no new copy of so many bytes is made here now, in words; empty when one may be."""
        if not self.enabled:
            return "is given up"
        if self.draining:
            return "is draining"
        if not self.write:
            return "takes no new files now"
        if self.health is Health.BANNED:
            return "does not answer"
        return "" if self.has_room(size) else f"is full: its quota is {readable_bytes(self.quota or 0)}"


def in_use(protocols: Sequence[StorageProtocol]) -> StorageProtocol:
    """The protocol by which a storage is spoken to: the first that answers; when none does, the first."""
    return next((protocol for protocol in protocols if protocol.answers), protocols[0])


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of one file, as observed."""

    storage_id: int
    state: ReplicaState
    verified_at: datetime
    state_since: datetime
    written_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be registered: content, metadata and, when its bytes lie somewhere, the storage that has them."""

    lfn: Lfn
    fixity: Fixity
    meta: Mapping[str, MetaValue]
    storage_id: int | None
