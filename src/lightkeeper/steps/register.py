"""Beside the walk: files that others have written, and names without data, come into the catalogue by lists.

Before: somebody made a list of names, contents, metadata and storages.    After: audit.py reads the copies, which only
then count as verified; replicate.py sees what is owed. Called by the API. Safe to repeat: a known file is not doubled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from pydantic_core import from_json

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, nearest
from lightkeeper.domain.names import Fixity, Lfn, parse_lfn, printable
from lightkeeper.store import catalog, db, provenance, topology

FIELDS = ("lfn", "size", "sha256", "adler32", "storage", "meta")
NO_DATA = Fixity(0, sha256(b"").hexdigest(), "00000001")
"""The content of a name without data: nothing, which needs no copy to be kept."""
MAX_SIZE = (1 << 63) - 1
MOST_TOLD = 10_000
"""Failures beyond these are counted, not told one by one."""


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list is meant: copies lie `at` this storage unless a line names another; `virtual`: names without data."""

    at: str | None = None
    virtual: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A line that was not registered, and why."""

    line: int
    lfn: str
    error: str
    hint: str = ""


@dataclass(slots=True)
class Listed:
    """What became of a list: files that are new, files known with the same content, and lines that failed."""

    added: int = 0
    known: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list[Failure])

    def fail(self, line: int, lfn: str, error: LightkeeperError) -> None:
        """Note a line that failed."""
        self.failed += 1
        if len(self.failures) < MOST_TOLD:
            self.failures.append(Failure(line, printable(lfn), error.message, error.hint))


def start(ctx: Context, listing: Listing) -> int:
    """The activity that a list's files are registered by; raises NotFound when its storage does not exist."""
    with ctx.db.transaction() as conn:
        if listing.at is not None:
            _storage_id({s.name: s.storage_id for s in topology.storages(conn)}, listing.at)
        if listing.dry_run:
            return 0
        return provenance.add_activity(conn, name="register", agent="operator", software={"lightkeeper": __version__})


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines of a list that were read: files to be registered, with the numbers of their lines, and what failed."""

    batch: catalog.Batch
    numbers: dict[Lfn, int]
    failed: list[tuple[int, str, LightkeeperError]]


def read(ctx: Context, listing: Listing, first: int, lines: Sequence[bytes]) -> Block:
    """Read lines, JSON objects with the keys of FIELDS; `first` is the number of the first in its list."""
    with ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        storages = {s.name: s.storage_id for s in topology.storages(conn)}
    files: list[NewFile] = []
    numbers: dict[Lfn, int] = {}
    failed: list[tuple[int, str, LightkeeperError]] = []
    for number, line in enumerate(_parsed(lines), first):
        if line is None:
            continue
        try:
            file = _read(line, listing, storages)
        except LightkeeperError as error:
            lfn = cast("Mapping[str, Any]", line).get("lfn", "") if isinstance(line, Mapping) else ""
            failed.append((number, str(lfn), error))
        else:
            files.append(file)
            numbers[file.lfn] = number
    batch = catalog.Batch(files, vocabulary)
    failed += [(numbers[file.lfn], file.lfn, error) for file, error in batch.refused]
    return Block(batch, numbers, failed)


def register(ctx: Context, listing: Listing, activity_id: int, block: Block, told: Listed) -> None:
    """Register the files of a block; what becomes of each line is added to `told`. All that can be registered are, in
    one transaction."""
    for number, lfn, error in block.failed:
        told.fail(number, lfn, error)
    if not block.batch.lines:
        return
    result = db.until_free(lambda: _registered(ctx, listing, activity_id, block.batch))
    told.added += len(result.added)
    told.known += len(result.known)
    taken = Conflict(
        "this name is registered already with another content; a file never changes",
        hint="register it under a new name, then: lightkeeper file supersede OLD NEW",
    )
    for lfn in result.conflicts:
        told.fail(block.numbers[lfn], lfn, taken)
    ctx.log.info("list registered", added=len(result.added), known=len(result.known), failed=len(result.conflicts))


def _registered(ctx: Context, listing: Listing, activity_id: int, batch: catalog.Batch) -> catalog.Registered:
    if listing.dry_run:
        with ctx.db.transaction() as conn, conn.transaction(force_rollback=True):
            return catalog.register(conn, batch, catalog.name(conn, batch), activity_id, verified=False)
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        result = catalog.register(conn, batch, names, activity_id, verified=False)
        db.notify(conn, "recheck")
    return result


# --- lines -----------------------------------------------------------------------------------------------------
def _parsed(lines: Sequence[bytes]) -> list[Any]:
    """Each line as JSON, None for an empty one, its text when it is not JSON. Together they are parsed at once, which
    is faster; one by one when one of them is wrong."""
    try:
        together: Any = from_json(b"[" + b",".join(line if line.strip() else b"null" for line in lines) + b"]")
        if len(together) == len(lines):
            return together
    except ValueError:
        pass
    return [_parsed_one(line) for line in lines]


def _parsed_one(line: bytes) -> Any:
    try:
        return from_json(line) if line.strip() else None
    except ValueError:
        return line.decode(errors="replace")


def _read(line: Any, listing: Listing, storages: Mapping[str, int]) -> NewFile:
    """One line as a file to be registered; raises Invalid or NotFound."""
    if isinstance(line, str) and listing.virtual:
        line = {"lfn": line}
    if not isinstance(line, dict):
        raise Invalid(f"the line is no JSON object: {printable(str(line))[:60]}", hint='{"lfn": "/vo/scope/file", …}')
    told = cast("dict[str, Any]", line)
    if not told.keys() <= _KNOWN:
        wrong = min(str(key) for key in told.keys() - _KNOWN)
        raise Invalid(
            f"a line of a list has no '{printable(wrong)}'",
            hint=f"{nearest(wrong, FIELDS)}; values of metadata keys stand under 'meta'",
        )
    lfn, meta = told.get("lfn"), told.get("meta", {})
    if not isinstance(lfn, str):
        raise Invalid("the line names no file", hint='"lfn": "/vo/scope/file"')
    if not isinstance(meta, dict):
        raise Invalid("'meta' is no JSON object", hint='"meta": {"zenith": 20}')
    if listing.virtual:
        if told.keys() & {"size", "sha256", "adler32", "storage"}:
            raise Invalid("a name without data has no size, checksum or storage", hint="leave --virtual out")
        return NewFile(parse_lfn(lfn), NO_DATA, cast("dict[str, Any]", meta), None)
    size = told.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise Invalid("'size' must be the number of bytes", hint='"size": 1048576')
    sums = told.get("sha256"), told.get("adler32")
    if not isinstance(sums[0], str) or not isinstance(sums[1], str):
        raise Invalid(
            "'sha256' and 'adler32' must be given in hexadecimal digits",
            hint="both are needed: what a copy must read as is known from the first moment",
        )
    storage = told.get("storage", listing.at)
    if storage is None:
        raise Invalid("the line names no storage", hint='"storage": "PIC-disk", or --at PIC-disk for all lines')
    where = _storage_id(storages, storage)
    return NewFile(parse_lfn(lfn), Fixity(size, sums[0], sums[1].rjust(8, "0")), cast("dict[str, Any]", meta), where)


_KNOWN = frozenset(FIELDS)


def _storage_id(storages: Mapping[str, int], name: object) -> int:
    if not isinstance(name, str) or name not in storages:
        raise NotFound(f"storage '{printable(str(name))}' does not exist", hint=nearest(str(name), storages))
    return storages[name]
