"""lightkeeper deletion: which copies go, what waits and why, and who says so."""

from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, cell, out, show
from lightkeeper.domain.units import readable_bytes

deletion = typer.Typer(help="Deletions of copies: what waits, and who approves or undoes it.", no_args_is_help=True)

By = Annotated[str, typer.Option("--by", metavar="NAME", help="Your name; it is kept with what you say.")]
Storage = Annotated[str | None, typer.Option(metavar="NAME", help="Those on this storage.")]
OfOperation = Annotated[str | None, typer.Option("--operation", metavar="NAME", help="Those of this operation.")]
Storages = Annotated[list[str] | None, typer.Argument(metavar="STORAGE", help="Storages; all, if not given.")]


@deletion.command("list")
def list_(
    storage: Storage = None,
    file: Annotated[str | None, typer.Option(metavar="LFN", help="Those of this file.")] = None,
    operation: OfOperation = None,
    state: Annotated[str | None, typer.Option(help="Approved, Done or Void.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what waits on each storage; with an option single deletions, the latest 1000."""
    with client() as api:
        if any((storage, file, operation, state)):
            found = api.find_deletions(storage=storage, lfn=file, operation=operation, state=state)
            lines = [one | {"number": one["intent_id"], "file": one["lfn"], "state": _state(one)} for one in found]
            columns = ("number", "file", "storage", "size", "state", "why")
            show(found if as_json else lines, as_json=as_json, columns=columns, empty="no deletion")
            return
        found = api.deletions()
    lines = [one | {"goes_on": _goes_on(one)} for one in found]
    columns = ("storage", "waiting", "bytes", "last_hour", "goes_on")
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no storage")


def _state(one: dict[str, Any]) -> str:
    """The state of a deletion, in words."""
    if one["state"] == "Approved":
        return "is carried out" if one["begun"] else f"not before {cell('at', one['not_before'])} UTC"
    return one["state"] + (f": {one['outcome']}" if one["outcome"] else "")


def _goes_on(one: dict[str, Any]) -> str:
    """How deletions go on a storage, in words."""
    if one["paused"]:
        return f"no: paused by {one['paused']}"
    if one["stopped"]:
        by = f"; {' and '.join(one['approved_by'])} approved" if one["approved_by"] else ""
        return f"no: {one['uncleared']} wait for two people, {one['per_hour']} in an hour were carried out{by}"
    if one["trouble"]:
        return f"when it answers: {one['trouble']}"
    if one["delayed"]:
        return f"yes; {one['delayed']} may be undone before they begin"
    return f"yes, {one['per_hour']} in an hour"


@deletion.command("show")
def show_(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of the deletion.")], as_json: AsJson = False
) -> None:
    """Show a deletion with its evidence."""
    with client() as api:
        one = api.deletion(number)
    if as_json:
        show(one, as_json=True)
        return
    out.print(f"[bold]{cell('', one['lfn'])}[/], its copy at {one['storage']}, {readable_bytes(one['size'])}")
    out.print(f"  {cell('', one['why'])}; decided by {one['actor']} at {cell('created', one['created'])} UTC")
    if one["removal"]:
        out.print("  its file is Removed: no copy is kept")
    else:
        wanted = one["evidence"].get("wanted") or 2
        where = "1 data centre must have" if wanted == 1 else f"{wanted} data centres must have"
        out.print(f"  {where} a copy without it; when that was decided there were:")
        for copy in one["evidence"]["copies"]:
            read = cell("verified_at", copy["verified_at"])
            out.print(f"    {copy['storage']} at {copy['site']}, read and found right at {read} UTC")
        out.print(f"    each with sha256 {one['evidence']['sha256']}")
    if one["promised"]:
        out.print(f"  policy {one['policy'] or 'that is gone'} had promised it before the file came")
    if one["cleared_by"]:
        out.print(f"  beyond the number of an hour, approved by {' and '.join(one['cleared_by'])}")
    out.print(f"  {_state(one)}")


@deletion.command("undo")
def undo(
    by: By,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="NUMBER", help="Numbers of deletions.")] = None,
    storage: Storage = None,
    operation: OfOperation = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Undo deletions that were not begun. Files that were removed are Current again."""
    with client() as api:
        told = api.undo_deletions(by, numbers or (), storage=storage, operation=operation, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
    else:
        verb = "would be undone" if dry_run else "undone"
        out.print(f"{_n(told['undone'], 'deletion')} {verb}; {_n(told['came_back'], 'removed file')} Current again")
        for why, n in told["refused"].items():
            out.print(f"  {n} not: {cell('', why)}")
    if told["refused"] and not told["undone"]:
        raise typer.Exit(1)


@deletion.command("approve")
def approve(
    storage: Annotated[str, typer.Argument(metavar="STORAGE", help="Where deletions wait for two people.")],
    by: By,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Approve the deletions that wait at a storage because there are more than an hour's number. Two people must."""
    with client() as api:
        told = api.approve_deletions(storage, by, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
        return
    would = "would be" if dry_run else "are"
    out.print(f"{_n(told['files'], 'deletion')} at {storage} {would} approved by {' and '.join(told['names'])}")
    if told["cleared"]:
        out.print(f"  {told['cleared']} of them {'would ' if dry_run else ''}go on")
    else:
        out.print("  they go on when another person approves them too")


@deletion.command("pause")
def pause(
    by: By,
    storages: Storages = None,
    why: Annotated[str, typer.Option(help="Why; it is shown until they are resumed.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let no deletion begin."""
    with client() as api:
        names = api.pause_deletions(by, storages or (), why, dry_run=dry_run)
    if as_json:
        show({"paused": names}, as_json=True)
    else:
        out.print(f"deletions {'would be' if dry_run else 'are'} paused at {', '.join(names)}")


@deletion.command("resume")
def resume(storages: Storages = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Let deletions go on."""
    with client() as api:
        names = api.resume_deletions(storages or (), dry_run=dry_run)
    if as_json:
        show({"resumed": names}, as_json=True)
    else:
        out.print(f"deletions {'would ' if dry_run else ''}go on at {', '.join(names)}")


def _n(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(deletion, name="deletion")
