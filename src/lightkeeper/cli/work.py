"""lightkeeper production, transformation, job."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, cell, err, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.report import COLUMNS, RowKind

production = typer.Typer(help="Productions: graphs of transformations.", no_args_is_help=True)
transformation = typer.Typer(help="Transformations: work on every file that matches.", no_args_is_help=True)
job = typer.Typer(help="Jobs: attempts of tasks.", no_args_is_help=True)

MAX_SANDBOX = 1_000_000
PROGRESS = (
    "id", "production", "name", "type", "status", "files", "processed", "tasks", "done", "failed_attempts", "outputs",
)  # fmt: skip


@production.command("submit")
def submit(
    name: Annotated[str, typer.Argument(help="Name of the production.")],
    file: Annotated[Path, typer.Argument(help="Production document (YAML).")],
    open_: Annotated[
        bool, typer.Option("--open", help="Take files that arrive later too, until it is closed.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start production NAME as FILE describes, on the files that match now."""
    document, sandbox = _read(file)
    with client() as api:
        if dry_run:
            _show_plan(api.plan(document, sandbox), as_json)
            return
        started = api.submit(name, document, sandbox, open_=open_)
    show(started if as_json else started["transformations"], as_json=as_json, columns=PROGRESS)


@production.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(help="Production document (YAML).")], as_json: AsJson = False
) -> None:
    """Check FILE and show its steps; nothing is done."""
    document, sandbox = _read(file)
    with client() as api:
        _show_plan(api.plan(document, sandbox), as_json)


@production.command("close")
def close(name: Annotated[str, typer.Argument(help="Name of a production.")], as_json: AsJson = False) -> None:
    """Take no more files into an open production, so that it ends when its work is done."""
    with client() as api:
        closed = api.close_production(name)
    if as_json:
        show({"closed": closed}, as_json=True)
    else:
        out.print(f"{closed} transformations take no more files" if closed else "it was not open")


@production.command("list")
def productions(as_json: AsJson = False) -> None:
    """List productions."""
    with client() as api:
        columns = ("production_id", "name", "state", "campaign", "created", "transformations")
        show(api.productions(), as_json=as_json, columns=columns, empty="no production yet")


@transformation.command("list")
def transformations(
    of: Annotated[str | None, typer.Option("--production", help="Only of this production.")] = None,
    as_json: AsJson = False,
) -> None:
    """List transformations with their progress."""
    with client() as api:
        show(api.transformations(of), as_json=as_json, columns=PROGRESS, empty="no transformation yet")


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
    as_json: AsJson = False,
) -> None:
    """Show the report of a transformation: its tasks by how their latest job stands."""
    with client() as api:
        found = api.transformation_report(transformation_id)
    if as_json:
        show(found, as_json=True)
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
        table.add_row(*cells, style=_style(row), end_section=row["kind"] == RowKind.STATUS_TOTAL)
    return table


def _style(row: dict[str, Any]) -> str | None:
    if row["kind"] == RowKind.GROUP:
        return None
    if row["kind"] == RowKind.MINOR_TOTAL:
        return "bold yellow"
    if row["kind"] == RowKind.TOTAL:
        return "bold"
    status = row["status"].removeprefix("Total: ")
    return (
        "bold green"
        if status in ("Done", "Completed")
        else "bold red"
        if status in ("Failed", "Killed")
        else "bold orange3"
    )


@job.command("list")
def jobs(as_json: AsJson = False) -> None:
    """List jobs, latest first."""
    with client() as api:
        columns = (
            "job_id",
            "task_id",
            "attempt",
            "status",
            "minor_status",
            "application_status",
            "site",
            "started",
        )
        show(api.jobs(), as_json=as_json, columns=columns, empty="no job yet")


@job.command("log")
def job_log(job_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the job.")]) -> None:
    """Print the end of what a job's tool printed."""
    with client() as api:
        out.print(api.job_log(job_id), markup=False)


def _read(file: Path) -> tuple[str, dict[str, str]]:
    """A production document, and the small text files beside it that it may name."""
    if file.stat().st_size > MAX_SANDBOX:
        raise Invalid(f"{file} has {file.stat().st_size} bytes; a production document has at most {MAX_SANDBOX}")
    try:
        document = file.read_text()
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} is not a text file: {error}") from error
    sandbox: dict[str, str] = {}
    for beside in sorted(file.parent.iterdir()):
        if beside != file and beside.name in document and beside.is_file() and beside.stat().st_size <= MAX_SANDBOX:
            sandbox[beside.name] = beside.read_text(errors="replace")
    return document, sandbox


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show(plan, as_json=True)
        return
    for warning in plan["warnings"]:
        err.print(f"[yellow]warning:[/] {warning}")
    columns = ("number", "name", "type", "job_type", "parent", "group_size", "group_by", "query")
    show(plan["steps"], as_json=False, columns=columns, title=f"Campaign {plan['campaign']}")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(production, name="production")
    app.add_typer(transformation, name="transformation")
    app.add_typer(job, name="job")
