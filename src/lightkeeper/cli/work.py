"""lightkeeper transformation, job."""

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, cell, out, show
from lightkeeper.domain.report import COLUMNS, ReportRow, RowKind, as_html, as_text

transformation = typer.Typer(help="Transformations: work on every file that matches.", no_args_is_help=True)
job = typer.Typer(help="Jobs: attempts of tasks.", no_args_is_help=True)

PROGRESS = (
    "id", "production", "name", "type", "status", "files", "processed", "tasks", "done", "failed_attempts", "outputs",
)  # fmt: skip


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


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(transformation, name="transformation")
    app.add_typer(job, name="job")
