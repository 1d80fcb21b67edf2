"""lightkeeper register, and lightkeeper file …: what is known and what is changed of files that are registered."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars

from lightkeeper import lists
from lightkeeper.cli.home import client
from lightkeeper.cli.names import ByQuery, Names, names, read_values, read_vocabulary
from lightkeeper.cli.output import AsJson, DryRun, err, out, show
from lightkeeper.domain.errors import Invalid

Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; it is kept with the change.")]


MOST_TOLD = 20
"""Failures beyond these a person does not read on a terminal."""


# --- lists -----------------------------------------------------------------------------------------------------
def register(
    files: Annotated[list[Path], typer.Argument(metavar="LIST", help="Lists of files: .ndjson, .csv or .parquet.")],
    at: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Where the files lie, unless a line says it.")
    ] = None,
    virtual: Annotated[bool, typer.Option("--virtual", help="Names without data.")] = False,
    format_: Annotated[
        str | None, typer.Option("--format", help="ndjson, csv or parquet, whatever the ending.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register files that others wrote. Each line has lfn, size, sha256, adler32, storage and metadata; a copy counts
    as verified once it was read. A list may be given again: what is known is not doubled."""
    total: dict[str, Any] = {"added": 0, "known": 0, "failed": 0, "failures": []}
    with client() as api, _bar() as shown:
        vocabulary = read_vocabulary(api.metadata_keys())
        for path in files:
            lines = lists.read(path, vocabulary, format_, shown(path))
            told = api.register(lines, at=at, virtual=virtual, dry_run=dry_run)
            for key in ("added", "known", "failed"):
                total[key] += told[key]
            failures = sorted(told["failures"], key=lambda failure: failure["line"])
            total["failures"] += [failure | {"list": str(path)} for failure in failures]
    if as_json:
        show(total, as_json=True)
    else:
        for one in total["failures"][:MOST_TOLD]:
            _complain(f"{one['list']}, line {one['line']}: {one['lfn']}", one)
        untold = total["failed"] - min(MOST_TOLD, len(total["failures"]))
        if untold:
            err.print(f"and {untold} more: --json tells all")
        would = "would be " if dry_run else ""
        out.print(f"{total['added']} {would}registered, {total['known']} known already, {total['failed']} failed")
    if total["failed"]:
        raise typer.Exit(1)


@contextmanager
def _bar() -> Iterator[Callable[[Path], lists.Progress]]:
    """A bar for each list on a terminal, nothing elsewhere."""
    with bars.Progress(console=err, transient=True, disable=not err.is_terminal) as shown:

        def of(path: Path) -> lists.Progress:
            whole = path.stat().st_size if path.is_file() and lists.ENDINGS.get(path.suffix) != "parquet" else None
            task = shown.add_task(path.name, total=whole)
            return lambda n: shown.update(task, advance=n)

        yield of


# --- looking ---------------------------------------------------------------------------------------------------
def stat(given: Names = None, query: ByQuery = None, as_json: AsJson = False) -> None:
    """Show size, checksums, state, number of copies and metadata of files."""
    with client() as api:
        told = api.stat(names(given or [], query, api))
    if as_json:
        show(told, as_json=True)
    elif len(told["files"]) == 1:
        one = told["files"][0]
        hidden = ("file_id", "activity_id", "meta", *(("superseded_by",) if one["superseded_by"] is None else ()))
        show({key: value for key, value in one.items() if key not in hidden} | one["meta"], as_json=False)
    elif told["files"]:
        show(told["files"], as_json=False, columns=("lfn", "size", "state", "copies", "created"))
    _end(told, as_json)


def replicas(given: Names = None, query: ByQuery = None, as_json: AsJson = False) -> None:
    """Show every copy of files: where it is, in what state, and when it was last read and agreed."""
    with client() as api:
        told = api.replicas(names(given or [], query, api))
    if as_json:
        show(told, as_json=True)
    else:
        columns = ("lfn", "storage", "site", "state", "verified_at")
        show(told["replicas"], as_json=False, columns=columns, empty="no copy anywhere")
    _end(told, as_json)


def check(
    given: Names = None,
    query: ByQuery = None,
    write: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Write the names to PREFIX.none, .one, .several, .missing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sort names by their copies: none, one, several; and missing, which the catalogue does not know. Ends with 1 when
    a name is missing or has no copy."""
    with client() as api:
        told = api.check(names(given or [], query, api))
    if write is not None:
        for kind, lfns in told.items():
            Path(f"{write}.{kind}").write_text("".join(f"{lfn}\n" for lfn in lfns))
    if as_json:
        show(told, as_json=True)
    else:
        show(
            [{"copies": kind, "files": len(lfns)} for kind, lfns in told.items()],
            as_json=False,
            columns=("copies", "files"),
        )
        for kind in ("none", "missing"):
            for lfn in told[kind][:MOST_TOLD]:
                err.print(f"[yellow]{kind}:[/] {lfn}")
            if len(told[kind]) > MOST_TOLD:
                err.print(f"and {len(told[kind]) - MOST_TOLD} more: --json, or --write PREFIX, tells all")
    if told["none"] or told["missing"]:
        raise typer.Exit(1)


# --- changing --------------------------------------------------------------------------------------------------
def set_metadata(
    given: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE... NAME...", help="New values; then names, wildcards, @FILE or -.")
    ],
    query: ByQuery = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Take this key away.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Set metadata of many files at once: datasets, counters and transformations follow in the same moment."""
    pairs = [text for text in given if "=" in text and not text.startswith(("/", "@"))]
    rest = [text for text in given if text not in pairs]
    with client() as api:
        values = read_values(pairs, api.metadata_keys())
        told = api.set_metadata(names(rest, query, api), values, unset or [], dry_run=dry_run)
    _tell(told, "would be changed" if dry_run else "changed", as_json)


def mark_corrupted(
    why: Why, given: Names = None, query: ByQuery = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Say that the content of files is wrong: no query finds them any more, unless it asks for file_state."""
    with client() as api:
        told = api.mark_corrupted(names(given or [], query, api), why, dry_run=dry_run)
    _tell(told, "would be Corrupted" if dry_run else "Corrupted", as_json)


def restore(
    why: Why, given: Names = None, query: ByQuery = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Say that superseded or corrupted files are right after all."""
    with client() as api:
        told = api.restore(names(given or [], query, api), why, dry_run=dry_run)
    _tell(told, "would be Current" if dry_run else "Current", as_json)


def supersede(
    why: Why,
    given: Annotated[
        list[str],
        typer.Argument(metavar="OLD NEW | @FILE", help="The older and the newer file; or a list, two names on a line."),
    ],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let a file take the place of an older one, which is kept but found no more, unless a query asks."""
    if len(given) == 1 and given[0].startswith("@"):
        lines = [line.split() for line in Path(given[0][1:]).read_text().splitlines()]
        wanted = [line for line in lines if line and not line[0].startswith("#")]
    else:
        wanted = [given]
    pairs = [(line[0], line[1]) for line in wanted if len(line) == 2]
    if not pairs or len(pairs) < len(wanted):
        raise Invalid("two names are needed, the older and the newer file; in a list, on each line")
    with client() as api:
        told = api.supersede(pairs, why, dry_run=dry_run)
    _tell(told, "would be Superseded" if dry_run else "Superseded", as_json)


def repair(
    given: Names = None,
    query: ByQuery = None,
    every: Annotated[bool, typer.Option("--every", help="Read every copy again, also those in order.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Read doubtful copies again and make lost ones again from a good one, before everything that waits. Exit status 1
    when a file has no good copy left."""
    with client() as api:
        plan = api.repair(names(given or [], query, api), every=every, dry_run=dry_run)
    if as_json:
        show(plan, as_json=True)
    else:
        show(plan["steps"], as_json=False, columns=("lfn", "storage", "state", "action", "why"), empty="nothing to do")
        todo = sum(step["action"] in ("read", "copy") for step in plan["steps"])
        out.print(f"{todo} copies {'would be' if dry_run else 'are'} repaired")
    _end(plan, as_json)
    if any(step["action"] == "give up" for step in plan["steps"]):
        raise typer.Exit(1)


def remove(
    why: Why, given: Names = None, query: ByQuery = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Give up the bytes of files: all their copies are deleted. What they were and how they were made stays known."""
    with client() as api:
        told = api.remove(names(given or [], query, api), why, dry_run=dry_run)
    _tell(told, "would be removed" if dry_run else "Removed; their copies are being deleted", as_json)


def unregister(
    why: Why,
    given: Names = None,
    query: ByQuery = None,
    at: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Only what is recorded there, not the files.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take files that were registered by mistake out of the catalogue; no byte on any storage is touched."""
    with client() as api:
        told = api.unregister(names(given or [], query, api), why, at=at, dry_run=dry_run)
    _tell(told, "would be forgotten" if dry_run else "forgotten", as_json)


def _tell(told: dict[str, list[Any]], what: str, as_json: bool) -> None:
    n = len(told["done"])
    if as_json:
        show(told, as_json=True)
    else:
        out.print(f"{n} file{'' if n == 1 else 's'} {what}")
    _end(told, as_json)


def _end(told: dict[str, list[Any]], as_json: bool) -> None:
    """Complain about every name that failed, and end with 1 when one did."""
    if not as_json:
        for one in told["failed"][:MOST_TOLD]:
            _complain(one["lfn"], one)
        untold = len(told["failed"]) - MOST_TOLD
        if untold > 0:
            err.print(f"and {untold} more: --json tells all")
    if told["failed"]:
        raise typer.Exit(1)


def _complain(about: str, failure: dict[str, Any]) -> None:
    about, error, hint = (text.replace("[", "\\[") for text in (about, failure["error"], failure["hint"]))
    told = error if about in error else f"{about}: {error}"
    err.print(f"[red]failed:[/] {told}" + (f" [dim]→[/] {hint}" if hint else ""))


def add_to(app: typer.Typer, file: typer.Typer) -> None:
    """Add these commands: `register` itself, the others to `lightkeeper file`."""
    app.command()(register)
    looking, changing = (stat, replicas, check), (set_metadata, mark_corrupted, restore, supersede, remove, unregister)
    for command in (*looking, *changing, repair):
        file.command(command.__name__.replace("_", "-"))(command)
