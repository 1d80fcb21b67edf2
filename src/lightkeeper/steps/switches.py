"""Beside the walk: what an operator does to a storage by hand: switch it, empty it, end it. Called by the API.

The topology document says what is wanted in the long run; a switch says what must be so now, and why. `apply` neither
undoes it nor fights it. Emptying is done by `replicate` and `delete`, on evidence as always.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import SiteKind, StorageElement
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, Refused, nearest
from lightkeeper.domain.names import printable
from lightkeeper.store import deletions, reports, switches, topology
from lightkeeper.store.db import Connection
from lightkeeper.store.reports import StorageUse
from lightkeeper.store.switches import Left, Switch

OPERATIONS = ("read", "write", "delete")


@dataclass(frozen=True, slots=True)
class Shown:
    """A storage, what is switched on it by hand, and what is left on it."""

    use: StorageUse
    switches: list[Switch]
    left: Left


def show(ctx: Context, name: str) -> Shown:
    """Everything that is known of one storage; raises NotFound."""
    with ctx.db.transaction() as conn:
        element = _named(conn, name)
        (use,) = [one for one in reports.storage_use(conn) if one.storage == name]
        found = switches.switches(conn, element.storage_id)
        return Shown(use, found, switches.left(conn, element.storage_id))


def set_(ctx: Context, name: str, wanted: Mapping[str, bool | None], why: str, *, dry_run: bool = False) -> list[str]:
    """Switch reading, writing, deleting on or off by hand; None: as the topology says. What changes, in words."""
    unknown = [key for key in wanted if key not in OPERATIONS]
    if unknown or not wanted:
        raise Invalid(f"what is switched is one of {', '.join(OPERATIONS)}")
    if any(value is not None for value in wanted.values()) and not why.strip():
        raise Invalid("a reason is needed: whoever comes after you must know", hint="--why TEXT")
    return _switch(ctx, name, wanted, why, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining a storage means: what changes, in words, and what is left on it now."""

    changes: list[str]
    left: Left


def drain(ctx: Context, name: str, why: str, *, undo: bool = False, dry_run: bool = False) -> Drained:
    """Have a storage emptied: its files are copied elsewhere, then its copies are deleted. `undo` ends that; what was
    deleted by then is not brought back."""
    if not undo and not why.strip():
        raise Invalid("a reason is needed: whoever comes after you must know", hint="--why TEXT")
    with ctx.db.transaction() as conn:
        element = _named(conn, name)
        others = {
            s.site
            for s in topology.storages(conn)
            if s.writable and s.site_kind is SiteKind.DATA_CENTRE and s.media is element.media
        }
        if not undo and len(others - {element.site}) < 2:
            raise Refused(
                f"{name} cannot be emptied: fewer than two other data centres take copies now",
                hint="lightkeeper storage list shows what may be done where",
            )
    changes = _switch(ctx, name, {"drain": not undo}, why or "drains no more", dry_run=dry_run)
    with ctx.db.transaction() as conn:
        return Drained(changes, switches.left(conn, element.storage_id))


def decommission(ctx: Context, name: str, *, dry_run: bool = False) -> None:
    """End a storage for ever. Refused while anything is on it, comes to it, or is delivered to it."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        element = _named(conn, name)
        left = switches.left(conn, element.storage_id)
        reasons = [
            f"{left.files} copies are recorded there" if left.files else "",
            f"{left.coming} transfers bring copies to it" if left.coming else "",
            "deliveries are made there" if element.ingest else "",
        ]
        told = ", ".join(reason for reason in reasons if reason)
        if told:
            raise Refused(f"{name} is in use: {told}", hint=f"lightkeeper storage drain {name} --why TEXT")
        switches.retire(conn, element.storage_id)
    if not dry_run:
        ctx.log.info("storage decommissioned", storage=name)


# --- how -------------------------------------------------------------------------------------------------------
def _named(conn: Connection, name: str) -> StorageElement:
    elements = {element.name: element for element in topology.storages(conn)}
    if name not in elements:
        raise NotFound(f"there is no storage '{printable(name)}'", hint=nearest(name, elements))
    element = elements[name]
    if retired := topology.declared(conn)[element.storage_id].retired:
        raise Conflict(f"storage {name} was decommissioned on {retired:%Y-%m-%d}")
    return element


def _switch(ctx: Context, name: str, wanted: Mapping[str, bool | None], why: str, *, dry_run: bool) -> list[str]:
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        element = _named(conn, name)
        before = _may(element)
        switches.switch(conn, element.storage_id, wanted, why)
        switches.drop_agreed(conn)
        after = _may(_named(conn, name))
        changes = [f"{key} {_word(before[key])} → {_word(after[key])}" for key in before if before[key] != after[key]]
        if changes:
            deletions.drains_no_more(conn)
            switches.unsettle_copies(conn, element.storage_id)
    if changes and not dry_run:
        ctx.log.info("storage switched", storage=name, changes=", ".join(changes), why=why)
    return changes


def _may(element: StorageElement) -> dict[str, Any]:
    return {"read": element.read, "write": element.write, "delete": element.delete, "draining": element.draining}


def _word(value: bool) -> str:
    return "on" if value else "off"
