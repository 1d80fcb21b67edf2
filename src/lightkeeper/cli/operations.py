"""lightkeeper operation, and dataset replicate, move, delete: where the copies of many files lie is changed as one."""

import json
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.names import ByQuery, Names, names
from lightkeeper.cli.output import AsJson, DryRun, cell, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import readable_bytes

operation = typer.Typer(help="Changes of where the copies of many files lie.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the operation.")]
Dataset = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name, or its last part.")]
To = Annotated[str, typer.Option("--to", metavar="EXPR", help="Where copies are made: a storage, or 'tier=1'.")]
From = Annotated[str, typer.Option("--from", metavar="EXPR", help="Where copies are deleted: a storage, or 'tier=2'.")]
Copies = Annotated[int, typer.Option(min=1, max=20, help="Copies at distinct data centres of those.")]
Called = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the operation; made if not given.")]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Your name; it is kept with what you say.")]


# --- dataset ---------------------------------------------------------------------------------------------------
def replicate(
    dataset: Dataset,
    to: To,
    copies: Copies = 1,
    name: Called = "",
    by: By = "operator",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make copies of every file of a dataset, as one operation that ends when they are all there."""
    _begin("replicate", dataset, dry_run, as_json, target=to, copies=copies, name=name, actor=by)


def move(
    dataset: Dataset,
    to: To,
    source: From,
    copies: Copies = 1,
    name: Called = "",
    by: By = "operator",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make copies of every file of a dataset at one place, and then delete those at another. What is owed stays."""
    _begin("move", dataset, dry_run, as_json, target=to, source=source, copies=copies, name=name, actor=by)


def delete(
    dataset: Dataset,
    source: From,
    name: Called = "",
    by: By = "operator",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete the copies at one place of every file of a dataset that has enough others. The files stay."""
    _begin("delete", dataset, dry_run, as_json, source=source, name=name, actor=by)


def _begin(kind: str, dataset: str, dry_run: bool, as_json: bool, **more: Any) -> None:
    with client() as api:
        query = f"dataset = {json.dumps(api.dataset(dataset)['name'])}"
        _told(api.begin_operation(kind, query, dry_run=dry_run, **more), dry_run, as_json)


def _told(begun: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    if as_json:
        show(begun, as_json=True)
        return
    verb = "would take" if dry_run else "takes"
    done = f"; {begun['done']} of them need nothing" if begun["done"] else ""
    out.print(f"{begun['name']} {verb} {_n(begun['files'], 'file')}, {readable_bytes(begun['bytes'])}{done}")
    if not dry_run:
        out.print(f"  lightkeeper operation show {begun['name']} tells how far it is")


# --- operation -------------------------------------------------------------------------------------------------
@operation.command("begin")
def begin(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="replicate, move or delete.")],
    files: Names = None,
    query: ByQuery = None,
    to: Annotated[str, typer.Option("--to", metavar="EXPR", help="Where copies are made.")] = "",
    source: Annotated[str, typer.Option("--from", metavar="EXPR", help="Where copies are deleted.")] = "",
    copies: Copies = 1,
    name: Called = "",
    by: By = "operator",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Replicate, move or delete the copies of files that are named, listed in an @FILE, or meant by a query."""
    if kind not in ("replicate", "move", "delete"):
        raise Invalid(f"'{kind}' is no kind of operation", hint="replicate, move or delete")
    if files and query:
        raise Invalid("files are named, or a query means them", hint="begin two operations")
    more = {"target": to, "source": source, "copies": copies, "name": name, "actor": by}
    with client() as api:
        given = [] if query else list(names(files or [], None, api))
        _told(api.begin_operation(kind, query, given, dry_run=dry_run, **more), dry_run, as_json)


@operation.command("list")
def list_(as_json: AsJson = False) -> None:
    """List operations and how far each is."""
    with client() as api:
        found = api.operations()
    lines = [
        one | {"of": one["files"], "files": one["n_files"], "bytes": one["n_bytes"], "done": _done(one)}
        for one in found
    ]
    columns = ("name", "state", "of", "source", "target", "files", "bytes", "done")
    empty = "no operation: lightkeeper dataset move NAME --to EXPR --from EXPR"
    show(found if as_json else lines, as_json=as_json, columns=columns, empty=empty)


def _done(one: dict[str, Any]) -> str:
    """How far it is; never 100 % before it is."""
    return f"{int(one['percent'] * 10) / 10:.1f} %"


@operation.command("show")
def show_(name: Name, as_json: AsJson = False) -> None:
    """Show how far an operation is, and how many files stand where."""
    with client() as api:
        one = api.operation(name)
    if as_json:
        show(one, as_json=True)
    else:
        tell(one)


def tell(one: dict[str, Any]) -> None:
    """How far an operation is, for people."""
    where = (f" from {one['source']}" if one["source"] else "") + (f" to {one['target']}" if one["target"] else "")
    out.print(f"[bold]{one['name']}[/]: {one['kind']} {cell('', one['files'])}{where}")
    out.print(f"  {one['state']}, {_done(one)} of {_n(one['n_files'], 'file')}, {readable_bytes(one['n_bytes'])}")
    for stand, size in one["stands"].items():
        out.print(f"  {_n(size['files'], 'file')} {stand}, {readable_bytes(size['bytes'])}")
    if one["seconds"] is not None:
        out.print(f"  its copies are made in about {max(1, round(one['seconds'] / 60))} min at the rate of this hour")
    if one["state"] == "Active" and set(one["stands"]) - {"done", "under way", "taken out"}:
        name = one["name"]
        out.print(f"  lightkeeper operation files {name} says what happens, operation finalize {name} what you can do")


@operation.command("files")
def files_(
    name: Name,
    stand: Annotated[
        str | None, typer.Option("--stand", metavar="STAND", help="Only these, as `operation show` calls them.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """List files of an operation: where each stands, its copies, and what happens next by itself."""
    with client() as api:
        found = api.operation_files(name, stand=stand, limit=limit)
    lines = [one | {"file": one["lfn"]} for one in found]
    columns = ("file", "stand", "copies", "error", "next")
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no such file")


@operation.command("cancel")
def cancel(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End an operation as it is. Copies that were made stay; deletions that did not begin are undone."""
    with client() as api:
        told = api.cancel_operation(name, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
    else:
        would = "would be" if dry_run else "is"
        out.print(f"{name} {would} cancelled; {_n(told['undone'], 'deletion')} undone, {told['begun']} are carried out")


@operation.command("finalize")
def finalize(
    name: Name,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this it is only told.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what brings an operation to its end now, for each stand in which files are; with --apply do it."""
    with client() as api:
        plan = api.finalize_operation(name, apply=apply)
    if as_json:
        show(plan, as_json=True)
        return
    for remedy in plan:
        out.print(f"{_n(remedy['files'], 'file')} {remedy['stand']}: {remedy['what']}")
        if remedy["told"]:
            out.print(f"  {cell('', remedy['told'])}")
    if not plan:
        out.print("nothing is left to be done: it ends in a moment")
    elif not apply:
        out.print(f"nothing was changed: lightkeeper operation finalize {name} --apply does it")


def _n(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def add_to(app: typer.Typer, dataset: typer.Typer) -> None:
    """Add these commands."""
    for command in (replicate, move, delete):
        dataset.command()(command)
    app.add_typer(operation, name="operation")
