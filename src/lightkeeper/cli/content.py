"""lightkeeper file put, file get: bytes between this machine and the storages."""

import threading
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars

from lightkeeper.cli.home import client
from lightkeeper.cli.names import ByQuery, Meta, Names, names, read_values
from lightkeeper.cli.output import AsJson, DryRun, elided, err, out, show
from lightkeeper.content import Outcome, Progress
from lightkeeper.content import get as get_files
from lightkeeper.content import put as put_files
from lightkeeper.domain.units import readable_bytes

Parallel = Annotated[int, typer.Option(min=1, max=64, help="Files at once.")]


def get(
    given: Names = None,
    query: ByQuery = None,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to load into; it is made.")] = Path(),
    parallel: Parallel = 8,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave local files of the same name unread.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace local files with another content.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Keep the directories of the names.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load files from whichever copy reads as the catalogue says. What was interrupted goes on where it was."""
    with client() as api, Bars() as shown:
        wanted = list(names(given or [], query, api))
        try:
            outcome = get_files(
                api,
                wanted,
                to,
                parallel=parallel,
                tree=tree,
                skip_existing=skip_existing,
                overwrite=overwrite,
                progress=shown.of(len(wanted)),
            )
        except KeyboardInterrupt:
            err.print("interrupted; the same command goes on where it was")
            raise
    tell_outcome(outcome, as_json)


def put(
    local: Annotated[list[Path], typer.Argument(metavar="LOCAL", help="Local files.")],
    to: Annotated[str, typer.Option(metavar="DIRECTORY", help="The catalogue's directory, like /vo/scope/dir.")],
    at: Annotated[str, typer.Option(metavar="STORAGE", help="Where the first copy goes.")],
    meta: Meta = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also folders, with what is below them.")] = False,
    parallel: Parallel = 4,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put local files into the catalogue as DIRECTORY/<file name>; what is there already is left as it is."""
    with client() as api, Bars() as shown:
        values = read_values(meta or [], api.metadata_keys()) if meta else {}
        outcome = put_files(
            api,
            local,
            to,
            at=at,
            meta=values,
            parallel=parallel,
            recursive=recursive,
            dry_run=dry_run,
            progress=shown.of(None),
        )
    tell_outcome(outcome, as_json, dry_run=dry_run)


def tell_outcome(outcome: Outcome, as_json: bool, *, dry_run: bool = False) -> None:
    """Show what was done, complain about what was not, and end with 1 when something was not."""
    if as_json:
        show(
            {
                "done": [{"name": d.name, "path": d.path, "state": d.state, "size": d.size} for d in outcome.done],
                "failed": [
                    {"name": f.name, "code": f.error.code, "message": f.error.message, "hint": f.error.hint}
                    for f in outcome.failed
                ],
            },
            as_json=True,
        )
    elif dry_run:
        for file in outcome.done:
            out.print(f"{file.name}: {_PLANNED[file.state]}, {readable_bytes(file.size)}", soft_wrap=True)
    else:
        states, sizes = Counter[str](), Counter[str]()
        for file in outcome.done:
            states[file.state] += 1
            sizes[file.state] += file.size
        for state, n in states.items():
            out.print(f"{n} {'file' if n == 1 else 'files'} {_STATES[state]}, {readable_bytes(sizes[state])}")
        if not outcome.done and not outcome.failed:
            out.print("no file")
    for failed in outcome.failed:
        name, message, hint = (
            text.replace("[", "\\[") for text in (failed.name, failed.error.message, failed.error.hint)
        )
        err.print(f"[bold red]{failed.error.code}:[/] {name}: {message}" + (f" [dim]→[/] {hint}" if hint else ""))
    if outcome.failed:
        raise typer.Exit(1)


_STATES = {"loaded": "loaded", "put": "put", "there": "already there"}
_PLANNED = {"there": "already there", "new": "would be put", "copy": "would gain a copy there"}


class Bars:
    """Bars on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.DownloadColumn(binary_units=False),
            bars.TransferSpeedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bars.stop()

    def of(self, files: int | None) -> Progress:
        """Progress of so many files, when that is known."""
        return _Shown(self._bars, files)


class _Shown(Progress):
    """A bar for all, and one for each file under way."""

    def __init__(self, shown: bars.Progress, files: int | None) -> None:
        self._bars = shown
        self._files = files
        self._lock = threading.Lock()
        self._all = shown.add_task("", total=0)
        self._begun: dict[str, bars.TaskID] = {}
        self._sizes: dict[str, int] = {}
        self._ended = 0
        self._describe()

    def begin(self, name: str, size: int, done: int) -> None:
        with self._lock:
            if name in self._begun:
                return
            self._sizes[name] = size
            self._begun[name] = self._bars.add_task(elided(name.rpartition("/")[2]), total=size, completed=done)
            self._bars.update(self._all, total=sum(self._sizes.values()), advance=done)

    def more(self, name: str, size: int) -> None:
        with self._lock:
            if name in self._begun:
                self._bars.update(self._begun[name], advance=size)
                self._bars.update(self._all, advance=size)

    def end(self, name: str) -> None:
        with self._lock:
            self._ended += 1
            if name in self._begun:
                self._bars.remove_task(self._begun.pop(name))
            self._describe()

    def _describe(self) -> None:
        of = f" of {self._files}" if self._files is not None else ""
        self._bars.update(self._all, description=f"{self._ended}{of} files")


def add_to(file: typer.Typer) -> None:
    """Add these commands to `lightkeeper file`."""
    file.command()(put)
    file.command()(get)
