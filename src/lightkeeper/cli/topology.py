"""lightkeeper apply, storage."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lightkeeper.cli import storage as audit
from lightkeeper.cli import switches
from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, err, out, show
from lightkeeper.domain.units import readable_bytes

NEARLY_FULL = 0.9
"""A storage whose quota is used to more than this is told of."""

storage = typer.Typer(help="Storage elements.", no_args_is_help=True)


def apply(
    file: Annotated[Path, typer.Argument(help="Topology document (YAML); - reads standard input.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make sites, storages, links and policies as FILE says; applying twice changes nothing."""
    document = sys.stdin.read() if str(file) == "-" else file.read_text()
    with client() as api:
        changes = api.apply(document, dry_run=dry_run)
    if as_json:
        show({"changes": changes}, as_json=True)
        return
    for change in changes:
        out.print(change.replace("[", "\\["))
    out.print(f"{len(changes)} changes {'would be made' if dry_run else 'made'}" if changes else "nothing to change")


@storage.command("list")
def storages(as_json: AsJson = False) -> None:
    """List storages: what they hold, what may be done there now, and how they are found to be."""
    with client() as api:
        found = api.storages()
    columns = ("storage", "site", "kind", "media", "enabled", "health", "now", "files", "bytes", "used", "odd", "dark")
    lines = found if as_json else [one | {"now": _now(one), "used": _used(one)} for one in found]
    show(lines, as_json=as_json, columns=columns, empty="no storage yet: lightkeeper apply FILE")
    for one in found if not as_json else ():
        for told in _told(one):
            err.print(f"{one['storage']}: {told}", markup=False)


def _now(one: dict[str, Any]) -> str:
    """What may be done on a storage now."""
    may = [word for word, key in (("read", "readable"), ("write", "writable"), ("delete", "deletable")) if one[key]]
    return " ".join(may + ["draining"] * one["draining"]) or "nothing"


def _used(one: dict[str, Any]) -> str | None:
    return f"{(one['bytes'] + one['queued']) / one['quota']:.0%}" if one["quota"] else None


def _told(one: dict[str, Any]) -> list[str]:
    """What a person should know of a storage."""
    told: list[str] = []
    since = one["since"][:16].replace("T", " ")
    if one["enabled"] and one["health"] == "Banned":
        told.append(f"does not answer since {since}: {one['why']}; it is left alone, probed, and used again by itself")
    elif one["enabled"] and one["health"] == "Degraded":
        told.append(f"less is asked of it since {since}: {one['why']}")
    told += [f"the protocol {away}; the next one is used" for away in one["protocols_away"] if one["health"] == "Good"]
    if one["quota"] and (share := (one["bytes"] + one["queued"]) / one["quota"]) > NEARLY_FULL:
        told.append(f"{share:.0%} of its quota of {readable_bytes(one['quota'])} are used or promised")
    return told


@storage.command("usage")
def usage(as_json: AsJson = False) -> None:
    """Show how full each storage is, of those that have a quota. Exit status 1 when one is nearly full."""
    with client() as api:
        found = [
            {
                "storage": one["storage"],
                "available_tb": round((one["quota"] - one["bytes"]) / 1e12, 3) if one["quota"] else None,
                "used_tb": round(one["bytes"] / 1e12, 3),
                "queued_tb": round(one["queued"] / 1e12, 3),
                "total_tb": round(one["quota"] / 1e12, 3) if one["quota"] else None,
                "used_percent": round(100 * one["bytes"] / one["quota"], 1) if one["quota"] else None,
            }
            for one in api.storages()
            if one["enabled"]
        ]
    columns = ("storage", "available_tb", "used_tb", "queued_tb", "total_tb", "used_percent")
    show(found, as_json=as_json, columns=columns, empty="no storage yet: lightkeeper apply FILE")
    if any((one["used_percent"] or 0) > 100 * NEARLY_FULL for one in found):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(apply)
    switches.add_to(storage)
    audit.add_to(app, storage)
    app.add_typer(storage, name="storage")
