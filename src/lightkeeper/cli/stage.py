"""lightkeeper stage: files on tape are brought online, or copied to a disk."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lightkeeper.cli.home import client
from lightkeeper.cli.names import names
from lightkeeper.cli.output import AsJson, DryRun, out, show
from lightkeeper.client import Client
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import readable_bytes

ORDER = "files"


class _OrderUnlessCommand(TyperGroup):
    """`stage NAME` is `stage files NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in when none is named."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [ORDER, *args]
        return super().parse_args(ctx, args)


stage = typer.Typer(
    cls=_OrderUnlessCommand,
    help="Tape: bring files online. `lightkeeper stage DATASET|QUERY|NAME…` is `lightkeeper stage files …`.",
    no_args_is_help=True,
)

Order = Annotated[int, typer.Argument(metavar="ORDER", help="Number of the order.")]


@stage.command(ORDER)
def files(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET|QUERY|NAME…",
            help="A dataset, a query, or names of files, also with * and ?, @LIST, or - for names from a pipe.",
        ),
    ],
    to: Annotated[str | None, typer.Option(metavar="STORAGE", help="Copy them to this disk too.")] = None,
    lifetime: Annotated[float, typer.Option(metavar="HOURS", help="Keep them online for so long.")] = 24.0,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Small is early.")] = 5,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have files on tape brought online, and say first how many and how much that is."""
    with client() as api:
        told = api.stage(**_meant(api, what), to=to, lifetime=lifetime, priority=priority, dry_run=dry_run)
    if as_json:
        show(told, as_json=True)
        return
    verb = "would be" if dry_run else "will be"
    out.print(f"{_n(told['files'])}, {readable_bytes(told['bytes'])}")
    out.print(f"  {_n(told['to_stage'])}, {readable_bytes(told['to_stage_bytes'])}, {verb} staged from tape")
    ready = "lie there already" if to else "can be read already"
    if told["ready"]:
        out.print(f"  {_n(told['ready'])}, {readable_bytes(told['ready_bytes'])}, {ready}")
    if told["without"]:
        out.print(f"  {_n(told['without'])} have no copy that can be read or staged")
    for tape in told["tapes"]:
        if tape["buffer"] is not None:
            room = readable_bytes(max(0, tape["buffer"] - tape["held"]))
            out.print(f"  buffer of {tape['storage']}: {room} of {readable_bytes(tape['buffer'])} are free")
        if tape["trouble"]:
            out.print(f"  {tape['storage']} waits: {tape['trouble']}")
    if told["seconds"]:
        out.print(f"  about {_duration(told['seconds'])} at the rate of this hour")
    if told["order"] is not None:
        out.print(f"order {told['order']}: lightkeeper stage show {told['order']}")


def _meant(api: Client, what: Sequence[str]) -> dict[str, Any]:
    """A dataset or a query, or names of files."""
    if what[0][:1] in ("/", "@", "-") or "/" in what[0].partition(" ")[0]:
        return {"files": list(names(what, None, api))}
    if len(what) > 1:
        raise Invalid(
            "a dataset or a query is one argument", hint="put a query in quotes; names of files begin with '/'"
        )
    if any(dataset["name"] == what[0] for dataset in api.datasets(what[0])):
        return {"query": f'dataset = "{what[0]}"'}
    return {"query": what[0]}


@stage.command("list")
def list_(as_json: AsJson = False) -> None:
    """List what was ordered, the newest first, and how far it is."""
    with client() as api:
        found = api.staged()
    lines = found if as_json else [_line(one) for one in found]
    columns = ("order", "what", "to", "files", "size", "state", "online", "waiting", "asked", "failed", "left")
    show(lines, as_json=as_json, columns=columns, empty="nothing is ordered: lightkeeper stage DATASET|QUERY|NAME")


@stage.command("show")
def show_(order: Order, as_json: AsJson = False) -> None:
    """Show an order: how far it is, and why files are not online."""
    with client() as api:
        one = api.staged(order)[0]
    if as_json:
        show(one, as_json=True)
        return
    show(
        {key: value for key, value in _line(one).items() if key not in ("percent", "seconds", "reasons", "bytes")},
        as_json=False,
    )
    for reason in one["reasons"]:
        out.print(f"  {_n(reason['files'])} at {reason['storage']} {reason['why']}")


@stage.command("cancel")
def cancel(order: Order, as_json: AsJson = False) -> None:
    """End an order: nothing is kept online for it any more; copies that were made stay."""
    with client() as api:
        one = api.cancel_stage(order)
    if as_json:
        show(one, as_json=True)
    else:
        out.print(f"order {order} has ended")


@stage.command("tapes")
def tapes(as_json: AsJson = False) -> None:
    """Show every tape storage: its buffer, what is asked of it, what is not on tape yet."""
    with client() as api:
        found = api.tapes()
    lines = found if as_json else [_tape(one) for one in found]
    columns = ("storage", "buffer", "held", "waiting", "asked", "online", "failed", "not on tape", "trouble")
    show(lines, as_json=as_json, columns=columns, empty="no tape storage: see docs/how-to/use-tape.md")


def _tape(one: dict[str, Any]) -> dict[str, Any]:
    return one | {
        "buffer": "any" if one["buffer"] is None else readable_bytes(one["buffer"]),
        "held": readable_bytes(one["held"]),
        "not on tape": one["not_on_tape"],
    }


def _line(one: dict[str, Any]) -> dict[str, Any]:
    return one | {
        "to": one["target"] or "",
        "size": readable_bytes(one["bytes"]),
        "online": f"{one['there']} ({one['percent']:.0f} %)" if one["state"] != "ended" else "",
        "left": _duration(one["seconds"]) if one["seconds"] else "",
    }


def _n(n: int) -> str:
    return f"{n} file{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(stage, name="stage")
