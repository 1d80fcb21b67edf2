"""lightkeeper metadata: the keys that describe files."""

from typing import Annotated

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, out, show

metadata = typer.Typer(help="Metadata keys.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]


@metadata.command("define")
def define(
    name: Name,
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help="string, int, float, bool, time or json.")],
    unit: Annotated[str, typer.Option(help="Unit as in VOUnits: deg, s, TeV.")] = "",
    level: Annotated[str, typer.Option(help="set: the same for many files; file: differs from file to file.")] = "set",
    description: Annotated[str, typer.Option(help="What it says, in a few words.")] = "",
    as_json: AsJson = False,
) -> None:
    """Register a key, or change its unit and description; defining it twice changes nothing."""
    with client() as api:
        made = api.define_key(name, type_, level=level, unit=unit, description=description)
    if as_json:
        show(made, as_json=True)
    else:
        out.print(f"{made['name']}: {made['result']}")


@metadata.command("list")
def keys(as_json: AsJson = False) -> None:
    """List the keys, and what should be changed about them."""
    with client() as api:
        known = api.metadata_keys()
    columns = ("name", "type", "level", "unit", "description", *(("hint",) if any(k["hint"] for k in known) else ()))
    show(known, as_json=as_json, columns=columns, empty="no key yet: lightkeeper metadata define NAME --type TYPE")


@metadata.command("show")
def key(name: Name, as_json: AsJson = False) -> None:
    """Show a key, how many metadata sets use it, and examples of its values."""
    with client() as api:
        story = api.metadata_key(name)
    show(story if as_json else {k: v for k, v in story.items() if v != ""}, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(metadata, name="metadata")
