"""Step 9, for a night: what was expected, came, was refused, is preserved and freed, and the receipt at its end.

Before: every step that registers files or makes and deletes copies.    After: a person who wants to know.
Worker: a Keeper counts every 2 s and closes what is complete. Called by the API. Safe to run twice: one counts at a
time, and a night is closed by one of two.

A night is counted from files and copies whenever something of it changed, a metadata set at a time; pages add up the
counts. A file that comes after a night was closed opens it again: the next receipt names it.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from lightkeeper import signing
from lightkeeper.context import Context
from lightkeeper.domain import nights as decide
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound
from lightkeeper.domain.names import printable
from lightkeeper.domain.nights import RAW, Product, Receipt, Report, Summary
from lightkeeper.domain.states import Night
from lightkeeper.steps import quality
from lightkeeper.store import db, nights
from lightkeeper.store.db import Connection
from lightkeeper.store.nights import Expected, Refused
from lightkeeper.store.transitions import move

AT_ONCE = 50_000
"""Files that are looked at in one transaction, unless one metadata set has more."""
WHILE_ASKED = 20_000
"""Files that are looked at while somebody waits for an answer; what is more than that is left to the worker."""
REST = 20.0
"""Counting rests so many times as long as it took: it never takes more than a twentieth of a processor."""
REFUSED = 10_000
RECEIPTS = "receipts"
LISTED = 1000


# --- counting --------------------------------------------------------------------------------------------------
class Keeper:
    """Counts what is due, and closes complete nights; rests in between."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def __call__(self, ctx: Context) -> int:
        """Count once, and close; always 0, since it rests even when there is more to do."""
        begin = time.monotonic()
        if begin >= self._not_before:
            count_due(ctx, AT_ONCE)
            close_complete(ctx)
            self._not_before = time.monotonic() + REST * (time.monotonic() - begin)
        return 0


def count_due(ctx: Context, limit: int, *, wait: bool = False) -> int:
    """Count what changed, about `limit` files at the most; how many metadata sets that were. Without `wait` none, when
    somebody else is at it."""
    _find_refused(ctx)
    with ctx.db.transaction() as conn:
        if not nights.take_turn(conn, wait=wait):
            return 0
        sets = [set_id for set_id, _ in nights.due(conn, limit)]
        changed = nights.count(conn, sets) if sets else []
        reopened = _reopen_late(conn, changed)
    for night in reopened:
        ctx.log.warning("night reopened", night=night, why="files came late")
    return len(sets)


def count_all(ctx: Context) -> None:
    """Count everything that is due now."""
    while count_due(ctx, AT_ONCE, wait=True):
        pass


def _count_while_asked(ctx: Context) -> None:
    """Count before an answer, when that takes no time."""
    with ctx.db.transaction() as conn:
        files = nights.due_files(conn)
    if files <= WHILE_ASKED:
        count_due(ctx, WHILE_ASKED)


def _find_refused(ctx: Context) -> None:
    """Find out which night refused deliveries belong to; their path is all that there is of them."""
    while True:
        with ctx.db.transaction() as conn:
            found = nights.refused_without_night(conn, REFUSED)
            if found:
                nights.put_refused(conn, [(number, night_of(ctx, path)) for number, path in found])
        if len(found) < REFUSED:
            return


def night_of(ctx: Context, path: str) -> str:
    """The night that a path tells of; empty when it tells none."""
    return next((night for observatory in ctx.observatories if (night := observatory.night_of(path))), "")


def _reopen_late(conn: Connection, changed: Sequence[int]) -> list[str]:
    """Open closed nights again that have files their receipt does not name; their names."""
    late: list[tuple[int, str]] = []
    for one in nights.closed(conn, changed):
        summary, receipts = nights.by_name(conn, one.night), nights.receipts(conn, one.night)
        latest = nights.latest(conn, one.night)
        if summary and latest and receipts and decide.is_late(summary, latest, receipts[0]):
            late.append((one.night_id, one.night))
    moved = move(conn, [number for number, _ in late], Night.CLOSED, Night.OPEN, "files came after it was closed")
    return [night for number, night in late if number in moved]


# --- looking ---------------------------------------------------------------------------------------------------
def find(ctx: Context, limit: int = 100) -> list[Summary]:
    """Nights, the latest first."""
    _count_while_asked(ctx)
    with ctx.db.transaction() as conn:
        return nights.summaries(conn, limit)


def show(ctx: Context, night: str) -> Report:
    """Everything there is to say of a night. Raises NotFound."""
    _count_while_asked(ctx)
    with ctx.db.transaction() as conn:
        return _report(ctx, conn, night)


def _report(ctx: Context, conn: Connection, night: str) -> Report:
    summary = nights.by_name(conn, night)
    if summary is None:
        raise NotFound(f"nothing came in or was expected in night '{printable(night)}'", hint="lightkeeper night list")
    gaps = decide.gaps(nights.streams(conn, night))
    by_list = summary.expected is not None
    missing = summary.missing if summary.expected is not None else sum(gap.files for gap in gaps)
    open_ = sum(n for folder, n in nights.open_folders(conn) if night_of(ctx, folder + "x") == night)
    return Report(
        summary=summary,
        expected=summary.expected if summary.expected is not None else summary.files + missing,
        by_list=by_list,
        missing=missing,
        open=open_,
        elements=nights.elements(conn, night),
        divisions=nights.divisions(conn, night),
        products=[
            Product(made.level, made.files, made.bytes, summary.bytes / made.bytes if made.bytes else 0.0)
            for made in nights.levels(conn, night)
            if made.level > RAW
        ],
        gaps=gaps[:LISTED],
        receipts=nights.receipts(conn, night),
        lacks=decide.lacks(summary, missing, open_),
        alarms=[alarm.told for alarm in quality.alarms_in(conn) if alarm.value.night == night],
    )


def refused(ctx: Context, night: str, limit: int = LISTED) -> list[Refused]:
    """Deliveries of a night that lie in the quarantine."""
    _find_refused(ctx)
    with ctx.db.transaction() as conn:
        return nights.refused(conn, night, limit)


def missing(ctx: Context, night: str, limit: int = LISTED) -> list[str]:
    """Files that a list said would come and that did not, by name."""
    with ctx.db.transaction() as conn:
        return nights.missing(conn, night, limit)


# --- what was expected -----------------------------------------------------------------------------------------
def expect(ctx: Context, night: str, files: Sequence[Expected], *, dry_run: bool = False) -> int:
    """Add files to those that a night is expected to have; how many are new. A night that is closed stays so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}", night, re.ASCII):
        raise Invalid(f"'{printable(night)}' is no name of a night", hint="nights are called like 2026-03-14")
    with ctx.db.transaction() as conn:
        if dry_run:
            known = nights.night_id(conn, night)
            return len(files) - (nights.expected_among(conn, known, [f.lfn for f in files]) if known else 0)
        return nights.expect(conn, night, files)


def expect_nothing(ctx: Context, night: str) -> int:
    """Forget the list of a night: its observation blocks say again what to expect. How many files it had."""
    with ctx.db.transaction() as conn:
        return nights.expect_nothing(conn, night)


# --- closing ---------------------------------------------------------------------------------------------------
def close_complete(ctx: Context) -> list[str]:
    """Close nights that are complete and that nothing changed of for a while; their names."""
    quiet = ctx.settings.close_nights_after
    if not quiet:
        return []
    closed: list[str] = []
    with ctx.db.transaction() as conn:
        names = nights.quiet(conn, quiet.total_seconds())
    for night in names:
        try:
            with ctx.db.transaction() as conn:
                report, now = _report(ctx, conn, night), db.now(conn)
            if decide.is_due(report.summary, report.lacks, now, quiet):
                close(ctx, night, by="lightkeeper")
                closed.append(night)
        except LightkeeperError as error:  # a night that cannot be signed now does not stop the others
            ctx.log.warning("night not closed", night=night, why=error.message)
    return closed


def close(ctx: Context, night: str, *, by: str, why: str = "", as_it_is: bool = False, dry_run: bool = False) -> Report:
    """Close a night with a signed receipt. Raises Conflict when it is not complete, unless it is to be closed
    `as_it_is`, for which there must be a reason; the receipt says what it lacks."""
    if as_it_is and not why.strip():
        raise Invalid("a night that is not complete is closed for a reason", hint="--why 'the disk of LSTN-02 failed'")
    count_all(ctx)
    with ctx.db.transaction() as conn:
        report = _report(ctx, conn, night)
    _check(report, as_it_is=as_it_is)
    if dry_run:
        return report
    receipt, signature, written = _write_receipt(ctx, night, by, why)
    try:
        with ctx.db.transaction() as conn:
            number = nights.night_id(conn, night)
            if number is None or not move(conn, [number], Night.OPEN, Night.CLOSED, why or f"closed by {by}"):
                raise Conflict(f"night {night} was closed by somebody else at the same time")
            nights.add_receipt(conn, night, receipt, signature)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    count_all(ctx)  # what came while the receipt was written opens the night again at once
    ctx.log.info("night closed", night=night, revision=receipt.revision, files=receipt.files, by=by)
    return show(ctx, night)


def _check(report: Report, *, as_it_is: bool) -> None:
    night = report.summary.night
    if report.summary.state is Night.CLOSED:
        raise Conflict(f"night {night} is closed", hint=f"lightkeeper night receipt {night}")
    if report.lacks and not as_it_is:
        raise Conflict(
            f"night {night} is not complete: {'; '.join(report.lacks)}",
            hint="wait; or close it with --as-it-is --why REASON",
        )


def _write_receipt(ctx: Context, night: str, by: str, why: str) -> tuple[Receipt, bytes, Path]:
    """Write the receipt of a night as it is in one moment, durably; what is to be noted of it, and where it lies."""
    folder = ctx.settings.home / RECEIPTS
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}-{time.monotonic_ns()}.new"
    hashed, size = sha256(), 0
    try:
        with ctx.db.transaction() as conn, temporary.open("xb") as file:
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            made, report = db.now(conn), _report(ctx, conn, night)
            revision = report.receipts[0].revision + 1 if report.receipts else 1
            head = decide.receipt_head(report, revision=revision, made=made, closed_by=by, why=why)
            for line in _lines(conn, night, head):
                text = line.encode() + b"\n"
                hashed.update(text)
                size += file.write(text)
            file.flush()
            os.fsync(file.fileno())
        signature = signing.sign(ctx.settings.home, hashed.digest())
        key = signing.fingerprint(signing.public_key(ctx.settings.home))
        final = receipt_path(ctx, hashed.hexdigest())
        temporary.rename(final)
        _sync(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    summary = report.summary
    receipt = Receipt(
        revision, made, summary.files, summary.bytes, size, hashed.hexdigest(), key, printable(by), printable(why)
    )
    return receipt, signature, final


def _lines(conn: Connection, night: str, head: Sequence[str]) -> Iterator[str]:
    """The receipt, line by line: `sha256sum -c` reads it in the root of a storage that has every file."""
    yield from head
    for one in nights.refused(conn, night, 1_000_000):
        yield f"# refused {_whole(one.path)}: {_whole(one.reason)}"
    for path in nights.missing(conn, night, 10_000_000):
        yield f"# missing {path}"
    for lfn, digest, removed in nights.received(conn, night):
        yield f"# removed {digest}  {lfn[1:]}" if removed else f"{digest}  {lfn[1:]}"


def _whole(text: str) -> str:
    """A text from outside on one line, however long it is."""
    return "".join(printable(text[begin : begin + 200]) for begin in range(0, len(text), 200))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- receipts --------------------------------------------------------------------------------------------------
def receipt_path(ctx: Context, digest: str) -> Path:
    """Where the receipt with this sha256 lies."""
    return ctx.settings.home / RECEIPTS / f"{digest}.receipt"


def receipt(ctx: Context, night: str, revision: int | None = None) -> tuple[Receipt, bytes, Path]:
    """A receipt of a night, the last one unless a revision is given, its signature and where it lies. NotFound."""
    with ctx.db.transaction() as conn:
        known = nights.receipts(conn, night)
        found = next((one for one in known if revision in (None, one.revision)), None)
        signature = nights.signature(conn, night, found.revision) if found else b""
    if found is None:
        what = f"no receipt {revision}" if known else "no receipt: it was not closed yet"
        raise NotFound(f"night '{printable(night)}' has {what}", hint=f"lightkeeper night show {printable(night)}")
    path = receipt_path(ctx, found.sha256)
    if not path.exists():
        raise NotFound(
            f"receipt {found.revision} of night {printable(night)} is not on this machine",
            hint=f"it is the file with sha256 {found.sha256}, written where the night was closed",
        )
    return found, signature, path


def public_key(ctx: Context) -> str:
    """The key by which anybody can check the signatures of this instance's receipts, as PEM text."""
    return signing.public_key(ctx.settings.home)
