"""Step 3, before its bytes move: copies on tape are brought online for those who read them, in batches.

Before: replicate.py queued transfers, transform.py made tasks, somebody ordered files.    After: transfer.py and run.py
read what is online. Worker: stage when woken and every 2 s, look_after_wishes every minute, archive every 10 s. Safe to
run twice: one worker at a time speaks with a storage, by a lease with an epoch.

The storage's own id of a request is known only after it answered. A request without one is asked again, whoever died in
between: a storage that has it twice mounts nothing twice, and drops the first one's pins when their time is over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import Lfn, parse_lfn, printable
from lightkeeper.domain.staging import estimate, look_again, next_batch
from lightkeeper.domain.units import readable_bytes
from lightkeeper.domain.work import retry_delay
from lightkeeper.ports import Locality, Staged, Staging, TapeStorage
from lightkeeper.steps import audit
from lightkeeper.steps.catalogue import compiled, read_query
from lightkeeper.store import catalog, db, topology, transfers, transitions
from lightkeeper.store import stage as recalls
from lightkeeper.store.stage import Fault, Order, Request, TapeUse, Turn, Volume, Wanted

PAGE = 1000
AWAY = timedelta(seconds=30)
"""A storage that does not answer is left alone for so long."""
SLOWLY = 30
"""A file that could not be staged waits so many times longer than a copy that failed: tapes are slow."""


# --- the worker's turn -----------------------------------------------------------------------------------------
def stage(ctx: Context) -> int:
    """Speak with every tape storage that something is wanted of; how much was done."""
    with ctx.db.transaction() as conn:
        recalls.end_orders(conn, None)
    done = 0
    spoken: set[int] = set()
    while True:
        with ctx.db.transaction() as conn:
            turn = recalls.take_turn(conn, ctx.settings.lease)
            elements = {s.storage_id: s for s in topology.storages(conn)}
        if turn is None or turn.storage_id in spoken:
            if turn is not None:
                with ctx.db.transaction() as conn:
                    recalls.end_turn(conn, turn)
            return done
        spoken.add(turn.storage_id)
        done += _turn(ctx, elements[turn.storage_id], turn)


def _turn(ctx: Context, element: StorageElement, turn: Turn) -> int:
    wait, trouble, done = timedelta(0), "", 0
    tape = ctx.tape(element)
    try:
        if tape is None:
            raise Unavailable(f"the driver '{element.driver}' of {element.name} cannot stage")
        speaker = _Speaker(ctx, element, tape, turn)
        done += speaker.release()
        done += speaker.renew()
        done += speaker.ask()
        done += speaker.look()
    except _Fenced:
        return done
    except LightkeeperError as error:  # the others do not wait for it
        wait, trouble = min(AWAY, ctx.settings.retry_after * 15), error.message
        ctx.log.warning("tape storage waits", storage=element.name, why=error.message)
    with ctx.db.transaction() as conn:
        recalls.end_turn(conn, turn, wait, trouble)
    return done


class _Fenced(Exception):
    """The turn is another worker's: what we learnt is not recorded."""


@dataclass(frozen=True, slots=True)
class _Speaker:
    """One worker speaking with one tape storage. Every method reads and claims, lets the database go, asks the storage,
    and records what it said if the turn is still ours."""

    ctx: Context
    element: StorageElement
    tape: TapeStorage
    turn: Turn

    def _ours(self, conn: db.Connection) -> None:
        if not recalls.still_ours(conn, self.turn, self.ctx.settings.lease):
            raise _Fenced

    def ask(self) -> int:
        """Ask for what waits, in batches, as far as the buffer has room."""
        asked, most = 0, self.ctx.settings.stage_batch
        while True:
            with self.ctx.db.transaction() as conn:
                self._ours(conn)
                queue, room = recalls.queue(conn, self.turn, most + 1)
                batch = next_batch(queue, room, self.turn.buffer, most)
                recalls.never_fit(conn, [(i, self._too_large(needed)) for i, needed in batch.too_large])
                request_id = recalls.begin_request(conn, self.turn, batch.take) if batch.take else None
            if request_id is None and not batch.too_large:
                return asked
            if request_id is not None:
                self._ask(Request(request_id, None, None, None))
            asked += len(batch.take)

    def _too_large(self, needed: int) -> str:
        buffer = readable_bytes(self.turn.buffer or 0)
        return f"{readable_bytes(needed)} are needed at once; the buffer of {self.element.name} is {buffer}"

    def renew(self) -> int:
        """Ask again for what is needed longer than it is pinned; what cannot be renewed in time is online no more."""
        lifetime, asked = self.ctx.settings.stage_lifetime, 0
        with self.ctx.db.transaction() as conn:
            self._ours(conn)
            recalls.lost_pins(conn, self.turn)
        while True:
            with self.ctx.db.transaction() as conn:
                self._ours(conn)
                before = db.now(conn) + lifetime / 3
                request_id = recalls.begin_renewal(conn, self.turn, before, self.ctx.settings.stage_batch)
            if request_id is None:
                return asked
            self._ask(Request(request_id, None, None, None))
            asked += 1

    def _ask(self, request: Request) -> None:
        with self.ctx.db.transaction() as conn:
            wanted = recalls.files_of(conn, request.request_id)
        if not wanted:
            return
        try:
            handle = self.tape.stage([one.path for one in wanted], self.ctx.settings.stage_lifetime)
        except Unavailable:
            raise
        except LightkeeperError as error:  # it refuses them: some may never be staged, which single ones would tell
            self._failed(wanted, {one.path: error.message for one in wanted}, {})
            return
        with self.ctx.db.transaction() as conn:
            self._ours(conn)
            recalls.was_asked(conn, request.request_id, handle)
        size = sum(one.size for one in wanted)
        self.ctx.log.info("asked to stage", storage=self.element.name, files=len(wanted), bytes=size, request=handle)

    def look(self) -> int:
        """Ask how far the requests are that are due."""
        with self.ctx.db.transaction() as conn:
            self._ours(conn)
            recalls.close_requests(conn, self.turn)
            due = recalls.requests_due(conn, self.turn)
        return sum(self._look(request) for request in due)

    def _look(self, request: Request) -> int:
        if request.handle is None:
            self._ask(request)
            return 1
        with self.ctx.db.transaction() as conn:
            wanted = recalls.files_of(conn, request.request_id)
        try:
            told = self.tape.staged(request.handle)
        except NotFound as error:
            told = {one.path: Staged(Staging.FAILED, error.message) for one in wanted}
        by_state = {state: [one for one in wanted if told.get(one.path, _UNTOLD).state is state] for state in Staging}
        failed = by_state[Staging.FAILED]
        where: Mapping[str, Locality] = self.tape.localities([one.path for one in failed]) if failed else {}
        with self.ctx.db.transaction() as conn:
            self._ours(conn)
            now = db.now(conn)
            since = request.looked or request.asked or now
            came = recalls.came_online(
                conn, [one.recall_id for one in by_state[Staging.ONLINE]], since + self.ctx.settings.stage_lifetime
            )
            rest = by_state[Staging.WAITING]
            wait = look_again(request.asked or now, now) if rest else self.ctx.settings.stage_lifetime / 4
            recalls.looked(conn, request, min(wait, self.ctx.settings.stage_lifetime / 4))
        if failed:
            self._failed(failed, {one.path: told.get(one.path, _UNTOLD).error for one in failed}, where)
        if came:
            self.ctx.log.info("staged", storage=self.element.name, files=came, request=request.handle)
        return came + len(failed)

    def _failed(self, wanted: Sequence[Wanted], errors: Mapping[str, str], where: Mapping[str, Locality]) -> None:
        """Try again later, or give up; a copy that its storage lost is Suspect, and others are made in its place."""
        settings = self.ctx.settings
        gone = [one for one in wanted if where.get(one.path) in (Locality.LOST, Locality.NONE)]
        faults = [
            Fault(
                one.recall_id,
                one.state,
                errors.get(one.path) or "its storage does not say why",
                None
                if one in gone or one.attempts + 1 >= settings.stage_attempts
                else retry_delay(one.attempts + 1, settings.retry_after * SLOWLY),
            )
            for one in wanted
        ]
        with self.ctx.db.transaction() as conn:
            self._ours(conn)
            recalls.did_not_come(conn, faults)
            stored = {s.file_id: s for s in catalog.stored_on(conn, self.element.storage_id, [g.file_id for g in gone])}
            for one in gone:
                if one.file_id in stored:
                    fault = f"its storage says that it is {str(where[one.path]).lower()}"
                    audit.suspect(self.ctx, conn, self.element, stored[one.file_id], fault)
        for fault in faults[:10]:
            self.ctx.log.warning("not staged", storage=self.element.name, why=fault.error, again=fault.wait is not None)

    def release(self) -> int:
        """Tell the storage what nobody needs any more."""
        released = 0
        while True:
            with self.ctx.db.transaction() as conn:
                self._ours(conn)
                unneeded = recalls.begin_release(conn, self.turn, self.ctx.settings.stage_every, PAGE)
            for handle, group in groupby(unneeded, key=lambda one: one.handle):
                files = list(group)
                if handle is not None:
                    on_their_way = [one.path for one in files if not one.was_online]
                    if on_their_way:
                        self.tape.cancel(handle, on_their_way)
                    self.tape.release(handle, [one.path for one in files])
            with self.ctx.db.transaction() as conn:
                self._ours(conn)
                recalls.released(conn, [one.recall_id for one in unneeded])
            released += len(unneeded)
            if len(unneeded) < PAGE:
                return released


_UNTOLD = Staged(Staging.WAITING)
"""A file that a request's answer leaves out: nothing is known of it."""


def look_after_wishes(ctx: Context) -> int:
    """Have staged what transfers and tasks wait for, whatever announcement was missed."""
    with ctx.db.transaction() as conn:
        wanted = recalls.wish_for_all(conn)
    if wanted:
        ctx.log.info("to be staged", files=wanted)
    return 0


# --- on tape ---------------------------------------------------------------------------------------------------
def archive(ctx: Context) -> int:
    """Ask which of the copies that were read back are on tape by now: only then they count. How many are."""
    with ctx.db.transaction() as conn:
        elements = [s for s in topology.storages(conn) if s.readable]
    done = 0
    for element in elements:
        tape = ctx.tape(element)
        if tape is not None:
            try:
                done += _archive(ctx, element, tape)
                done += _look_for_the_audit(ctx, element, tape)
            except LightkeeperError as error:
                ctx.log.warning("tape storage does not tell what is on tape", storage=element.name, why=error.message)
    return done


def _archive(ctx: Context, element: StorageElement, tape: TapeStorage) -> int:
    after = done = 0
    while True:
        with ctx.db.transaction() as conn:
            page = recalls.buffered(conn, element.storage_id, after, PAGE)
        if not page:
            return done
        where = tape.localities([one.path for one in page])
        on_tape = [one.file_id for one in page if where[one.path].on_tape]
        gone = [one.file_id for one in page if where[one.path] in (Locality.LOST, Locality.NONE)]
        with ctx.db.transaction() as conn:
            moved = recalls.archived(conn, element.storage_id, on_tape)
            lost = recalls.lost_from_buffer(conn, element.storage_id, gone)
            transfers.unsettle(conn, [*moved, *lost])
            if moved:
                db.notify(conn, "input")
        if moved or lost:
            ctx.log.info("on tape", storage=element.name, files=len(moved), lost=len(lost))
        done += len(moved)
        after = page[-1].file_id


def _look_for_the_audit(ctx: Context, element: StorageElement, tape: TapeStorage) -> int:
    """Have copies staged that are to be read again; what the storage says again that it has not is Lost. How many are.

    A copy becomes Suspect by one word of its storage, and Lost by another one, some time later, at the earliest.
    """
    with ctx.db.transaction() as conn:
        page = recalls.to_be_read(conn, element.storage_id, PAGE)
    if not page:
        return 0
    where = tape.localities([one.path for one in page])
    gone = {
        one.file_id: f"its storage says that it is {str(where[one.path]).lower()}"
        for one in page
        if where[one.path] in (Locality.LOST, Locality.NONE)
    }
    with ctx.db.transaction() as conn:
        recalls.wish_for_copies(conn, [(o.file_id, o.storage_id) for o in page if o.file_id not in gone])
        lost = recalls.say_lost(conn, element.storage_id, gone)
        for one in page:
            if one.file_id in gone and one.file_id not in lost:
                audit.suspect(ctx, conn, element, one, gone[one.file_id])
        what = f"its copy at {element.name} is given up; another is made while one is left"
        transitions.remedied(conn, "file", lost, what, "its storage lost it")
        transfers.unsettle(conn, lost)
    return len(lost)


# --- orders ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class NewOrder:
    """What somebody wants online: a query, or names. `to`: also copied to that storage. `lifetime` in hours."""

    query: str | Mapping[str, Any] | None = None
    files: tuple[str, ...] = ()
    to: str | None = None
    lifetime: float = 24.0
    priority: int = 5


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order that was made, or would be: its volume, the room that the buffers have for it, how long it may take."""

    order_id: int | None
    volume: Volume
    tapes: list[TapeUse]
    seconds: float | None


MOST_HOURS = 24 * 366


def order(ctx: Context, new: NewOrder, *, dry_run: bool = False) -> Ordered:
    """Have files staged, and kept online or copied elsewhere; with `dry_run` say what that means, in files and bytes.
    Raises NotFound for names that the catalogue has not, Refused when nothing can be read or staged."""
    if not 0 < new.lifetime <= MOST_HOURS:
        raise Invalid(f"a lifetime is more than 0 and at most {MOST_HOURS} hours")
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        target = _target(topology.storages(conn), new.to)
        lifetime = timedelta(hours=new.lifetime)
        to = target and target.storage_id
        order_id = recalls.add_order(conn, _told(new), lifetime, new.priority, to, trial=dry_run)
        if new.query is not None:
            recalls.order_files_meant(conn, order_id, compiled(conn, read_query(conn, new.query)))
        names = [parse_lfn(name) for name in new.files]
        known = {file.lfn: file.file_id for file in catalog.files_by_lfn(conn, names)}
        _must_be_known(names, known)
        recalls.order_files(conn, order_id, list(known.values()))
        volume = recalls.volume(conn, order_id)
        if not volume.files:
            raise NotFound("no file is meant", hint="lightkeeper find shows what there is")
        if volume.without == volume.files:
            raise Refused(
                f"none of the {volume.files} files has a copy that can be read or staged",
                hint="lightkeeper file replicas NAME",
            )
        if not dry_run:
            recalls.wish_for_order(conn, order_id)
        tapes = recalls.use(conn)
        seconds = estimate(volume.to_stage_bytes, recalls.rate(conn))
    if not dry_run:
        ctx.log.info("staging ordered", order=order_id, files=volume.to_stage, bytes=volume.to_stage_bytes)
    return Ordered(None if dry_run else order_id, volume, tapes, seconds)


def _target(storages: Sequence[StorageElement], name: str | None) -> StorageElement | None:
    if name is None:
        return None
    element = audit.element_named(storages, name)
    if element.ingest or element.refuses(0):
        raise Refused(f"nothing is copied to {name}", hint="name a data centre's disk: lightkeeper storage list")
    return element


def _told(new: NewOrder) -> str:
    if new.files:
        return printable(new.files[0]) + (f" and {len(new.files) - 1} more" if len(new.files) > 1 else "")
    return printable(str(new.query))[:500]


def _must_be_known(names: Sequence[Lfn], known: Mapping[Lfn, int]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise NotFound(f"{missing[0]}{more}: no such file in the catalogue", hint="lightkeeper find")


@dataclass(frozen=True, slots=True)
class Shown:
    """An order, how far it is, why files are not online, and how long the rest may take."""

    order: Order
    percent: float
    state: str
    reasons: list[dict[str, Any]]
    seconds: float | None


def show(ctx: Context, order_id: int) -> Shown:
    """One order; raises NotFound."""
    with ctx.db.transaction() as conn:
        found = recalls.orders(conn, order_id)
        if not found:
            raise NotFound(f"there is no staging order {order_id}", hint="lightkeeper stage list")
        reasons = [{"storage": s, "why": why, "files": n} for s, why, n in recalls.reasons(conn, order_id)]
        rate = recalls.rate(conn)
    return _shown(found[0], reasons, rate)


def find(ctx: Context) -> list[Shown]:
    """The newest orders, and how far each is."""
    with ctx.db.transaction() as conn:
        found = recalls.orders(conn, None)
        rate = recalls.rate(conn)
    return [_shown(one, [], rate) for one in found]


def tapes(ctx: Context) -> list[TapeUse]:
    """What is asked of every tape storage."""
    with ctx.db.transaction() as conn:
        return recalls.use(conn)


def cancel(ctx: Context, order_id: int) -> Shown:
    """End an order: nothing is kept online for it any more. Raises NotFound. An order that ended stays as it is."""
    show(ctx, order_id)
    with ctx.db.transaction() as conn:
        ended = recalls.end_orders(conn, order_id)
    if ended:
        ctx.log.info("staging cancelled", order=order_id)
    return show(ctx, order_id)


def _shown(one: Order, reasons: list[dict[str, Any]], rate: float) -> Shown:
    percent = 100 * one.there / one.files if one.files else 100.0
    state = "ended" if one.ended else "complete" if one.there == one.files else "under way"
    if state == "under way" and one.failed and one.there + one.failed == one.files:
        state = "stuck"
    return Shown(one, percent, state, reasons, estimate(one.bytes - one.there_bytes, rate) if not one.ended else None)
