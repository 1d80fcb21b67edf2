"""lightkeeper apply, storage."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lightkeeper.cli import storage as audit
from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, out, show

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
    """List storages and what they hold."""
    with client() as api:
        columns = ("storage", "site", "kind", "media", "enabled", "files", "bytes", "odd", "dark")
        show(api.storages(), as_json=as_json, columns=columns, empty="no storage yet: lightkeeper apply FILE")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(apply)
    audit.add_to(app, storage)
    app.add_typer(storage, name="storage")
