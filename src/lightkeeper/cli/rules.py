"""lightkeeper rule: what files are owed."""

from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, out, show
from lightkeeper.domain.units import readable_bytes

rule = typer.Typer(help="Rules: what copies files are owed.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]


@rule.command("add")
def add(
    name: Name,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Which files: 'data_level = 0', 'dataset = NAME'.")],
    copies: Annotated[int, typer.Option(min=1, max=20, help="Copies at distinct data centres.")],
    at: Annotated[str, typer.Option(metavar="EXPR", help="Where: a storage expression like 'tier=1&country=ES'.")] = "",
    media: Annotated[str, typer.Option(help="disk or tape.")] = "disk",
    min_distance: Annotated[float, typer.Option(metavar="KM", help="Between any two of the data centres.")] = 0,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Of its transfers; small is early.")] = 5,
    lifetime: Annotated[float | None, typer.Option(metavar="HOURS", help="Withdraw it after so long.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Say what files are owed, also those that come later; rules on the same files add up."""
    with client() as api:
        told = api.add_rule(
            name,
            query,
            copies,
            at=at,
            media=media,
            min_distance=min_distance,
            priority=priority,
            lifetime=lifetime,
            dry_run=dry_run,
        )
    if as_json:
        show(told, as_json=True)
    else:
        n = told["copies"]
        verb = "would be made" if dry_run else "will be made"
        out.print(f"{n} {'copy' if n == 1 else 'copies'} {verb}, {readable_bytes(told['bytes'])}")


@rule.command("list")
def list_(as_json: AsJson = False) -> None:
    """List rules, and how far each is."""
    with client() as api:
        found = api.rules()
    lines = found if as_json else [_line(one) for one in found]
    columns = ("name", "query", "copies", "media", "where", "files", "fulfilled", "missing")
    show(lines, as_json=as_json, columns=columns, empty="no rule: lightkeeper rule add NAME QUERY --copies N")


def _line(one: dict[str, Any]) -> dict[str, Any]:
    progress = one["progress"]
    return one | {
        "where": one["at"] or "anywhere",
        "files": progress["files"],
        "fulfilled": f"{one['percent']:.1f} %" if progress["fulfilled"] < progress["files"] else "all",
        "missing": readable_bytes(progress["bytes_missing"]),
    }


@rule.command("show")
def show_(name: Name, as_json: AsJson = False) -> None:
    """Show a rule and how far it is."""
    with client() as api:
        one = api.rule(name)
    show(
        one if as_json else {k: v for k, v in _line(one).items() if k not in ("at", "progress", "percent")},
        as_json=as_json,
    )


@rule.command("explain")
def explain(name: Name, as_json: AsJson = False) -> None:
    """Say for the copies that are missing why they are, and what will happen next."""
    with client() as api:
        told = api.explain_rule(name)
    if as_json:
        show(told, as_json=True)
        return
    one, progress = told["rule"], told["rule"]["progress"]
    out.print(f"[bold]{one['name']}[/]: {progress['fulfilled']} of {progress['files']} files have every copy")
    if not progress["copies_missing"]:
        return
    out.print(f"  {progress['copies_missing']} copies are missing, {readable_bytes(progress['bytes_missing'])}")
    for line in told["transfers"]:
        error = f": {line['error']}" if line["error"] else ""
        out.print(f"  {_n(line['transfers'], 'transfer')} {line['state']}, {readable_bytes(line['bytes'])}{error}")
    for reason in told["reasons"]:
        out.print(f"  {_n(reason['files'], 'file')}: {reason['why']}")
    if told["seconds"] is None:
        out.print("  nothing arrived in the last hour, so nobody knows how long it will take")
    else:
        out.print(f"  about {_duration(told['seconds'])} at the rate of this hour")


def _n(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@rule.command("remove")
def remove(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Withdraw a rule. Copies that were made stay; transfers that did not begin are given up."""
    with client() as api:
        given_up = api.remove_rule(name, dry_run=dry_run)
    if as_json:
        show({"removed": name, "transfers": given_up}, as_json=True)
    else:
        out.print(
            f"{name} {'would be' if dry_run else 'is'} withdrawn; {given_up} transfers "
            f"{'would be' if dry_run else 'are'} given up; copies stay"
        )


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(rule, name="rule")
