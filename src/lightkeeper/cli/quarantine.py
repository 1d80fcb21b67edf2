"""lightkeeper quarantine: deliveries that were refused, and what a person decides about them."""

from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.names import Meta, read_values
from lightkeeper.cli.output import AsJson, DryRun, cell, err, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import readable_bytes

quarantine = typer.Typer(
    help="Deliveries that were refused: have them verified again, release or discard them.", no_args_is_help=True
)

By = Annotated[str, typer.Option("--by", metavar="NAME", help="Your name; it is kept with what you say.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; it is kept with the delivery.")]
Which = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHICH",
        help="Numbers of deliveries, or one pattern of their paths with * and ?; '*' for all.",
        show_default=False,
    ),
]
Storage = Annotated[str | None, typer.Option(metavar="NAME", help="Only those made to this storage.")]


@quarantine.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Of paths, with * and ?; all if not given.")] = "",
    storage: Storage = None,
    discarded: Annotated[bool, typer.Option("--discarded", help="Also those that were discarded.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """List refused deliveries with their reasons, the latest first."""
    with client() as api:
        found = api.quarantine(pattern, storage=storage, discarded=discarded, limit=limit)
    columns = ("number", "at", "path", "reason", *(["state"] if discarded else []))
    show(found, as_json=as_json, columns=columns, empty="nothing was refused")


@quarantine.command("show")
def show_(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of the delivery.")], as_json: AsJson = False
) -> None:
    """Show a refused delivery: why, what became of it so far, and what lies where."""
    with client() as api:
        story = api.refused(number)
    if as_json:
        show(story, as_json=True)
        return
    one = story["delivery"]
    out.print(f"[bold]{cell('', one['path'])}[/], made to {one['storage']}: {one['state']}")
    for reason in one["reason"].split("; "):
        out.print(f"  {cell('', reason)}", soft_wrap=True)
    out.print(f"  it lies in {cell('', one['quarantine'])}", soft_wrap=True)
    for name, size in story["files"].items():
        out.print(f"    {cell('', name)}, {readable_bytes(size)}", soft_wrap=True)
    if not story["files"]:
        out.print("    nothing is there")
    for turn in story["turns"]:
        out.print(
            f"  {cell('at', turn['at'])} {turn['source']} → {turn['target']}: {cell('', turn['why'])}", soft_wrap=True
        )


@quarantine.command("retry")
def retry(
    by: By, which: Which = None, storage: Storage = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Have refused deliveries verified again, because what was wrong is repaired."""
    with client() as api:
        told = api.retry_refused(by, dry_run=dry_run, **_which(which, storage))
    _tell(told, "verified again", as_json=as_json, dry_run=dry_run)


@quarantine.command("release")
def release(
    by: By,
    why: Why,
    which: Which = None,
    storage: Storage = None,
    meta: Meta = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have refused deliveries registered as they are. You answer for what is wrong with them; with --meta you say what
    they lack. They go the way of every delivery."""
    with client() as api:
        values = read_values(meta or [], api.metadata_keys()) if meta else {}
        told = api.release_refused(by, why, meta=values, dry_run=dry_run, **_which(which, storage))
    _tell(told, "released", as_json=as_json, dry_run=dry_run)


@quarantine.command("discard")
def discard(
    by: By,
    why: Why,
    which: Which = None,
    storage: Storage = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete what was refused from the quarantine. That it was delivered, and who gave it up, stays known."""
    with client() as api:
        told = api.discard_refused(by, why, dry_run=dry_run, **_which(which, storage))
    _tell(told, "discarded", as_json=as_json, dry_run=dry_run)


def _which(given: list[str] | None, storage: str | None) -> dict[str, Any]:
    """Numbers or one pattern, as the API takes them."""
    told = given or []
    if all(text.isascii() and text.isdecimal() and len(text) < 19 for text in told):
        return {"numbers": [int(text) for text in told], "storage": storage}
    if len(told) > 1:
        raise Invalid("several patterns, or numbers and a pattern, are not understood together", hint="one at a time")
    return {"pattern": told[0], "storage": storage}


def _tell(told: dict[str, Any], done: str, *, as_json: bool, dry_run: bool) -> None:
    """Show what was done, complain about what was not, and end with 1 when something was not."""
    if as_json:
        show(told, as_json=True)
    else:
        n = len(told["done"])
        word = "delivery" if n == 1 else "deliveries"
        out.print(f"{n} {word} {'would be ' if dry_run else ''}{done}")
        for one in told["done"] if dry_run else []:
            out.print(f"  {one['number']} {cell('', one['path'])}", soft_wrap=True)
        for one in told["failed"]:
            hint = f" [dim]→[/] {cell('', one['hint'])}" if one["hint"] else ""
            err.print(f"[bold red]not done:[/] {one['number']} {cell('', one['path'])}: {cell('', one['error'])}{hint}")
    if told["failed"]:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(quarantine, name="quarantine")
