"""lightkeeper rule: what files are owed."""

from getpass import getuser
from typing import Annotated, Any

import typer
from rich.markup import escape

from lightkeeper.cli.home import client
from lightkeeper.cli.names import names
from lightkeeper.cli.output import AsJson, DryRun, out, show
from lightkeeper.domain.units import readable_bytes, readable_time

rule = typer.Typer(help="Rules: what copies files are owed.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]


@rule.command("add")
def add(
    name: Name,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help="Which files: 'data_level = 0', 'dataset = NAME', 'scope = NAME'; or their names, @FILE for a list.",
        ),
    ],
    copies: Annotated[int, typer.Option(min=1, max=20, help="Copies at distinct data centres.")],
    at: Annotated[str, typer.Option(metavar="EXPR", help="Where: a storage expression like 'tier=1&country=ES'.")] = "",
    media: Annotated[str, typer.Option(help="disk or tape.")] = "disk",
    min_distance: Annotated[float, typer.Option(metavar="KM", help="Between any two of the data centres.")] = 0,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Of its transfers; small is early.")] = 5,
    lifetime: Annotated[float | None, typer.Option(metavar="HOURS", help="Withdraw it after so long.")] = None,
    source: Annotated[
        str, typer.Option(metavar="EXPR", help="Copies are made only from here, like 'kind=data-centre'.")
    ] = "",
    retention: Annotated[
        float, typer.Option(metavar="HOURS", min=0, help="Its copies stay so long, even when it is withdrawn.")
    ] = 0,
    protect: Annotated[
        bool, typer.Option("--protect", help="Its copies are not deleted before two people release it.")
    ] = False,
    quota: Annotated[str | None, typer.Option(metavar="BYTES", help="Its copies take up no more: '10 TB'.")] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Wanted by: '2030-01-02 12:00' in UTC, or '48 h' from now.")
    ] = None,
    activity: Annotated[str, typer.Option(help="What it is for: shares and accounting.")] = "preservation",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Say what files are owed, also those that a query will mean later; rules on the same files add up."""
    with client() as api:
        named = list(names(files, None, api)) if len(files) > 1 or files[0][:1] in ("/", "@", "-") else []
        told = api.add_rule(
            name,
            "" if named else files[0],
            copies,
            files=named,
            at=at,
            media=media,
            min_distance=min_distance,
            priority=priority,
            lifetime=lifetime,
            source=source,
            retention=retention,
            protect=protect,
            quota=quota,
            deadline=deadline,
            activity=activity,
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
    columns = ("name", "query", "copies", "media", "where", "files", "fulfilled", "missing", "done_in", "warning")
    show(lines, as_json=as_json, columns=columns, empty="no rule: lightkeeper rule add NAME QUERY --copies N")


def _line(one: dict[str, Any]) -> dict[str, Any]:
    progress = one["progress"]
    return one | {
        "where": one["at"] or "anywhere",
        "files": progress["files"],
        "fulfilled": f"{one['percent']:.1f} %" if progress["fulfilled"] < progress["files"] else "all",
        "missing": readable_bytes(progress["bytes_missing"]),
        "done_in": _done_in(one),
        "warning": one["late"] or ("withdrawn" if one["withdrawn"] else ""),
    }


def _done_in(one: dict[str, Any]) -> str:
    """How long it takes at the rate of the last arrivals."""
    if one["withdrawn"] or not one["progress"]["copies_missing"]:
        return ""
    return "unknown" if one["seconds"] is None else readable_time(one["seconds"])


@rule.command("show")
def show_(name: Name, as_json: AsJson = False) -> None:
    """Show a rule, how far it is and when it will be done."""
    with client() as api:
        one = api.rule(name)
    left_out = ("at", "progress", "percent", "seconds", "late")
    told = one if as_json else {k: v for k, v in _line(one).items() if k not in left_out and v not in (None, "")}
    show(told, as_json=as_json)


@rule.command("explain")
def explain(
    name: Name,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="Only this file.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Say for the copies that are missing why they are, and what will happen next."""
    with client() as api:
        told = api.explain_rule(name, file)
    if as_json:
        show(told, as_json=True)
        return
    one, progress = told["rule"], told["rule"]["progress"]
    if file is not None:
        for reason in told["reasons"] or [{"why": "it has every copy that the rule asks for"}]:
            out.print(escape(reason["why"]), soft_wrap=True)
        return
    out.print(f"[bold]{one['name']}[/]: {progress['fulfilled']} of {progress['files']} files have every copy")
    if one["late"]:
        out.print(f"  [yellow]{escape(one['late'])}[/]")
    if not progress["copies_missing"]:
        return
    out.print(f"  {progress['copies_missing']} copies are missing, {readable_bytes(progress['bytes_missing'])}")
    for line in told["transfers"]:
        error = f": {line['error']}" if line["error"] else ""
        n = _n(line["transfers"], "transfer")
        out.print(escape(f"  {n} {line['state']}, {readable_bytes(line['bytes'])}{error}"), soft_wrap=True)
    for reason in told["reasons"]:
        out.print(escape(f"  {_n(reason['files'], 'file')}: {reason['why']}"), soft_wrap=True)
    if told["looked_at"] < progress["files"] - progress["fulfilled"]:
        out.print(f"  (of the first {told['looked_at']} files that lack a copy)")
    if one["seconds"] is None:
        out.print("  nothing arrived lately where it has to go, so nobody knows how long it will take")
    else:
        out.print(f"  about {readable_time(one['seconds'])} at the rate of the last arrivals")


def _n(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


@rule.command("release")
def release(
    name: Name,
    by: Annotated[str | None, typer.Option("--by", metavar="WHO", help="Who agrees; else who runs this.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Agree that a rule does not protect its copies any more; two people have to."""
    with client() as api:
        told = api.release_rule(name, by or getuser(), dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
    elif told["released"]:
        out.print(
            f"{name} {'would protect' if dry_run else 'protects'} nothing any more: {' and '.join(told['by'])} agreed"
        )
    else:
        out.print(f"{', '.join(told['by'])} {'would agree' if dry_run else 'agreed'}; one more person is needed")


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
