"""lightkeeper ingest, collection: products come in; how the interface directories stand; where what came in lies."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lightkeeper.cli.content import Bars, tell_outcome
from lightkeeper.cli.home import client
from lightkeeper.cli.names import Meta, read_values
from lightkeeper.cli.output import AsJson, DryRun, show
from lightkeeper.content import put as put_files
from lightkeeper.domain.errors import Invalid


class _FilesOrCommand(TyperGroup):
    """`lightkeeper ingest FILE…`: what is not a command is a file, or an option of the command that takes files."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command that takes files before what is none."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["files", *args]
        return super().parse_args(ctx, args)


ingest = typer.Typer(
    cls=_FilesOrCommand,
    help="Products come in: `lightkeeper ingest FILE… --at STORAGE` is short for `ingest files`.",
    no_args_is_help=True,
)


@ingest.command("files")
def files(
    local: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Local files.")],
    at: Annotated[str, typer.Option(metavar="STORAGE", help="Where the first copy goes.")],
    to: Annotated[str | None, typer.Option(metavar="DIRECTORY", help="The catalogue's directory for them.")] = None,
    data_path: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Or: they lie below it as they will in the catalogue.")
    ] = None,
    meta: Meta = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also folders, with what is below them.")] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Files at once.")] = 4,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take products in: they are verified and their metadata read, then registered with a first copy at STORAGE.

    What its reader finds wrong is refused, unless its scope is of temporary products or a user's. What is there
    already is left as it is, and triggers are left out.
    """
    if (to is None) == (data_path is None):
        raise Invalid("the names in the catalogue are not told", hint="--to /vo/scope/directory, or --data-path FOLDER")
    with client() as api, Bars() as shown:
        values = read_values(meta or [], api.metadata_keys()) if meta else {}
        outcome = put_files(
            api,
            local,
            to or "",
            at=at,
            meta=values,
            parallel=parallel,
            recursive=recursive,
            below=data_path,
            without=".trigger",
            dry_run=dry_run,
            progress=shown.of(None),
        )
    tell_outcome(outcome, as_json, dry_run=dry_run)


@ingest.command("status")
def status(as_json: AsJson = False) -> None:
    """Tell how each interface directory stands: what waits, since when, and what was refused."""
    with client() as api:
        columns = ("storage", "directory", "waiting", "oldest", "verifying", "refused")
        show(api.ingest_status(), as_json=as_json, columns=columns, empty="no storage takes deliveries")


collection = typer.Typer(help="Directories of the catalogue: days, months, years.", no_args_is_help=True)


@collection.command("list")
def list_(
    path: Annotated[
        str, typer.Argument(metavar="DIRECTORY", help="Those right in it; the outermost if not given.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List collections with all that lies in each."""
    with client() as api:
        found = api.collection(path)["holds"] if path else api.collections()
    show(found, as_json=as_json, columns=("path", "files", "bytes", "own_files"), empty="no collection lies in it")


@collection.command("show")
def show_(
    path: Annotated[str, typer.Argument(metavar="DIRECTORY", help="Like /ctao/acada/DL0/LSTN-01.")],
    as_json: AsJson = False,
) -> None:
    """Show a collection, and those that it lies in from the outermost on."""
    with client() as api:
        found = api.collection(path)
    chain = [*found["within"], found["collection"]]
    show(found if as_json else chain, as_json=as_json, columns=("path", "files", "bytes", "own_files"))


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(collection, name="collection")
    app.add_typer(ingest, name="ingest")
