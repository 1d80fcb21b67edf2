"""Before the walk: sites, storages, links and policies as a document; applying it twice changes nothing.

Called by the API for `lightkeeper apply`. What the document does not mention stays as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lightkeeper.context import Context
from lightkeeper.domain.catalog import Media, SiteKind, StorageElement, StorageProtocol
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, Refused, nearest
from lightkeeper.domain.expressions import check_keys, parse_expression
from lightkeeper.domain.names import parse_name, printable
from lightkeeper.domain.policy import MIN_COPIES_TO_FREE, Policy, members_of
from lightkeeper.domain.quality import Figure
from lightkeeper.domain.quality import check as check_figure
from lightkeeper.domain.query import Query
from lightkeeper.domain.units import exact_bytes, exact_rate, exact_time, parse_bytes, parse_rate, parse_time
from lightkeeper.ports import needs_staging
from lightkeeper.steps import keeping, manifests, markers
from lightkeeper.steps import quality as quality_step
from lightkeeper.store import deletions, healing, quality, scrub, stage, switches, topology
from lightkeeper.store.db import Connection
from lightkeeper.store.topology import Declared

MAX_DOCUMENT = 1_000_000
MB = 1_000_000
MAX_DEPTH = 20


# --- the document ----------------------------------------------------------------------------------------------
class Part(BaseModel):
    """A part of the document: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Computing(Part):
    """Computing at a site: which executor starts pilots, and how many at most; the `processors` and `memory` ('16 GB')
    of each, and the `tags` that jobs may ask for. Without `memory` every job fits."""

    executor: str = "local"
    pilots: int = Field(1, ge=0, le=100_000)
    processors: int = Field(1, ge=1, le=10_000)
    memory: str | int | None = None
    tags: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}$")]] = []


class SitePart(Part):
    """A site. Coordinates in degrees, north and east positive."""

    kind: SiteKind = SiteKind.DATA_CENTRE
    country: str = ""
    latitude: float | None = Field(None, ge=-90, le=90)
    longitude: float | None = Field(None, ge=-180, le=180)
    computing: Computing | None = None


class ScrubPart(Part):
    """How copies are read again: `every` like '90 d' or 'never', `rate` like '50 MB/s'; else as in the settings."""

    every: str | int | None = None
    rate: str | None = None


class StatusPart(Part):
    """What may be done on a storage: each `on` or `off`."""

    read: bool = True
    write: bool = True
    delete: bool = True


class ProtocolPart(Part):
    """One way to speak to a storage: the driver, and where it finds the storage's root."""

    driver: str
    root: str


class StoragePart(Part):
    """A storage element. `ingest`: the array control delivers here. `enabled: false`: it is given up, and its copies do
    not count. `protocols`, instead of `driver` and `root`: several ways to the same files, the first that answers is
    used. `draining`: its copies are made elsewhere, then deleted here. `quota` like '10 TB'. `attributes`: what
    storage expressions ask for. `max_transfers`, `max_rate`: streams, and bytes per second, from and to it at once.
    `buffer`: of a tape storage, how much may be staged at once, like '50 TB'; else as much as is wanted."""

    site: str
    root: str = ""
    driver: str = "posix"
    protocols: list[ProtocolPart] = []
    media: Media = Media.DISK
    ingest: bool = False
    enabled: bool = True
    status: StatusPart = StatusPart()
    draining: bool = False
    quota: str | int | None = None
    attributes: dict[str, str | int | float] = {}
    deletions_per_hour: Annotated[int, Field(ge=0)] | None = None
    max_transfers: int = Field(8, ge=1, le=1000)
    max_rate: str | None = None
    scrub: ScrubPart | None = None
    buffer: str | int | None = None


class LinkPart(Part):
    """A way between two sites with its limits. Rate like '1 Gbit/s' or '100 MB/s'."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    max_transfers: int = Field(4, ge=1)
    max_rate: str | None = None


class PolicyPart(Part):
    """What a class of files is owed: copies at distinct data centres, and whether the on-site replica then goes.
    `temporary`: the scopes that `files` names are for temporary products, whose content is not judged; they live for
    `remove_after_hours`, and are owed nothing by policies that do not name their scope."""

    files: dict[str, Any]
    copies: int = Field(ge=1, le=20)
    media: Media = Media.DISK
    free_on_site: bool = False
    min_age_hours: float = Field(0, ge=0)
    remove_after_hours: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    priority: int = Field(5, ge=0, le=9)
    at: str = ""
    min_distance_km: float = Field(0, ge=0, le=20_100)
    source: str = ""
    retention_hours: float = Field(0, ge=0, le=1_000_000)
    protect: bool = False
    quota: str | None = None
    deadline: str | None = None
    activity: str = "preservation"
    temporary: bool = False


class QualityPart(Part):
    """A quality figure: the value of metadata key `key`, of the products that `files` means, is in order from `low` to
    `high`. `per`: two keys of times, the value is divided by the seconds between them. `reduction_to`, instead: the
    bytes of a night's raw files for each byte that it has at that data level."""

    key: str = ""
    per: tuple[str, str] | None = None
    reduction_to: Annotated[int, Field(ge=1, le=100)] | None = None
    files: dict[str, Any] = {}
    low: Annotated[float, Field(allow_inf_nan=False)] | None = None
    high: Annotated[float, Field(allow_inf_nan=False)] | None = None
    unit: str = Field("", max_length=64)
    description: str = Field("", max_length=2000)


Activity = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Share = Annotated[float, Field(gt=0, le=1000)]


class Document(Part):
    """The whole topology."""

    version: Literal[1] = 1
    sites: dict[str, SitePart] = {}
    storages: dict[str, StoragePart] = {}
    links: list[LinkPart] = []
    policies: dict[str, PolicyPart] = {}
    shares: dict[Activity, Share] = {}
    keeper: keeping.KeeperPart | None = None
    quality: dict[str, QualityPart] = {}


def read(text: str) -> Document:
    """The document, checked; raises Invalid naming the line, or the place and the nearest known key."""
    if len(text) > MAX_DOCUMENT:
        raise Invalid(f"the topology has {len(text)} characters; at most {MAX_DOCUMENT} are read")
    if re.search(r"(^|[\s\[{,:-])[&*][A-Za-z0-9_]", text):
        raise Invalid("the topology uses YAML anchors or aliases (&name, *name)", hint="write the values out")
    if max(accumulate((c in "[{") - (c in "]}") for c in text), default=0) > MAX_DEPTH:
        raise Invalid(f"the topology has brackets within brackets more than {MAX_DEPTH} deep")
    try:
        content: object = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except (YAMLError, ValueError, RecursionError) as error:
        raise Invalid(f"the topology is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise Invalid(
            "the topology must be a map with the keys sites, storages, links, policies, shares, keeper, quality"
        )
    try:
        return Document.model_validate(content)
    except ValidationError as error:
        raise _explain(error) from error


def _explain(error: ValidationError) -> Invalid:
    """The first thing that is wrong, in words."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return Invalid(f"unknown key '{key}' at {place}", hint=nearest(key, _known_keys(first["loc"])))
    if first["type"] == "missing":
        return Invalid(f"{place} is missing")
    return Invalid(f"{place}: {first['msg']}")


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, type[Part]] = {
        "sites": SitePart,
        "storages": StoragePart,
        "links": LinkPart,
        "policies": PolicyPart,
        "quality": QualityPart,
    }
    model: type[BaseModel] = Document if len(place) == 1 else parts.get(str(place[0]), Document)
    if place[0] == "keeper":
        model = keeping.KeeperTypePart if "by_type" in place[1:-1] else keeping.KeeperPart
    if "computing" in place[2:-1]:
        model = Computing
    if "scrub" in place[2:-1]:
        model = ScrubPart
    if "protocols" in place[2:-1]:
        model = ProtocolPart
    if "status" in place[2:-1]:
        model = StatusPart
    return [field.alias or name for name, field in model.model_fields.items()]


# --- applying --------------------------------------------------------------------------------------------------
def apply(ctx: Context, text: str, *, dry_run: bool = False) -> list[str]:
    """Make the instance as the document says; return every difference in words. Storages are probed before they are
    taken up. With `dry_run` nothing is changed."""
    document = read(text)
    with ctx.db.transaction() as conn:
        _check(ctx, conn, document)
        changes = _differences(conn, document)
    if dry_run:
        return changes
    if changes:
        for name, part in document.storages.items():
            if part.enabled and any(f"storage {name}:" in change for change in changes):
                _probe(ctx, name, part)
        with ctx.db.transaction() as conn:
            _write(ctx, conn, document, changes)
        ctx.log.info("topology applied", changes=len(changes))
    with ctx.db.transaction() as conn:
        elements = [s for s in topology.storages(conn) if s.name in document.storages and s.enabled]
    markers.take_up(ctx, elements)
    manifests.look_for_newer(ctx, [s for s in elements if f"storage {s.name}: new" in changes])
    return changes


def _check(ctx: Context, conn: Connection, document: Document) -> None:
    for name in document.sites:
        parse_name(name, "site")
    sites = {site.name for site in topology.sites(conn)} | document.sites.keys()
    for name, storage in document.storages.items():
        parse_name(name, "storage")
        _is_known(storage.site, sites, f"storages.{name}.site")
        for way in _ways(name, storage):
            _is_known(way.driver, ctx.storage_drivers, f"storages.{name}.driver")
        _schedule(storage)
        _check_tape(ctx, name, storage)
        _rate(storage)
        _quota(storage)
    for link in document.links:
        _is_known(link.source, sites, "links.from")
        _is_known(link.target, sites, "links.to")
        _rate(link)
    for name, site in document.sites.items():
        if site.computing:
            _is_known(site.computing.executor, ctx.executors, f"sites.{name}.computing.executor")
    if document.keeper is not None:
        keeping.options_of(document.keeper)
    vocabulary = topology.vocabulary(conn)
    for name, policy in document.policies.items():
        parse_name(name, "policy")
        query = Query.from_map(policy.files, vocabulary)
        if policy.free_on_site and policy.copies < MIN_COPIES_TO_FREE:
            raise Invalid(
                f"policies.{name}: free_on_site needs at least {MIN_COPIES_TO_FREE} copies, not {policy.copies}",
                hint="ask for more copies, or keep the file on site",
            )
        _check_options(conn, name, policy, _elements(conn, document))
        _is_known(policy.activity, topology.shares(conn).keys() | document.shares.keys(), f"policies.{name}.activity")
        if policy.at:
            _check_places(f"policies.{name}", policy, _elements(conn, document))
        try:
            members_of(query, vocabulary)
        except Invalid as error:
            raise Invalid(f"policies.{name}.files: {error.message}", hint=error.hint) from None
    for name, part in document.quality.items():
        check_figure(_figure(name, part), vocabulary)
        try:
            members_of(Query.from_map(part.files, vocabulary), vocabulary)
        except Invalid as error:
            raise Invalid(f"quality.{name}.files: {error.message}", hint=error.hint) from None
    used = _used(conn)
    for name, storage in document.storages.items():
        root = _ways(name, storage)[0].root
        if name in used and used[name].retired:
            raise Conflict(
                f"storage {name} was decommissioned on {used[name].retired:%Y-%m-%d}",
                hint="leave it out of the document, or take another name",
            )
        if name in used and used[name].root != root and topology.holds_replicas(conn, used[name].storage_id):
            raise Conflict(
                f"storage {name} holds replicas below {used[name].root}, so its root cannot become {root}",
                hint="add a new storage and let policies fill it",
            )


def _check_tape(ctx: Context, name: str, part: StoragePart) -> None:
    """Raises Invalid for a storage that must be staged from and is not said to be on tape, and the other way round."""
    driver = _ways(name, part)[0].driver
    if needs_staging(ctx.storage_drivers[driver]):
        if part.media is not Media.TAPE:
            raise Invalid(f"storages.{name}: the driver '{driver}' is for tape", hint="media: tape")
        if part.ingest:
            raise Invalid(
                f"storages.{name}: nothing is delivered to tape", hint="deliver to a disk; a rule does the rest"
            )
        _buffer(part)
    elif part.buffer is not None:
        raise Invalid(f"storages.{name}: the driver '{driver}' has no buffer", hint="buffer: is for driver: tape")


def _site(part: SitePart) -> dict[str, Any]:
    said = part.model_dump()
    if part.computing and part.computing.memory is not None:
        said["computing"]["memory"] = exact_bytes(parse_bytes(str(part.computing.memory)) // MB * MB)
    return said


def _buffer(part: StoragePart) -> int | None:
    """Bytes that may be staged at once; None: as many as are wanted."""
    return None if part.buffer is None else parse_bytes(str(part.buffer))


def _buffer_in_words(buffer: int | None) -> str:
    return "any" if buffer is None else exact_bytes(buffer)


def _check_options(conn: Connection, name: str, part: PolicyPart, storages: list[StorageElement]) -> None:
    """Raises Invalid for a number, a time or a source that cannot be, Refused for what a protected policy forbids."""
    try:
        policy = _policy(name, part)
        if part.source:
            check_keys(parse_expression(part.source), storages)
            if not any(policy.copies_from(storage) for storage in storages):
                raise Invalid(f"no storage is meant by source '{part.source}'")
    except Invalid as error:
        raise Invalid(f"policies.{name}: {error.message}", hint=error.hint) from None
    have = {have.name: have for have in topology.policies(conn)}.get(name)
    if have is None:
        return
    if have.withdrawn is not None:
        raise Conflict(f"policies.{name}: a rule of this name was withdrawn and keeps its copies for its retention")
    if not have.query:
        raise Conflict(f"policies.{name}: a rule of this name is on a list of files", hint="choose another name")
    fixed = (have.media, have.at, have.query) == (policy.media, policy.at, policy.query)
    if have.protected and not (policy.protected and fixed and policy.retention >= have.retention):
        raise Refused(
            f"policies.{name} protects its copies: its files, media, at and protect stay, and no less retention",
            hint=f"two people release it first, each with: lightkeeper rule release {name} --by WHO",
        )


def _check_places(place: str, policy: PolicyPart, storages: list[StorageElement]) -> None:
    """Raises Invalid for an expression that means too few data centres."""
    try:
        expression = parse_expression(policy.at)
        check_keys(expression, storages)
    except Invalid as error:
        raise Invalid(f"{place}.at: {error.message}", hint=error.hint) from None
    rule = _policy(place, policy)
    centres = sorted({storage.site for storage in storages if rule.takes(storage)})
    if len(centres) < policy.copies:
        raise Invalid(
            f"{place}.at: {policy.copies} copies on {policy.media} are wanted at '{policy.at}', "
            f"which means {len(centres)} data centres{': ' if centres else ''}{', '.join(centres)}",
            hint="lightkeeper storage list shows what there is",
        )


def _elements(conn: Connection, document: Document) -> list[StorageElement]:
    """Storages as they will be when the document is applied."""
    sites = {site.name: (site.kind, site.country) for site in topology.sites(conn)}
    sites |= {name: (site.kind, site.country) for name, site in document.sites.items()}
    storages = {storage.name: storage for storage in topology.storages(conn)}
    for name, part in document.storages.items():
        kind, country = sites[part.site]
        storages[name] = _element(name, part, kind, country)
    return list(storages.values())


def _element(name: str, part: StoragePart, kind: SiteKind = SiteKind.DATA_CENTRE, country: str = "") -> StorageElement:
    """A storage as the document says; what only the database knows is left out."""
    ways = _ways(name, part)
    return StorageElement(
        0,
        name,
        part.site,
        kind,
        part.media,
        ways[0].driver,
        ways[0].root,
        ingest=part.ingest,
        enabled=part.enabled,
        country=country,
        attributes=_attributes(part),
        read=part.status.read,
        write=part.status.write,
        delete=part.status.delete,
        draining=part.draining,
        quota=_quota(part),
        protocols=ways,
    )


def _ways(name: str, part: StoragePart) -> tuple[StorageProtocol, ...]:
    """The protocols of a storage in their order; raises Invalid when none or too many are given."""
    if bool(part.root) is bool(part.protocols):
        raise Invalid(f"storages.{name}: " + ("root is missing" if not part.root else "give root or protocols"))
    given = part.protocols or [ProtocolPart(driver=part.driver, root=part.root)]
    return tuple(StorageProtocol(rank, one.driver, one.root) for rank, one in enumerate(given))


def _in_order(ways: Sequence[StorageProtocol]) -> str:
    return ", ".join(f"{one.driver} {one.root}" for one in ways)


def _used(conn: Connection) -> dict[str, Declared]:
    """What the topology says of the storages that there are, by name."""
    says = topology.declared(conn)
    return {storage.name: says[storage.storage_id] for storage in topology.storages(conn)}


def _is_known(name: str, known: "set[str] | Any", place: str) -> None:
    if name not in known:
        raise Invalid(f"{place}: '{name}' does not exist", hint=nearest(name, known))


def _differences(conn: Connection, document: Document) -> list[str]:
    """What applying would change, one line each."""
    have: dict[str, dict[str, Any]] = {}
    for site in topology.sites(conn):
        computing = None
        if site.executor:
            computing = Computing(
                executor=site.executor,
                pilots=site.pilots,
                processors=site.processors,
                memory=None if site.memory_mb is None else exact_bytes(site.memory_mb * MB),
                tags=site.tags,
            )
        have[f"site {site.name}"] = SitePart(
            kind=site.kind,
            country=site.country,
            latitude=site.latitude,
            longitude=site.longitude,
            computing=computing,
        ).model_dump()
    own, buffers = scrub.schedules(conn), stage.buffers(conn)
    says = topology.declared(conn)
    limits = deletions.own_limits(conn)
    for storage in topology.storages(conn):
        read_again = _in_words(*own.get(storage.storage_id, (None, None)))
        have[f"storage {storage.name}"] = _storage_part(storage, says[storage.storage_id]) | {
            "scrub": read_again,
            "buffer": _buffer_in_words(buffers.get(storage.name)),
            "max_rate": storage.max_rate,
            "deletions_per_hour": limits.get(storage.storage_id),
        }
    for link in topology.links(conn):
        have[f"link {link.source} to {link.target}"] = {
            "max_transfers": link.max_transfers,
            "max_rate": link.max_rate,
        }
    for policy in topology.policies(conn):
        have[f"policy {policy.name}"] = {
            "files": dict(policy.query),
            "copies": policy.copies,
            "media": policy.media,
            "free_on_site": policy.free_on_site,
            "min_age_hours": policy.min_age.total_seconds() / 3600,
            "remove_after_hours": policy.remove_after.total_seconds() / 3600 if policy.remove_after else None,
            "priority": policy.priority,
            "at": policy.at,
            "min_distance_km": policy.min_distance,
            "source": policy.source,
            "retention_hours": policy.retention.total_seconds() / 3600,
            "protect": policy.protected,
            "quota": None if policy.quota is None else exact_bytes(policy.quota),
            "deadline": None if policy.deadline is None else f"{policy.deadline:%Y-%m-%d %H:%M}",
            "activity": policy.activity,
            "temporary": policy.temporary,
        }
    have |= {f"share of {activity}": {"share": share} for activity, share in topology.shares(conn).items()}
    have["keeper"] = dict(healing.options(conn))
    have |= {
        f"quality figure {k.figure.name}": _of_figure(k.figure)
        for k in quality.figures(conn)
        if k.origin == quality.TOPOLOGY
    }
    want: dict[str, dict[str, Any]] = {f"site {n}": _site(p) for n, p in document.sites.items()}
    if document.keeper is not None:
        want["keeper"] = dict.fromkeys(have["keeper"]) | keeping.options_of(document.keeper)
    want |= {
        f"storage {n}": p.model_dump()
        | {"attributes": _attributes(p), "scrub": _in_words(*_schedule(p)), "max_rate": _rate(p)}
        | {"buffer": _buffer_in_words(_buffer(p))}
        | {"root": _ways(n, p)[0].root, "driver": _ways(n, p)[0].driver, "protocols": _in_order(_ways(n, p)[1:])}
        | {"status": _told(p.status), "quota": _quota_in_words(_quota(p))}
        for n, p in document.storages.items()
    }
    want |= {
        f"link {p.source} to {p.target}": {"max_transfers": p.max_transfers, "max_rate": _rate(p)}
        for p in document.links
    }
    want |= {
        f"policy {n}": p.model_dump()
        | {
            "quota": None if p.quota is None else exact_bytes(parse_bytes(p.quota)),
            "deadline": None if p.deadline is None else f"{_deadline(p.deadline):%Y-%m-%d %H:%M}",
        }
        for n, p in document.policies.items()
    }
    want |= {f"share of {activity}": {"share": share} for activity, share in document.shares.items()}
    want |= {f"quality figure {n}": _of_figure(_figure(n, part)) for n, part in document.quality.items()}
    changes: list[str] = []
    for name, wanted in want.items():
        if name not in have:
            changes.append(f"{name}: new")
        elif have[name] != wanted:
            parts = [
                f"{key} {have[name].get(key)} → {value}"
                for key, value in wanted.items()
                if have[name].get(key) != value
            ]
            changes.append(f"{name}: {', '.join(parts)}")
    return changes


def _figure(name: str, part: QualityPart) -> Figure:
    return Figure(name, **part.model_dump())


def _of_figure(figure: Figure) -> dict[str, Any]:
    return {key: value for key, value in asdict(figure).items() if key != "name"}


def _storage_part(storage: StorageElement, says: Declared) -> dict[str, Any]:
    part = StoragePart(
        site=storage.site,
        root=says.root,
        driver=says.driver,
        media=storage.media,
        ingest=storage.ingest,
        enabled=storage.enabled,
        draining=says.draining,
        attributes=dict(storage.attributes),
        max_transfers=storage.max_transfers,
    )
    status = StatusPart(read=says.read, write=says.write, delete=says.delete)
    further = _in_order(storage.protocols[1:])
    return part.model_dump() | {"status": _told(status), "protocols": further, "quota": _quota_in_words(storage.quota)}


def _told(status: StatusPart) -> str:
    return ", ".join(f"{what} {'on' if on else 'off'}" for what, on in status.model_dump().items())


def _quota(part: StoragePart) -> int | None:
    """Bytes; None: no quota."""
    return None if part.quota is None else parse_bytes(str(part.quota))


def _quota_in_words(quota: int | None) -> str:
    return "none" if quota is None else exact_bytes(quota)


def _schedule(part: StoragePart) -> tuple[timedelta | None, int | None]:
    """How a storage's copies are to be read again; None: as the settings say."""
    if part.scrub is None:
        return None, None
    every, rate = part.scrub.every, part.scrub.rate
    return (
        None if every is None else parse_time(str(every)),
        None if rate is None else parse_rate(rate),
    )


def _in_words(every: timedelta | None, rate: int | None) -> str:
    told = [
        "" if every is None else f"every {exact_time(every)}",
        "" if rate is None else f"at {exact_rate(rate)}",
    ]
    return " ".join(part for part in told if part) or "as in the settings"


def _probe(ctx: Context, name: str, part: StoragePart) -> None:
    with ctx.db.transaction() as conn:
        ours = [scrub.marker(conn, s.storage_id).marker for s in topology.storages(conn) if s.name == name]
    try:
        for way in _ways(name, part):
            storage = ctx.storage_drivers[way.driver](name, way.root)
            storage.probe()
            markers.refuse_foreign(storage, name, way.root, next(iter(ours), None))
    except LightkeeperError as error:
        raise type(error)(f"storage {name} cannot be used: {error.message}", hint=error.hint) from error


def _write(ctx: Context, conn: Connection, document: Document, changes: list[str]) -> None:
    keeping.write(conn, document.keeper)
    for name, site in document.sites.items():
        computing = site.computing
        topology.put_site(
            conn,
            name,
            site.kind,
            site.country,
            site.latitude,
            site.longitude,
            computing.executor if computing else None,
            computing.pilots if computing else 0,
            computing.processors if computing else 1,
            parse_bytes(str(computing.memory)) // MB if computing and computing.memory is not None else None,
            computing.tags if computing else [],
        )
    used = _used(conn)
    for name, storage in document.storages.items():
        element = _element(name, storage)
        if name in used and (used[name].driver, used[name].root) != (element.driver, element.root):
            scrub.set_marked(conn, used[name].storage_id, marked=False)
        topology.put_storage(conn, element)
        if any(change.startswith(f"storage {name}:") for change in changes):
            topology.put_protocols(conn, name, element.protocols[1:])
        scrub.put_schedule(conn, name, *_schedule(storage))
        deletions.put_per_hour(conn, name, storage.deletions_per_hour)
        if needs_staging(ctx.storage_drivers[element.driver]):
            stage.put_tape_storage(conn, name, _buffer(storage))
        topology.put_limits(conn, name, storage.max_transfers, _rate(storage))
    switches.drop_agreed(conn)
    deletions.drains_no_more(conn)
    for link in document.links:
        topology.put_link(conn, link.source, link.target, link.max_transfers, _rate(link))
    topology.put_shares(conn, document.shares)
    for name, part in document.quality.items():
        quality_step.put(conn, _figure(name, part), quality.TOPOLOGY)
    vocabulary = topology.vocabulary(conn)
    for name, policy in document.policies.items():
        members = members_of(Query.from_map(policy.files, vocabulary), vocabulary)
        if policy.temporary and (not members.scopes or policy.remove_after_hours is None):
            raise Invalid(
                f"policy {name} is of temporary products, so it must name their scope and say how long they live",
                hint="files: {file: scope, op: '=', value: scratch}, temporary: true, remove_after_hours: 720",
            )
        topology.put_policy(conn, _policy(name, policy), members)
    if any(change.startswith(("policy", "storage")) for change in changes):
        topology.assign_policies(conn)


def _policy(name: str, part: PolicyPart) -> Policy:
    """The policy that a part of the document says."""
    return Policy(
        0,
        name,
        part.files,
        part.copies,
        part.media,
        part.free_on_site,
        timedelta(hours=part.min_age_hours),
        part.priority,
        part.at,
        part.min_distance_km,
        source=part.source,
        retention=timedelta(hours=part.retention_hours),
        protected=part.protect,
        quota=parse_bytes(part.quota) if part.quota is not None else None,
        deadline=_deadline(part.deadline) if part.deadline is not None else None,
        activity=part.activity,
        remove_after=timedelta(hours=part.remove_after_hours) if part.remove_after_hours else None,
        temporary=part.temporary,
    )


def _deadline(text: str) -> datetime:
    """A moment in UTC; raises Invalid. One that is over is a fact, not a mistake: the document stays as it is."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Invalid(f"'{printable(text)}' is no deadline", hint="write it like '2030-01-02 12:00', in UTC") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _attributes(storage: StoragePart) -> dict[str, str]:
    return {key: str(value) for key, value in storage.attributes.items()}


def _rate(part: LinkPart | StoragePart) -> int | None:
    """Bytes per second; None: unlimited."""
    return parse_rate(part.max_rate) if part.max_rate is not None else None
