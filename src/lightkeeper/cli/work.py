"""lightkeeper transformation."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lightkeeper.cli import operations
from lightkeeper.cli.home import client
from lightkeeper.cli.names import ByQuery, Names, names
from lightkeeper.cli.output import AsJson, DryRun, cell, err, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.limits import readable
from lightkeeper.domain.report import COLUMNS, ReportRow, RowKind, as_html, as_text

transformation = typer.Typer(help="Transformations: work on every file that matches.", no_args_is_help=True)

PROGRESS = (
    "id", "production", "name", "type", "status", "files", "processed", "tasks", "done", "failed_attempts", "outputs",
)  # fmt: skip


BY_HAND = "asked for by the operator"
Ref = Annotated[
    str,
    typer.Argument(metavar="TRANSFORMATION", help="Number or name; or the name of an operation.", show_default=False),
]
Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="TRANSFORMATION...",
        help="Numbers, names, or names of productions; with * and ? for several; @FILE for a list, - for a pipe.",
        show_default=False,
    ),
]
Why = Annotated[str, typer.Option("--why", help="The reason, which stays in the history.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many.")]


@transformation.command("list")
def transformations(
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Only these; with * and ? for several.", show_default=False),
    ] = None,
    of: Annotated[str | None, typer.Option("--production", help="Only of this production.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only those in this state.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only of this type: Merging, Moving, …")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also what is Archived or Deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """List transformations with their progress, those that move, replicate, remove or stage files among them."""
    with client() as api:
        found = api.transformations(of, names=refs(given or []), status=status, type_=type_, all_=all_)
    show(found, as_json=as_json, columns=PROGRESS, empty="no transformation yet")


@transformation.command("show")
def show_(ref: Ref, as_json: AsJson = False) -> None:
    """Show how far a transformation is, and what it waits for."""
    with client() as api:
        found = api.transformation(ref)
    if as_json:
        show(found, as_json=True)
        return
    if "operation" in found:
        operations.tell(found["operation"])
        return
    one = found["summary"]
    out.print(f"[bold]{one['name']}[/] ({one['id']}): {one['type']} of production {one['production']}")
    out.print(f"  {one['status']}; it waits for {found['waits_for']}")
    files = {key: one[key] for key in ("unused", "assigned", "processed", "problematic")}
    out.print(f"  {one['files']} files: " + ", ".join(f"{n} {key}" for key, n in files.items()))
    out.print(
        f"  {one['tasks']} tasks: {one['done']} done, {one['failed']} failed; {one['failed_attempts']} jobs in vain; "
        f"{one['outputs']} files made"
    )
    for move in found["history"]:
        out.print(f"  {cell('at', move['at'])}  {move['source']} → {move['target']}  {cell('', move['why'])}")


@transformation.command("usage")
def usage(ref: Ref, as_json: AsJson = False) -> None:
    """Show what the jobs of a transformation used: the mean, half and 95 % of them at the most, and the most.

    Seconds of processors and from start to end; memory and disk at the peak. What they may use stands in the settings,
    and in the production.
    """
    with client() as api:
        found = api.usage(ref)
    figures = ("mean", "p50", "p95", "most")
    lines = [one | {key: readable(one["what"], one[key]) for key in figures} for one in found]
    columns = ("status", "jobs", "what", *figures)
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no job has ended")


@transformation.command("files")
def files(
    ref: Ref,
    status: Annotated[
        str | None, typer.Option("--status", help="Unused, Assigned, Processed, Problematic or Removed.")
    ] = None,
    task_status: Annotated[str | None, typer.Option("--task-status", help="Of tasks in this state.")] = None,
    set_: Annotated[str | None, typer.Option("--set", metavar="STATUS", help="Give them this state.")] = None,
    only: Annotated[list[str] | None, typer.Option("--file", metavar="NAME", help="Only these files.")] = None,
    why: Why = BY_HAND,
    names_only: Annotated[bool, typer.Option("--names", help="Print names, one on each line.")] = False,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """List files of a transformation and where each stands; with --set give them another state.

    Unused: they wait for a task again. Processed, Problematic, Removed: no task takes them any more. A task that failed
    is dissolved when one of its files is changed: the others wait again.
    """
    with client() as api:
        if set_ is not None:
            given = list(names(only, None, api)) if only else None
            told = api.set_files(ref, set_, why, names=given, now=status, task_status=task_status, dry_run=dry_run)
            _tell_files(told, dry_run, as_json)
            return
        found = api.transformation_files(ref, status=status, task_status=task_status, limit=limit)
    if names_only:
        for line in found:
            sys.stdout.write(line["lfn"] + "\n")
        return
    moving = bool(found) and "stand" in found[0]
    lines = [line | {"file": line["lfn"]} for line in found]
    columns = (
        ("file", "stand", "copies", "error", "next") if moving else ("file", "state", "task_id", "task_state", "why")
    )
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no such file")


def _tell_files(told: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    if as_json:
        show(told, as_json=True)
        return
    would = "would be" if dry_run else "were"
    out.print(f"{len(told['done'])} files {would} changed, {len(told['already'])} are so already")
    if told["tasks"]:
        out.print(f"{told['tasks']} tasks {would} dissolved; their other files wait again")
    for lfn, why in told["failed"][:20]:
        err.print(f"{cell('', lfn)}: {cell('', why)}")
    if len(told["failed"]) > 20:
        err.print(f"and {len(told['failed']) - 20} more")
    if told["failed"]:
        raise typer.Exit(1)


@transformation.command("tasks")
def tasks(
    ref: Ref,
    status: Annotated[str | None, typer.Option("--status", help="Only tasks in this state.")] = None,
    limit: Limit = 1000,
    as_json: AsJson = False,
) -> None:
    """List tasks of a transformation with their latest job."""
    with client() as api:
        found = api.transformation_tasks(ref, status=status, limit=limit)
    columns = ("task_id", "state", "attempts", "inputs", "site", "job_id", "minor_status", "application_status")
    show(found, as_json=as_json, columns=columns, empty="no such task")


@transformation.command("add-files")
def add_files(
    ref: Ref, given: Names = None, by_query: ByQuery = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Have files processed by a transformation, whatever its query says. Each is processed once."""
    with client() as api:
        told = api.add_files(ref, names(given or [], by_query, api), dry_run=dry_run)
    _tell_files(told | {"tasks": 0}, dry_run, as_json)


@transformation.command("set-status")
def set_status(
    status: Annotated[str, typer.Argument(help="Active, Stopped, Flush, Completed or Archived.")],
    given: Refs,
    kill: Annotated[bool, typer.Option("--kill-jobs", help="With Stopped: end also the jobs that run.")] = False,
    why: Why = BY_HAND,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give transformations another state."""
    _change("status", given, why, dry_run, as_json, status=status, kill=kill)


@transformation.command("pause")
def pause(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Begin nothing new; jobs that run go on."""
    _change("status", given, why, dry_run, as_json, status="Stopped")


@transformation.command("resume")
def resume(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Go on with what was paused or stopped."""
    _change("status", given, why, dry_run, as_json, status="Active")


@transformation.command("stop")
def stop(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Begin nothing new, and end the jobs that wait or run."""
    _change("status", given, why, dry_run, as_json, status="Stopped", kill=True)


@transformation.command("archive")
def archive(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Leave out of lists what is Completed."""
    _change("status", given, why, dry_run, as_json, status="Archived")


@transformation.command("flush")
def flush(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Make tasks of the files that are left, although they are fewer than a group."""
    _change("status", given, why, dry_run, as_json, status="Flush")


@transformation.command("clean")
def clean(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Remove every file that transformations made, and cancel what is open. Stop them first, if they are Active."""
    _change("clean", given, why, dry_run, as_json)


@transformation.command("delete")
def delete(given: Refs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Have transformations that are Cleaned be as if they had never been."""
    _change("delete", given, why, dry_run, as_json)


@transformation.command("priority")
def priority(
    value: Annotated[int, typer.Argument(min=0, max=9, help="0 goes first, 9 last.")],
    given: Refs,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have jobs of transformations go earlier or later, also those that wait already."""
    _change("priority", given, "priority", dry_run, as_json, priority=value)


def _change(what: str, given: list[str], why: str, dry_run: bool, as_json: bool, **more: Any) -> None:
    with client() as api:
        told = api.change_transformations(what, refs(given), why, dry_run=dry_run, **more)
    if as_json:
        show(told, as_json=True)
    else:
        for number, text in told["done"]:
            out.print(f"transformation {number}: {text}" + (" (would be)" if dry_run else ""))
        for number, text in told["failed"]:
            err.print(f"transformation {number}: {cell('', text)}")
    if told["failed"]:
        raise typer.Exit(1)


@transformation.command("finalize")
def finalize(
    ref: Ref,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this it is only told.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what brings a transformation to its end now, for each stand in which files are; with --apply do it."""
    with client() as api:
        plan = api.finalize_transformation(ref, apply=apply)
    if as_json:
        show(plan, as_json=True)
        return
    for remedy in plan:
        of = f" in {remedy['tasks']} tasks" if remedy.get("tasks") else ""
        out.print(f"{remedy['files']} files{of}, {remedy['stand']}: {remedy['what']}")
        if remedy["told"]:
            out.print(f"  {cell('', remedy['told'])}")
    if not plan:
        out.print("nothing is left to be done: it ends in a moment")
    elif not apply:
        out.print(f"nothing was changed: lightkeeper transformation finalize {ref} --apply does it")


def refs(given: list[str]) -> list[str]:
    """References as people give them: plain, in a list, from a pipe."""
    found: list[str] = []
    for text in given:
        if text == "-":
            found += sys.stdin.read().split()
        elif text.startswith("@"):
            try:
                found += Path(text[1:]).read_text().split()
            except OSError as error:
                raise Invalid(f"the list {text[1:]} cannot be read: {error.strerror}") from error
        else:
            found.append(text)
    return found


@transformation.command("retry")
def retry(
    transformation_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the transformation.")],
    as_json: AsJson = False,
) -> None:
    """Give every task that failed in every attempt one more."""
    with client() as api:
        tasks = api.retry(transformation_id)
    if as_json:
        show({"tasks": tasks}, as_json=True)
    else:
        out.print(f"{tasks} tasks get another attempt" if tasks else "no task had failed in every attempt")


@transformation.command("report")
def report(
    transformation_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the transformation.")],
    text: Annotated[bool, typer.Option("--text", help="As plain text, as in mails.")] = False,
    html: Annotated[bool, typer.Option("--html", help="As an HTML table, as in mails.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the report of a transformation: its tasks by how their latest job stands."""
    with client() as api:
        found = api.transformation_report(transformation_id)
    if as_json:
        show(found, as_json=True)
        return
    if text or html:
        rows = [ReportRow(**row | {"kind": RowKind(row["kind"])}) for row in found["rows"]]
        sys.stdout.write((as_html if html else as_text)(transformation_id, rows))
        return
    out.print(report_table(found))
    for move in found["history"]:
        out.print(f"{cell('at', move['at'])}  {move['source']} → {move['target']}  {move['why']}")
    out.print(f"{found['summary']['name']} is {found['summary']['status']}; it waits for {found['waits_for']}")


def report_table(found: dict[str, Any]) -> Table:
    """The report as operators know it."""
    table = Table(title=f"Transformation: {found['summary']['id']}")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column == "Total" else "left")
    for row in found["rows"]:
        cells = [row[key] for key in ("status", "minor_status", "application_status", "site", "total")]
        style = ReportRow(**row | {"kind": RowKind(row["kind"])}).style.replace("orange", "orange3")
        table.add_row(*cells, style=style or None, end_section=row["kind"] == RowKind.STATUS_TOTAL)
    return table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(transformation, name="transformation")
