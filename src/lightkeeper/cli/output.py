"""How commands show things: a table for people, JSON for programs, errors to stderr with their hint."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.units import readable_bytes

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value, as the API returns it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")]

WIDE = 100_000
"""Columns for output that goes to a file or a program: nothing is wrapped there."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
TIMES = ("at", "changed", "created", "ended", "oldest", "started", "submitted", "verified_at")
SHORT = 32
"""A column whose values have at most so many characters is not wrapped."""

err = Console(stderr=True, highlight=False, soft_wrap=True)


def show(value: Any, *, as_json: bool, columns: Sequence[str] = (), title: str = "", empty: str = "nothing") -> None:
    """Print `value`: as JSON, or as a table of these columns when it is a list, or of keys and values."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
    elif isinstance(value, dict):
        table = Table(title=title or None, title_justify="left", box=None, show_header=False)
        for key, content in value.items():
            table.add_row(key.replace("_", " "), cell(key, content))
        out.print(table)
    elif not value:
        out.print(empty)
    else:
        table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
        for column in columns:
            number = isinstance(value[0].get(column), int | float)
            short = all(len(cell(column, row.get(column))) <= SHORT for row in value)
            table.add_column(
                column.replace("_", " "),
                justify="right" if number else "left",
                overflow="fold",
                no_wrap=short,
            )
        for row in value:
            table.add_row(*(cell(column, row.get(column)) for column in columns))
        out.print(table)


def cell(name: str, content: Any) -> str:
    """One value for a person."""
    if content is None:
        return "-"
    if name in ("bytes", "bytes_copied", "size") and isinstance(content, int):
        return readable_bytes(content)
    if isinstance(content, list):
        return ", ".join(str(part) for part in content) or "-"
    if isinstance(content, str) and content and name in TIMES:
        return datetime.fromisoformat(content).strftime("%Y-%m-%d %H:%M:%S")
    return str(content).replace("[", "\\[")


def elided(name: str, length: int = 48) -> str:
    """A long name without its middle: the ends tell files apart."""
    keep = length // 2
    return name if len(name) <= length else f"{name[:keep]}…{name[-keep:]}"


def fail(error: LightkeeperError) -> int:
    """Print an error for a person; its exit status."""
    err.print(f"[bold red]{error.code}:[/] " + error.message.replace("[", "\\["))
    if error.hint:
        err.print("[dim]→[/] " + error.hint.replace("[", "\\["))
    return error.exit_status
