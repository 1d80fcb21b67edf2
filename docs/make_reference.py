"""Writes the generated parts of the reference: `python docs/make_reference.py`; with `--check` it only compares.

A page is written by hand, except what stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args

os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}

import typer

from lightkeeper.api import make_api
from lightkeeper.cli import app
from lightkeeper.domain.states import KINDS, MOVES, REST, is_final
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, keeping, topology
from lightkeeper.store.invariants import INVARIANTS
from lightkeeper.store.metrics import METRICS, Kind
from lightkeeper_ctao.dialect import TRANSLATED
from lightkeeper_ctao.job_types import JOB_TYPES
from lightkeeper_ctao.keys import KEYS
from lightkeeper_ctao.step_types import ALWAYS_MANDATORY, GENERAL, MEANING, STEP_TYPES

REFERENCE = Path(__file__).parent / "reference"
PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


# --- commands ------------------------------------------------------------------------------------------------
def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, as ('lightkeeper night list', command)."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:  # of typer's own click
        if not hasattr(command, "commands"):
            yield words, command
            return
        for name, child in command.commands.items():
            yield from below(f"{words} {name}", child)

    yield from below("lightkeeper", typer.main.get_command(app))


def _cli() -> str:
    root = typer.main.get_command(app)
    parts = [_help("lightkeeper", root)]
    parts += [f"## {words}\n\n{_help(words, command)}" for words, command in commands()]
    return "\n".join(parts)


def _help(words: str, command: Any) -> str:
    context = command.context_class(command, info_name=words, terminal_width=96, max_content_width=96)
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"```text\n{text}\n```\n"


# --- settings ------------------------------------------------------------------------------------------------
def _settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "`~/.lightkeeper`" if name == "home" else f"`{_value(field.default)}`"
        rows.append((f"`{name}`", _kind(field.annotation), default, field.description or ""))
    return table(("Setting", "Type", "Default", "Meaning"), rows)


def _value(value: object) -> object:
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return f"{seconds:g} s"
    return '""' if value == "" else value


# --- states and invariants -----------------------------------------------------------------------------------
def _states() -> str:
    parts: list[str] = []
    for name, kind in KINDS.items():
        states = cast("list[Any]", list(kind))
        marked = [f"{state} (final)" if is_final(state) else str(state) for state in states]
        parts += [f"## {name}", "", kind.__doc__ or "", "", "States: " + ", ".join(marked) + ".", ""]
        parts += [table(("From", "To", "Who, and why"), [(*move, who) for move, who in MOVES[kind].items()])]
        for state, rest in REST.get(kind, {}).items():
            parts.append(f"A row should not stay {state} for more than {_duration(rest)}.\n")
    return "\n".join(parts)


def _duration(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}{'s' if seconds > size else ''}"
    return f"{seconds} seconds"


def _invariants() -> str:
    listed = [(one.id, one.sentence) for one in INVARIANTS] + [("I13", audit.I13)]
    order = sorted(listed, key=lambda one: (not one[0][1:].isdigit(), int(one[0][1:] or 0)))
    return table(("Id", "Promise"), order)


# --- documents -----------------------------------------------------------------------------------------------
def _topology() -> str:
    parts: list[str] = []
    for title, model in (
        ("sites", topology.SitePart),
        ("sites.computing", topology.Computing),
        ("storages", topology.StoragePart),
        ("storages.protocols", topology.ProtocolPart),
        ("storages.status", topology.StatusPart),
        ("storages.scrub", topology.ScrubPart),
        ("links", topology.LinkPart),
        ("policies", topology.PolicyPart),
        ("quality", topology.QualityPart),
        ("keeper", keeping.KeeperPart),
        ("keeper.by_type", keeping.KeeperTypePart),
    ):
        rows = []
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else f"`{_plain(field.default)}`"
            rows.append((f"`{field.alias or name}`", _kind(field.annotation), default))
        parts += [f"### {title}", "", model.__doc__ or "", "", table(("Key", "Type", "Default"), rows)]
    return "\n".join(parts)


def _kind(annotation: Any) -> str:  # any type there is
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if kinds and getattr(annotation, "__origin__", None) is None:
        return _kind(kinds[0])
    if hasattr(annotation, "__members__"):
        return " or ".join(str(member) for member in annotation)
    if annotation in (topology.Computing, topology.ScrubPart, topology.StatusPart):
        return "map, see below"
    names = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "dict": "map",
        "Path": "path",
        "timedelta": "time",
    }
    return names.get(annotation.__name__, annotation.__name__)


def _plain(value: object) -> str:
    """As it is written in YAML."""
    if isinstance(value, topology.StatusPart):
        return "each on"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return str(value) or '""'


def _step_types() -> str:
    rows = []
    for kind in STEP_TYPES.values():
        own = sorted(kind.keys.keys() - GENERAL.keys())
        rows.append(
            (
                f"`{kind.name}`",
                "yes" if kind.name in JOB_TYPES else "not yet",
                kind.transformation,
                _code(kind.mandatory),
                _code(own),
            )
        )
    return table(("Type", "Runs here", "Transformation", "Must have", "Own keys"), rows)


def _step_keys() -> str:
    rows = []
    for key in GENERAL:
        rows.append((f"`{key}`", "yes" if key in ALWAYS_MANDATORY else "", MEANING[key]))
    return table(("Key", "Must be there", "What it may say"), rows)


def _translated() -> str:
    return table(("In the document", "In the catalogue"), [(f"`{k}`", f"`{v[0]}`") for k, v in TRANSLATED.items()])


def _keys() -> str:
    rows = [(f"`{key.name}`", key.type, key.level, key.unit, key.description) for key in KEYS]
    return table(("Key", "Type", "Level", "Unit", "Meaning"), rows)


def _code(words: Any) -> str:  # any iterable of text
    return ", ".join(f"`{word}`" for word in words)


# --- HTTP ----------------------------------------------------------------------------------------------------
def _routes() -> str:
    paths = make_api(cast("Any", None), "").openapi()["paths"]
    rows = [
        (f"`{method.upper()}`", f"`{path}`", ", ".join(_parameters(route)))
        for path, methods in paths.items()
        for method, route in methods.items()
    ]
    return table(("Method", "Path", "Parameters and body"), rows)


def _parameters(route: dict[str, Any]) -> Iterator[str]:
    for parameter in route.get("parameters", []):
        if parameter["in"] != "header":
            yield f"`{parameter['name']}`"
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in body:
        yield "body " + body["$ref"].rpartition("/")[2]


def _metrics() -> str:
    rows = [
        (
            f"`{m.name}{'_total' if m.kind is Kind.COUNTER else ''}`",
            m.kind,
            ", ".join(f"`{label}`" for label in m.labels),
            m.help,
        )
        for m in METRICS
    ]
    return table(("Metric", "Type", "Labels", "What it is"), rows)


# --- pages ---------------------------------------------------------------------------------------------------
def table(head: tuple[str, ...], rows: Any) -> str:  # rows of anything that prints
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "commands": _cli,
    "settings": _settings,
    "states": _states,
    "invariants": _invariants,
    "topology": _topology,
    "step-types": _step_types,
    "step-keys": _step_keys,
    "translated-keys": _translated,
    "metadata-keys": _keys,
    "routes": _routes,
    "metrics": _metrics,
}


def pages() -> Iterator[tuple[Path, str]]:
    """Every page of the reference as it must be."""
    for page in sorted(REFERENCE.glob("*.md")):
        yield (
            page,
            PART.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n{found[3]}", page.read_text()),
        )


def main() -> None:
    """Write the pages, or with --check name those that are not up to date."""
    old = [page for page, text in pages() if page.read_text() != text]
    if "--check" in sys.argv:
        sys.exit("\n".join(f"{page.name} is not up to date: python docs/make_reference.py" for page in old))
    for page, text in pages():
        page.write_text(text)
    print("written: " + (", ".join(page.name for page in old) or "nothing, all pages were up to date"))


if __name__ == "__main__":
    main()
