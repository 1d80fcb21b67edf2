"""lightkeeper up, status, fsck, healed."""

import signal
import threading
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client, settings
from lightkeeper.cli.output import AsJson, out, show
from lightkeeper.client import running


def up(
    port: Annotated[int | None, typer.Option(help="Port of the API and dashboard; 0: any free one.")] = None,
) -> None:
    """Run this home's database, API and worker until Ctrl-C."""
    from lightkeeper.instance import Instance  # it brings the whole server, which no other command needs

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with Instance(settings(port=port)) as instance:
        out.print(f"Lightkeeper runs on {instance.settings.home}: {instance.url} (Ctrl-C stops it)")
        stopping.wait()
        out.print("stopping …")
    out.print("stopped; everything under way goes on at the next start")


def status(as_json: AsJson = False) -> None:
    """Tell what runs on this home, and how much is done and under way."""
    runs = running(settings().home)
    with client() as api:
        totals = api.status()
    late = [f"{o['rows']} {o['kind']}s {o['state']} too long" for o in totals["overdue"]]
    missed = [f"rule {o['rule']}: {o['why']}" for o in totals["late"]]
    waits = [_stopped(one) for one in totals["deletions_stopped"]]
    away = [f"{s['storage']} is {s['health']}: {s['why']}" for s in totals["storages_in_trouble"]]
    in_words = {"running": _in_words(runs)} | totals
    in_words |= {"overdue": late, "late": missed, "deletions_stopped": waits, "storages_in_trouble": away}
    show({"running": runs} | totals if as_json else in_words, as_json=as_json)


def _stopped(one: dict[str, Any]) -> str:
    if one["paused"]:
        return f"paused at {one['storage']} by {one['paused']}: {one['waiting']} wait"
    return f"{one['waiting']} at {one['storage']} wait for two people: lightkeeper deletion approve {one['storage']}"


def _in_words(runs: dict[str, object] | None) -> str:
    if runs is None:
        return "nothing; start it with: lightkeeper up"
    return f"process {runs['pid']} at {runs['url']}" + ("" if runs["works"] else " (for one command only)")


def fsck(
    read_bytes: Annotated[bool, typer.Option("--read-bytes", help="Re-read every copy and compare checksums.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check every invariant and every copy; exit status 1 when anything is violated."""
    with client() as api:
        result = api.fsck(read_bytes=read_bytes)
    if as_json:
        show(result, as_json=True)
    else:
        show(result["violations"], as_json=False, columns=("id", "sentence", "detail"), empty="0 violations")
        out.print(f"{result['invariants']} invariants, {result['replicas_checked']} copies checked")
    if result["violations"]:
        raise typer.Exit(1)


def healed(as_json: AsJson = False) -> None:
    """List what was remedied without a person."""
    with client() as api:
        show(
            api.healed(),
            as_json=as_json,
            columns=("at", "kind", "id", "what", "why"),
            empty="nothing had to be healed",
        )


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, status, fsck, healed):
        app.command()(command)
