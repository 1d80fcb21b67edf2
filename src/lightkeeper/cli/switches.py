"""lightkeeper storage show, set, drain, decommission: what an operator does to a storage by hand."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import readable_bytes

Name = Annotated[str, typer.Argument(metavar="NAME", help="A storage.", show_default=False)]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="For whoever comes after you.", show_default=False)]


class Way(StrEnum):
    """How something is switched; `topology`: as the document says."""

    ON = "on"
    OFF = "off"
    TOPOLOGY = "topology"


To = Annotated[Way | None, typer.Option(help="on, off, or topology: as the document says.", show_default=False)]


def show_(name: Name, as_json: AsJson = False) -> None:
    """Show one storage: its health, what may be done with it and who says so, what is on it."""
    with client() as api:
        found = api.storage(name)
    if as_json:
        show(found, as_json=True)
        return
    use = found["use"]
    may = [word for word, key in (("read", "readable"), ("write", "writable"), ("delete", "deletable")) if use[key]]
    lines: dict[str, Any] = {
        "storage": name,
        "site": use["site"],
        "media": use["media"],
        "health": use["health"] + (f": {use['why']}" if use["why"] else ""),
        "may": " ".join(may) or "nothing",
        "draining": "yes" if use["draining"] else "no",
        "quota": readable_bytes(use["quota"]) if use["quota"] else "none",
        **_left(found["left"]),
    }
    for switch in found["switches"]:
        word, since = "on" if switch["is_on"] else "off", switch["since"][:16].replace("T", " ")
        lines[f"switched {switch['operation']}"] = f"{word} since {since}: {switch['why']}"
    show(lines, as_json=False)


def _left(left: dict[str, Any]) -> dict[str, Any]:
    return {
        "copies": f"{left['files']}, {readable_bytes(left['bytes'])}",
        "also at two other centres": left["elsewhere"],
        "transfers of its files elsewhere": left["going"],
        "transfers to it": left["coming"],
        "deletions approved": left["deleting"],
    }


def set_(
    name: Name,
    read: To = None,
    write: To = None,
    delete: To = None,
    why: Why = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Switch reading, writing or deleting by hand. It stands until it is taken back, whatever is applied meanwhile."""
    given = {"read": read, "write": write, "delete": delete}
    wanted = {key: {Way.ON: True, Way.OFF: False, Way.TOPOLOGY: None}[way] for key, way in given.items() if way}
    if not wanted:
        raise Invalid("nothing is switched", hint="--read off, --write on, --delete topology")
    with client() as api:
        changes = api.set_storage(name, wanted, why, dry_run=dry_run)
    _say(changes, {"changes": changes}, as_json=as_json, dry_run=dry_run)


def drain(
    name: Name,
    why: Why = "",
    undo: Annotated[bool, typer.Option("--undo", help="Empty it no more.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Empty a storage: its files are copied elsewhere as they are owed, then its copies are deleted."""
    with client() as api:
        told = api.drain_storage(name, why, undo=undo, dry_run=dry_run)
    _say(told["changes"], told, as_json=as_json, dry_run=dry_run)
    if not as_json:
        show(_left(told["left"]), as_json=False)
        if not undo and not dry_run:
            out.print(f"how far it is: lightkeeper storage show {name}")


def decommission(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End an empty storage for ever."""
    with client() as api:
        api.decommission_storage(name, dry_run=dry_run)
    if as_json:
        show({"decommissioned": name}, as_json=True)
    else:
        out.print(f"{name} {'would be' if dry_run else 'is'} decommissioned")


def _say(changes: list[str], whole: dict[str, Any], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        show(whole, as_json=True)
        return
    for change in changes:
        out.print(change)
    if not changes:
        out.print("nothing changes")
    elif dry_run:
        out.print("nothing was changed: this was a dry run")


def add_to(storage: typer.Typer) -> None:
    """Add these commands."""
    storage.command("show")(show_)
    storage.command("set")(set_)
    storage.command("drain")(drain)
    storage.command("decommission")(decommission)
