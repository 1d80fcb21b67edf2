"""lightkeeper quality: figures of products, how they go from night to night, what is out of range."""

from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, cell, out, show
from lightkeeper.domain.errors import Invalid

quality = typer.Typer(help="Quality figures of products: trend and alarms.", no_args_is_help=True)

Figure = Annotated[str, typer.Argument(metavar="FIGURE", help="Name of a quality figure.")]


@quality.command("list")
def list_(as_json: AsJson = False) -> None:
    """List quality figures: the range of each, and its value in the last night that has it."""
    with client() as api:
        found = api.quality()
    lines = [
        {
            "figure": one["figure"]["name"],
            "of": _of(one["figure"]),
            "range": _range(one["figure"]),
            "night": one["last"]["night"] if one["last"] else None,
            "mean": _number(one["last"]["mean"]) if one["last"] else None,
            "out_of_range": one["last"]["below"] + one["last"]["above"] if one["last"] else None,
            "defined_by": one["origin"],
        }
        for one in found
    ]
    columns = ("figure", "of", "range", "night", "mean", "out_of_range", "defined_by")
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no figure: they stand in the topology")


@quality.command("show")
def show_(
    figure: Figure,
    by_element: Annotated[bool, typer.Option("--by-element", help="Each array element for itself.")] = False,
    nights: Annotated[int, typer.Option(min=1, max=3660, help="So many nights at the most.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show how a figure goes from night to night."""
    with client() as api:
        told = api.quality_trend(figure, nights=nights, by_element=by_element)
    if as_json:
        show(told, as_json=True)
        return
    of = told["figure"]
    out.print(f"[bold]{of['name']}[/]: {_of(of)}, in order {_range(of)}. {cell('', of['description'])}")
    lines = [
        one
        | {key: _number(one[key]) for key in ("mean", "least", "most")}
        | {"out_of_range": one["below"] + one["above"]}
        for one in told["nights"]
    ]
    columns = ("night", *(("element",) if by_element else ()), "files", "mean", "least", "most", "out_of_range")
    show(lines, as_json=False, columns=columns, empty="no night has it yet")


@quality.command("alarms")
def alarms(as_json: AsJson = False) -> None:
    """List what is out of range in nights that are open; the exit status is 1 when something is."""
    with client() as api:
        found = api.quality_alarms()
    if as_json:
        show(found, as_json=True)
    else:
        for alarm in found:
            out.print(cell("", alarm["told"]), soft_wrap=True)
        if not found:
            out.print("every figure is in its range")
    if found:
        raise typer.Exit(1)


@quality.command("files")
def files(
    figure: Figure,
    night: Annotated[str, typer.Argument(metavar="NIGHT", help="Evening of the night, like 2026-03-14.")],
    out_of_range: Annotated[bool, typer.Option("--out-of-range", help="Only those.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the files of a night with their value of a figure, the worst first."""
    with client() as api:
        found = api.quality_files(figure, night, only_out_of_range=out_of_range, limit=limit)
    lines = [
        {"file": one["lfn"], "value": _number(one["value"]), "in_range": _word(one)} for one in found
    ]  # fmt: skip
    show(found if as_json else lines, as_json=as_json, columns=("file", "value", "in_range"), empty="no such file")


@quality.command("record")
def record(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Name of a file in the catalogue.")],
    values: Annotated[list[str], typer.Argument(metavar="FIGURE=VALUE", help="What was measured.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Note what was measured on a file, by a job or a person: the figures' metadata keys get these values."""
    given = dict(_parsed(text) for text in values)
    with client() as api:
        told = api.record_quality(file, given, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
    else:
        out.print(f"{', '.join(told['recorded'])} {'would be' if dry_run else 'are'} noted")


@quality.command("remove")
def remove(figure: Figure, as_json: AsJson = False) -> None:
    """Watch a figure no more. One that an observatory's package defines comes back at the next start."""
    with client() as api:
        told = api.remove_quality(figure)
    if as_json:
        show(told, as_json=True)
    else:
        out.print(f"{figure} is not watched any more")


def _parsed(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise Invalid(f"'{text}' is not FIGURE=VALUE", hint="a number stands behind the '='") from None


def _of(figure: dict[str, Any]) -> str:
    """What a figure is of, in words."""
    if figure["reduction_to"] is not None:
        return f"raw bytes for each byte at level {figure['reduction_to']}"
    return f"{figure['key']} per second" if figure["per"] else figure["key"]


def _range(figure: dict[str, Any]) -> str:
    low, high = figure["low"], figure["high"]
    unit = f" {figure['unit']}" if figure["unit"] else ""
    if high is None:
        return f"from {low:g}{unit}"
    return f"up to {high:g}{unit}" if low is None else f"from {low:g} to {high:g}{unit}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _word(one: dict[str, Any]) -> str:
    return "below" if one["below"] else "above" if one["above"] else "yes"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(quality, name="quality")
