"""Step 7, by hand: what the audit does by itself is done now, for files that somebody names.

Before: a copy is lost or in doubt.    After: audit.py reads, transfer.py copies, in the order of their queues.
Called by the API; safe to repeat. Nothing is deleted, and no copy that is in order is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.names import Lfn, parse_lfn, printable
from lightkeeper.domain.states import Replica
from lightkeeper.steps.files import Failure
from lightkeeper.store import catalog, provenance, topology, transfers

FIRST = 0
"""Priority of these copies: before everything that waits."""


class Action(StrEnum):
    """What is done about a copy. KEEP: it is in order. READ: it is read again, which decides. COPY: it is made again in
    its place from a good one. WAIT: it is being deleted, or its storage is not in use. GIVE_UP: none is left."""

    KEEP = "keep"
    READ = "read"
    COPY = "copy"
    WAIT = "wait"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Step:
    """What is done about one copy of a file; `source`: a good copy elsewhere; `why` in words."""

    lfn: str
    storage: str
    state: str
    action: Action
    why: str


@dataclass(slots=True)
class Plan:
    """What is done, or would be; names that are no files' are told with the reason."""

    steps: list[Step] = field(default_factory=list[Step])
    failed: list[Failure] = field(default_factory=list[Failure])


def repair(ctx: Context, names: Sequence[str], *, every: bool = False, dry_run: bool = False) -> Plan:
    """Read the doubtful copies of these files again and make the lost ones again in their places, before everything
    else that waits; with `every` all copies are read again. With `dry_run` it is only said."""
    plan = Plan()
    lfns: list[Lfn] = []
    for name in dict.fromkeys(names):
        try:
            lfns.append(parse_lfn(name))
        except LightkeeperError as error:
            plan.failed.append(Failure(printable(name), error.message, error.hint))
    with ctx.db.transaction() as conn:
        elements = {s.name: s for s in topology.storages(conn)}
        files = {file.lfn: file for file in catalog.files_by_lfn(conn, lfns)}
        plan.failed += [Failure(lfn, "it is not in the catalogue") for lfn in lfns if lfn not in files]
        copies: dict[int, list[catalog.ReplicaRow]] = {}
        for copy in catalog.replicas_of(conn, [file.file_id for file in files.values()]):
            copies.setdefault(copy.file_id, []).append(copy)
        to_read: list[tuple[int, int]] = []
        to_copy: list[tuple[int, int]] = []
        hopeless: dict[int, str] = {}
        for lfn, file in files.items():
            own = copies.get(file.file_id, [])
            good = [c.storage for c in own if c.state is Replica.AVAILABLE and elements[c.storage].readable]
            for copy in own:
                element = elements[copy.storage]
                action, why = _action(copy, [s for s in good if s != copy.storage], element.readable, every)
                plan.steps.append(Step(lfn, copy.storage, str(copy.state), action, why))
                if action is Action.READ:
                    to_read.append((file.file_id, element.storage_id))
                elif action is Action.COPY:
                    to_copy.append((file.file_id, element.storage_id))
            if not good and not any(c.state is Replica.SUSPECT for c in own):
                hopeless[file.file_id] = lfn
        makers = provenance.makers(conn, list(hopeless))
        plan.steps += [Step(lfn, "", "", Action.GIVE_UP, _again(makers.get(i))) for i, lfn in hopeless.items()]
        if not dry_run:
            catalog.recheck(conn, to_read)
            transfers.unsettle(conn, [file.file_id for file in files.values()])
            transfers.add_transfers(conn, [(file_id, storage_id, None, FIRST) for file_id, storage_id in to_copy])
    if not dry_run:
        ctx.log.info("repair asked for", files=len(files), read=len(to_read), copied=len(to_copy))
    return plan


def _action(copy: catalog.ReplicaRow, good: Sequence[str], in_use: bool, every: bool) -> tuple[Action, str]:
    if not in_use:
        return Action.WAIT, "its storage is not in use"
    if copy.state is Replica.DELETING:
        return Action.WAIT, "it is being deleted"
    if copy.state is Replica.SUSPECT:
        return Action.READ, "it did not read as it should: once more decides"
    if copy.state is Replica.AVAILABLE:
        return (Action.READ, "as asked") if every else (Action.KEEP, f"verified {copy.verified_at:%Y-%m-%d %H:%M}")
    if good:
        return Action.COPY, f"from {', '.join(good)}"
    return Action.READ, "no good copy is left elsewhere: perhaps its bytes are there again"


def _again(maker: str | None) -> str:
    """What is left to do about a file without a good copy."""
    if maker is None:
        return "no good copy is left: put it again if its bytes are anywhere, or adopt them where they lie"
    return f"no good copy is left: {maker} made it; lightkeeper why tells from what"
