"""Beside the walk: what goes over links, for people. Called by the API.

Transfers begin and end by themselves; somebody who repaired a storage may have those that wait for it begin at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.errors import Invalid, NotFound, nearest
from lightkeeper.domain.names import printable
from lightkeeper.domain.states import Transfer
from lightkeeper.store import db, topology, traffic
from lightkeeper.store.traffic import Flow, Line, Listed
from lightkeeper.store.transitions import move

MOST_DAYS = 3660


def flows(ctx: Context, days: int) -> list[Flow]:
    """What went over each link by day and activity in the last `days` days."""
    if not 1 <= days <= MOST_DAYS:
        raise Invalid(f"days is from 1 to {MOST_DAYS}, not {days}")
    with ctx.db.transaction() as conn:
        return traffic.flows(conn, days)


def listed(ctx: Context, states: Sequence[Transfer], target: str | None, limit: int) -> list[Listed]:
    """Transfers in these states, to one storage or to all."""
    with ctx.db.transaction() as conn:
        if target is not None:
            names = [s.name for s in topology.storages(conn)]
            if target not in names:
                raise NotFound(f"there is no storage '{printable(target)}'", hint=nearest(target, names))
        return traffic.transfers(conn, [str(state) for state in states], target, limit)


def history(ctx: Context, transfer_id: int) -> list[Line]:
    """What happened to one transfer; raises NotFound."""
    with ctx.db.transaction() as conn:
        if not traffic.is_known(conn, transfer_id):
            raise NotFound(f"there is no transfer {transfer_id}", hint="lightkeeper transfer list")
        return traffic.history(conn, transfer_id)


@dataclass(frozen=True, slots=True)
class Retried:
    """Transfers that begin as soon as there is room, and those of the given ones that are made, are under way or are
    not needed any more."""

    begun: list[int]
    passed_over: list[int]


def retry(ctx: Context, ids: Sequence[int] | None, *, dry_run: bool = False) -> Retried:
    """Have transfers that wait, or were given up, begin at once; None: all that were given up in the last week."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        wanted = traffic.given_up(conn) if ids is None else list(ids)
        found = traffic.to_retry(conn, wanted)
        move(conn, found, Transfer.FAILED, Transfer.WAITING, "operator: try again")
        traffic.at_once(conn, found)
        db.notify(conn, "transfer")
    if not dry_run and found:
        ctx.log.info("transfers begin at once", transfers=len(found))
    return Retried(found, [] if ids is None else sorted(set(wanted) - set(found)))
