"""lightkeeper traffic, transfer list, show, retry: what goes over links."""

from collections import defaultdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, elided, err, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.states import Transfer
from lightkeeper.domain.units import readable_bytes

transfer = typer.Typer(help="Transfers: copies that wait or are under way.", no_args_is_help=True)


class By(StrEnum):
    """What lines of traffic are summed up by."""

    LINK = "link"
    DAY = "day"
    ACTIVITY = "activity"


_COLUMNS = {By.LINK: ("source", "target"), By.DAY: ("day",), By.ACTIVITY: ("activity",)}


def traffic(
    by: Annotated[list[By] | None, typer.Option("--by", help="Sum up by; link when not given.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="Of the last so many days (UTC).")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show what went over links: volume, rate of one stream, attempts that failed."""
    with client() as api:
        flows = api.traffic(days)
    columns = [column for one in dict.fromkeys(by or [By.LINK]) for column in _COLUMNS[one]]
    lines = _summed(flows, columns)
    if as_json:
        show(lines, as_json=True)
        return
    most = max((line["bytes"] for line in lines), default=0)
    told = [
        line
        | {
            "rate": f"{readable_bytes(int(line['bytes'] / line['seconds']))}/s" if line["seconds"] else "-",
            "share": "█" * round(24 * line["bytes"] / most) if most else "",
        }
        for line in lines
    ]
    show(
        told,
        as_json=False,
        columns=(*columns, "transfers", "bytes", "rate", "failed_attempts", "share"),
        empty=f"nothing was transferred in the last {days} days",
    )


def _summed(flows: list[dict[str, Any]], columns: list[str]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for flow in flows:
        for count in ("transfers", "bytes", "failed_attempts", "seconds"):
            sums[tuple(flow[column] for column in columns)][count] += flow[count]
    return [
        dict(zip(columns, key, strict=True))
        | {
            "transfers": int(found["transfers"]),
            "bytes": int(found["bytes"]),
            "failed_attempts": int(found["failed_attempts"]),
            "seconds": found["seconds"],
        }
        for key, found in sums.items()
    ]


@transfer.command("list")
def list_(
    state: Annotated[
        list[Transfer] | None, typer.Option(help="In this state; Running and Waiting when not given.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="STORAGE", help="To this storage only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List transfers, first those under way, then as they wait."""
    with client() as api:
        found = api.transfers(state, to, limit)
    lines = found if as_json else [_line(one) for one in found]
    columns = ("id", "file", "size", "source", "target", "state", "attempts", "priority", "next", "error")
    show(lines, as_json=as_json, columns=columns, empty="no transfer waits or is under way")


def _line(one: dict[str, Any]) -> dict[str, Any]:
    return one | {
        "id": one["transfer_id"],
        "file": elided(one["lfn"].rpartition("/")[2]),
        "next": one["next"] and one["next"][:19].replace("T", " "),
    }


@transfer.command("show")
def show_(
    transfer_id: Annotated[int, typer.Argument(metavar="ID", help="As `transfer list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Show every attempt of a transfer, and what each error was."""
    with client() as api:
        lines = api.transfer_history(transfer_id)
    show(lines, as_json=as_json, columns=("at", "source", "target", "why"), empty="it waits for its first attempt")


@transfer.command("retry")
def retry(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Transfers.", show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that were given up in the last week.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have transfers that wait, or were given up, begin at once, with all their attempts."""
    if bool(ids) == all_:
        raise Invalid("either transfers are named, or --all is given", hint="lightkeeper transfer list --state Failed")
    with client() as api:
        told = api.retry_transfers(None if all_ else ids, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
        return
    n = len(told["begun"])
    out.print(f"{n} {'transfer' if n == 1 else 'transfers'} {'would begin' if dry_run else 'begin'} at once")
    if told["passed_over"]:
        numbers = ", ".join(str(one) for one in told["passed_over"])
        err.print(f"passed over, because they are made, under way or not known: {numbers}")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(traffic)
    app.add_typer(transfer, name="transfer")
