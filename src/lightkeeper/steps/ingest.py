"""Step 1: a trigger says a file is complete; it is verified, its metadata read, and it is in the catalogue.

Before: watch.py found the trigger.    After: replicate.py sees what copies are owed; quarantine.py has what is refused.
Worker: a turn of Ingest when woken. Safe to run twice and in several workers: a delivery is claimed with a lease, and a
name that is registered already with the same content is the same delivery. Files are read by processes (verify.py,
reading.py) while what was read before is registered; a file that takes long stays in hand and holds up no other.

The trigger file goes only after the commit that made the file known, or after the file lies in the quarantine.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from queue import Empty, SimpleQueue

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.catalog import NewFile, StorageElement, Vocabulary
from lightkeeper.domain.delivering import LATE, SOON, Refuse, Register, Verdict, Wait, verdict
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.names import Lfn, printable
from lightkeeper.domain.states import Replica
from lightkeeper.steps import admit, quarantine
from lightkeeper.steps.outcome import Outcome
from lightkeeper.steps.reading import SUFFIX, Reading, identity
from lightkeeper.steps.verify import Order, pickled, verifier
from lightkeeper.store import catalog, provenance, topology, transitions, triggers
from lightkeeper.store.db import Connection
from lightkeeper.store.triggers import Claim

PAUSE = 0.05
"""Seconds that a turn waits for what has been read."""
TAKEN = "this name is registered already with another content; a file never changes: deliver it under a new name"
ANOTHER = Wait(timedelta(seconds=1), "another storage has delivered a file of this name just now")


@dataclass(frozen=True, slots=True)
class _Read:
    """A delivery that has been read, and what that came to."""

    claim: Claim
    element: StorageElement
    reading: Reading


def register_accepted(ctx: Context) -> int:
    """Verify all deliveries that are due, register what is good, refuse what is not; return how many were either."""
    ingest = Ingest()
    done = ingest.turn(ctx)
    while ingest.busy:
        done += ingest.turn(ctx)
    ingest.close()
    return done


class Ingest:
    """The duty: it keeps enough deliveries in hand that the processes always have some to read."""

    def __init__(self) -> None:
        self.in_hand: dict[int, tuple[Claim, StorageElement]] = {}
        """What is being read, by the number of its order."""
        self._read: list[_Read] = []
        """What has been read and is not dealt with yet, because the database failed meanwhile."""
        self._numbers = count()
        self._answers: SimpleQueue[list[tuple[int, Reading]]] = SimpleQueue()
        self._renewed = time.monotonic()
        self._beside = ThreadPoolExecutor(1, "triggers")
        self._removed = self._beside.submit(int)
        self.busy = False
        """Whether something is in hand, or is to be taken in hand again at once."""

    def __call__(self, ctx: Context) -> int:
        """A turn; zero when nothing is left to do."""
        return self.turn(ctx) + self.busy

    def close(self) -> None:
        """Wait for what is done beside."""
        self._beside.shutdown()
        self._removed.result()

    def turn(self, ctx: Context) -> int:
        """Take deliveries in hand, and deal with those that have been read; return how many were registered or
        refused."""
        vocabulary = self._take(ctx)
        self._collect(ctx.settings.ingest_batch)
        self.busy = bool(self.in_hand)
        if not self._read:
            return 0
        self._read = _admitted(ctx, self._read)
        verdicts = [(one, _verdict(ctx, one)) for one in self._read]
        good, twice = _each_name_once(one for one, what in verdicts if isinstance(what, Register))
        outcome = _register(ctx, good, vocabulary)
        self._remove(ctx, outcome.done)
        refused = [(one, what.why) for one, what in verdicts if isinstance(what, Refuse)] + outcome.failed
        kept = _refuse(ctx, refused)
        waits = [(one, what) for one, what in verdicts if isinstance(what, Wait)]
        waits += [(one, ANOTHER) for one in twice] + kept
        _put_back(ctx, waits)
        self._read.clear()
        self.busy |= any(not wait.time for _, wait in waits)
        done, refusals = len(outcome.done), len(refused) - len(kept)
        ctx.log.info("ingested", registered=done, quarantined=refusals, waiting=len(waits))
        return done + refusals

    def _take(self, ctx: Context) -> Vocabulary:
        """Claim what there is room for and have it read; keep the leases of what is in hand."""
        settings = ctx.settings
        with ctx.db.transaction() as conn:
            if self.in_hand and time.monotonic() - self._renewed > settings.lease.total_seconds() / 3:
                triggers.renew(conn, [claim for claim, _ in self.in_hand.values()], settings.lease)
                self._renewed = time.monotonic()
            room = 2 * settings.ingest_batch - len(self.in_hand)
            claims = triggers.claim(conn, room, settings.lease) if room > 0 else []
            elements = {s.storage_id: s for s in topology.storages(conn)}
            vocabulary = topology.vocabulary(conn)
        if claims:
            storages = {id_: pickled(ctx.local_storage(elements[id_])) for id_ in {c.storage_id for c in claims}}
            taken = {next(self._numbers): claim for claim in claims}
            self.in_hand |= {number: (claim, elements[claim.storage_id]) for number, claim in taken.items()}
            verifier(ctx).read(
                Order(number, storages[claim.storage_id], claim.path, self._answers) for number, claim in taken.items()
            )
        return vocabulary

    def _remove(self, ctx: Context, done: Sequence[_Read]) -> None:
        """Have triggers removed beside, while the next files are registered: it waits for the disk."""
        self._removed.result()
        self._removed = self._beside.submit(_remove_trigger_files, ctx, done)

    def _collect(self, batch: int) -> None:
        """Wait shortly for what has been read, up to a batch."""
        end = time.monotonic() + PAUSE
        while self.in_hand and len(self._read) < batch:
            try:
                told = self._answers.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                return
            self._read += [_Read(*self.in_hand.pop(number), reading) for number, reading in told]


def _admitted(ctx: Context, read: Sequence[_Read]) -> list[_Read]:
    """What is not judged has no problems: temporary products, and what a person answers for."""
    odd = [one.reading.product for one in read if one.reading.product is not None and one.reading.product.problems]
    kinds = admit.kinds(ctx, {product.lfn for product in odd if product.lfn is not None})
    return [replace(one, reading=admit.delivered(one.claim, one.reading, kinds)) for one in read]


def _verdict(ctx: Context, one: _Read) -> Verdict:
    reading = one.reading
    return verdict(
        reading.found,
        reading.product.problems if reading.product else (),
        reading.why,
        quiet=timedelta(seconds=reading.quiet),
        waited=one.claim.waited,
        attempts=one.claim.attempts,
        patience=ctx.settings.trigger_patience,
    )


def _each_name_once(good: Iterable[_Read]) -> tuple[list[_Read], list[_Read]]:
    """Another storage may have delivered the same name: the first, and the others, which come later."""
    first: dict[str, _Read] = {}
    others: list[_Read] = []
    for one in good:
        if first.setdefault(one.claim.path, one) is not one:
            others.append(one)
    return list(first.values()), others


def _register(ctx: Context, good: Sequence[_Read], vocabulary: Vocabulary) -> Outcome[_Read]:
    """Register verified deliveries with provenance, and close them, in one transaction."""
    if not good:
        return Outcome()
    by_lfn = {one.claim.path: one for one in good}
    batch = catalog.Batch((_new_file(one) for one in good), vocabulary)
    failed = [(by_lfn[file.lfn], error.message) for file, error in batch.refused]
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        ours = triggers.still_ours(conn, [one.claim for one in good])
        batch.keep(lfn for lfn, one in by_lfn.items() if one.claim.trigger_id in ours)
        result = catalog.register(conn, batch, names, _activities(conn, good))
        known = result.added | result.known
        done = [by_lfn[lfn] for lfn in known]
        triggers.registered(conn, [one.claim.trigger_id for one in done], list(known.values()))
        overwritten = [(file_id, by_lfn[lfn].claim.storage_id) for lfn, file_id in result.conflicts.items()]
        why = "overwritten on site by a delivery with other content"
        transitions.move_replicas(conn, overwritten, Replica.AVAILABLE, Replica.LOST, why)
    return Outcome(done, failed + [(by_lfn[lfn], TAKEN) for lfn in result.conflicts])


def _activities(conn: Connection, good: Sequence[_Read]) -> dict[Lfn, int]:
    """The activity of each file: one for all, but each person's who answers for some of them."""
    software = {"lightkeeper": __version__}
    made_by: dict[str | None, int] = {}
    for one in good:
        person = one.claim.released_by
        if person not in made_by:
            those = {o.claim.path: list(o.reading.waived) for o in good if person and o.claim.released_by == person}
            told = {"released": those} if those else None
            made_by[person] = provenance.add_activity(
                conn, name="ingest", agent=person or "lightkeeper", software=software, configuration=told
            )
    return {Lfn(one.claim.path): made_by[one.claim.released_by] for one in good}


def _new_file(one: _Read) -> NewFile:
    product = one.reading.product
    if product is None or product.lfn is None or product.fixity is None:
        raise ValueError(f"{one.claim.path}: it is to be registered, but has no name or no fixity")
    return NewFile(product.lfn, product.fixity, product.meta, one.claim.storage_id)


def _remove_trigger_files(ctx: Context, done: Sequence[_Read]) -> None:
    """Remove the triggers that were there before their files were read; a newer one announces a new delivery. One that
    cannot be removed now is found again by looking, and its file is known then."""
    for element, folder, those in _by_folder(done):
        newer: list[str] = []
        with suppress(OSError, LightkeeperError):
            local = ctx.local_storage(element).local_path(f"{folder}/{SUFFIX}").parent
            for one in those:
                name = one.claim.path.rpartition("/")[2]
                there = identity(local, f"/{name}")
                if there is None:
                    continue
                if there == one.reading.trigger:
                    (local / (name + SUFFIX)).unlink(missing_ok=True)
                else:
                    newer.append(one.claim.path)
        if newer:
            with ctx.db.transaction() as conn:
                triggers.accept(conn, element.storage_id, newer)


def _refuse(ctx: Context, refused: Sequence[tuple[_Read, str]]) -> list[tuple[_Read, Wait]]:
    """Put refused deliveries into the quarantine; those that could not be moved there now, and are to be read again."""
    kept: list[tuple[_Read, Wait]] = []
    for one, why in refused:
        try:
            quarantine.put(ctx, one.element, one.claim, why)
        except (LightkeeperError, OSError) as error:
            kept.append((one, Wait(LATE, f"it is refused ({why}), but cannot be moved to the quarantine: {error}")))
    return kept


def _put_back(ctx: Context, waits: Sequence[tuple[_Read, Wait]]) -> None:
    """Give claims back, to be read again later; those that lost them meanwhile are left alone."""
    if not waits:
        return
    for one, wait in waits:
        if wait.time > SOON:
            ctx.log.warning("delivery waits", path=printable(one.claim.path), why=wait.why)
    with ctx.db.transaction() as conn:
        triggers.put_back(conn, [(one.claim, wait.time, wait.counts) for one, wait in waits])


def _by_folder(read: Sequence[_Read]) -> Iterator[tuple[StorageElement, str, list[_Read]]]:
    """Deliveries by the folder they lie in."""
    folders: dict[tuple[int, str], list[_Read]] = {}
    for one in read:
        folders.setdefault((one.claim.storage_id, one.claim.path.rpartition("/")[0]), []).append(one)
    for (_, folder), those in folders.items():
        yield those[0].element, folder, those
