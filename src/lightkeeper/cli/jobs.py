"""lightkeeper job, share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lightkeeper.cli.documents import read
from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, cell, err, out, show
from lightkeeper.cli.work import BY_HAND, refs
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.limits import readable

job = typer.Typer(help="Jobs: attempts of tasks.", no_args_is_help=True)
share = typer.Typer(help="Shares of the processors, when more is wanted than there is.", no_args_is_help=True)

Jobs = Annotated[
    list[str],
    typer.Argument(metavar="JOB...", help="Numbers of jobs; @FILE for a list, - for a pipe.", show_default=False),
]
Why = Annotated[str, typer.Option("--why", help="The reason, which stays in the history.")]
SUBMITTED = ("id", "production", "name", "status", "tasks", "done", "outputs")
COLUMNS = ("job_id", "task_id", "attempt", "status", "minor_status", "application_status", "site", "started")
USED = ("cpu_seconds", "wall_seconds", "memory", "disk")


@job.command("list")
def jobs(
    of: Annotated[
        str | None, typer.Option("--transformation", help="Only of this one: number, name or production.")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only jobs in this state.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Only jobs at this site.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """List jobs, latest first."""
    with client() as api:
        found = api.jobs(transformation=of, status=status, site=site, limit=limit)
    show(found if as_json else [_readable(one) for one in found], as_json=as_json, columns=COLUMNS + USED,
         empty="no job yet")  # fmt: skip


@job.command("submit")
def submit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name for these jobs.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CWL document: a tool, or a workflow.")],
    inputs: Annotated[
        list[Path],
        typer.Option("--inputs", metavar="FILE", help="Values of its inputs, as YAML; one file for each job."),
    ] = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a CWL document as it is: one job for each file of inputs. A workflow is not split into its steps."""
    document, sandbox = read(file, inputs, as_jobs=True)
    with client() as api:
        if dry_run:
            show(api.plan(document, sandbox), as_json=True)
            return
        api.submit(name, document, sandbox)
        made = api.transformations(name)
    show(made, as_json=as_json, columns=SUBMITTED)


@job.command("show")
def show_(
    job_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the job.")], as_json: AsJson = False
) -> None:
    """Show a job, the files that it reads, and how its state went."""
    with client() as api:
        found = api.job(job_id)
    if as_json:
        show(found, as_json=True)
        return
    show(_readable(found["job"]), as_json=False)
    for lfn in found["inputs"]:
        out.print(f"  reads {cell('', lfn)}")
    for move in found["history"]:
        out.print(f"  {cell('at', move['at'])}  {move['source']} → {move['target']}  {cell('', move['why'])}")


def _readable(job: dict[str, Any]) -> dict[str, Any]:
    """A job with what it used in words."""
    return job | {key: readable(key, job[key]) for key in USED if job[key] is not None}


@job.command("logs")
def job_log(job_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the job.")]) -> None:
    """Print what a job's tool printed: when that was much, its beginning and its end."""
    with client() as api:
        out.print(api.job_log(job_id), markup=False)


job.command("log", hidden=True)(job_log)


@job.command("kill")
def kill(given: Jobs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End jobs that wait or run. Their tasks count as failed until another attempt is asked for."""
    _end(given, why, dry_run, as_json, again=False)


@job.command("reschedule")
def reschedule(given: Jobs, why: Why = BY_HAND, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Give the tasks of jobs another attempt: of those that failed or were killed, and of those that wait or run, which
    are ended first."""
    _end(given, why, dry_run, as_json, again=True)


def _end(given: list[str], why: str, dry_run: bool, as_json: bool, *, again: bool) -> None:
    try:
        numbers = [int(text) for text in refs(given)]
    except ValueError as error:
        raise Invalid("jobs are named by their numbers", hint="lightkeeper job list") from error
    with client() as api:
        told: dict[str, Any] = api.kill_jobs(numbers, why, again=again, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
    else:
        would = "would be" if dry_run else "are"
        what = "done again" if again else "ended"
        out.print(f"{len(told['done'])} jobs {would} {what}")
        for number, text in told["failed"]:
            err.print(f"job {number}: {cell('', text)}")
    if told["failed"]:
        raise typer.Exit(1)


@share.command("list")
def shares(as_json: AsJson = False) -> None:
    """List shares of groups, productions and job types, and how many processors the jobs of each have now."""
    with client() as api:
        found = api.shares()
    columns = ("kind", "name", "share", "running", "waiting")
    show(found, as_json=as_json, columns=columns, empty="all have the same share, and nothing waits")


@share.command("set")
def set_(
    kind: Annotated[str, typer.Argument(help="group, production or 'job type'.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    value: Annotated[float, typer.Argument(metavar="SHARE", help="1 is what all have by themselves.")],
    as_json: AsJson = False,
) -> None:
    """Give a group, a production or a job type its share of the processors."""
    with client() as api:
        told = api.set_share(kind, name, value)
    show({"told": told}, as_json=True) if as_json else out.print(told)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(job, name="job")
    app.add_typer(share, name="share")
