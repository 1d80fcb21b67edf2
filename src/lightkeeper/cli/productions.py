"""lightkeeper production."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, err, out, show
from lightkeeper.cli.work import PROGRESS
from lightkeeper.domain.errors import Invalid

production = typer.Typer(help="Productions: graphs of transformations.", no_args_is_help=True)

MAX_SANDBOX = 1_000_000


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
