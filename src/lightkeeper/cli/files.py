"""lightkeeper find, why, file."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from lightkeeper.cli import content, registered
from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, cell, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import readable_bytes

file = typer.Typer(help="Files in the catalogue.", no_args_is_help=True)


Query = Annotated[
    str,
    typer.Argument(
        help="Which files: text like 'data_level = 0 and size > 10MB', JSON, or a DIRAC map; all when not given."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.")]


def find(
    query: Query = "",
    count: Annotated[bool, typer.Option("--count", help="Print how many there are.")] = False,
    size: Annotated[bool, typer.Option("--size", help="Print how large they are together.")] = False,
    at: Annotated[str | None, typer.Option(metavar="STORAGE", help="Only files with a copy there.")] = None,
    sort: Annotated[
        str, typer.Option(metavar="KEYS", help="By size, created, name, directory; a minus in front: descending.")
    ] = "",
    limit: Limit = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say how it will be answered; do not answer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the files that QUERY means: one name on each line; with --json one JSON object on each line."""
    if (count or size) and (limit or sort or explain):
        raise Invalid("--count and --size are about all files that match: leave out --limit, --sort and --explain")
    with client() as api:
        if explain:
            told = api.explain(query, at=at)
            if as_json:
                show(told, as_json=True)
            else:
                lines = (f"query: {told['text'] or 'every file'}", *told["words"])
                sys.stdout.write("\n".join(lines) + "\n")
        elif count or size:
            _print_size(api.count(query, at=at), count=count, size=size, as_json=as_json)
        else:
            for found in api.find(query, at=at, sort=sort, limit=limit, names=not as_json):
                sys.stdout.write((json.dumps(found) if as_json else found["lfn"]) + "\n")


def _print_size(found: dict[str, int], *, count: bool, size: bool, as_json: bool) -> None:
    if as_json:
        show(found, as_json=True)
        return
    if count:
        sys.stdout.write(f"{found['files']}\n")
    if size:
        sys.stdout.write(f"{readable_bytes(found['bytes'])}\n")


@file.command("list")
def files(query: Query = "", limit: Limit = None, as_json: AsJson = False) -> None:
    """List the files that QUERY means, as `lightkeeper find` does."""
    find(query, limit=limit, as_json=as_json)


def why(
    subject: Annotated[
        list[str],
        typer.Argument(
            metavar="SUBJECT", help="A file (/…), a transformation (its number or name), 'task 12', or 'job 12'."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a file, a transformation or a task waits for, and what will happen next.

    Of a file it tells the whole story: its copies, and how it was made, back to the raw files.
    """
    with client() as api:
        if len(subject) == 1 and subject[0].startswith("/"):
            story = api.why(subject[0])
            if as_json:
                show(story, as_json=True)
                return
            tell(story)
            answer = api.why_waiting(subject[0])
            for one in answer["because"]:
                _answer(one)
            return
        answer = api.why_waiting(" ".join(subject))
    if as_json:
        show(answer, as_json=True)
    else:
        _answer(answer)


def _answer(one: dict[str, Any], indent: str = "") -> None:
    """One sentence about what it waits for, one about what happens next, and what a person can do."""
    mark = "[bold yellow]a person is needed:[/] " if one["person"] else ""
    waits = one["waits_for"] or "nothing"
    line = f"{indent}[bold]{one['kind']} {one['id']}[/] {escape(one['name'])} waits: {mark}{escape(waits)}"
    out.print(f"{line}; next: {escape(one['next'])}", soft_wrap=True)
    for choice in one["choices"]:
        out.print(f"{indent}  {escape(choice)}", soft_wrap=True)
    for deeper in one["because"]:
        _answer(deeper, indent + "  ")


def tell(story: dict[str, Any]) -> None:
    """Print a file's story for a person."""
    of = story["file"]
    out.print(f"[bold]{of['lfn']}[/]")
    out.print(f"  {readable_bytes(of['size'])}, sha256 {of['sha256']}, adler32 {of['adler32']}")
    facts = ", ".join(f"{key} {cell(key, value)}" for key, value in of["meta"].items())
    out.print(f"  {facts}", soft_wrap=True)
    out.print(f"  policy {story['policy'] or 'none: no policy matches its metadata'}")
    for copy in story["replicas"]:
        out.print(
            f"  copy at {copy['storage']} ({copy['site']}): {copy['state']}, "
            f"read back {cell('at', copy['verified_at'])}"
        )
    for sentence in story["waits"]:
        out.print(f"  [yellow]waits:[/] {escape(sentence)}", soft_wrap=True)
    steps = {step["file_id"]: step for step in story["made_from"]}
    out.print(_tree(of["file_id"], steps, None), soft_wrap=True)


def _tree(file_id: int, steps: dict[int, dict[str, Any]], branch: Tree | None) -> Tree:
    step = steps[file_id]
    text = f"[bold]{step['lfn'].rpartition('/')[2]}[/]\n[dim]{_how(step)}[/]"
    node = Tree(text) if branch is None else branch.add(text)
    for source in (s for s in steps.values() if file_id in s["made"]):
        _tree(source["file_id"], steps, node)
    return node


def _how(step: dict[str, Any]) -> str:
    software = ", ".join(f"{name} {version}" for name, version in step["software"].items())
    verb = "registered" if step["job_id"] is None else f"made by {step['activity']}"
    return f"{verb} {cell('at', step['started'])} with {software}\n{step['agent']}, sha256 {step['sha256'][:12]}…"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(find)
    app.command()(why)
    content.add_to(file)
    registered.add_to(app, file)
    app.add_typer(file, name="file")
