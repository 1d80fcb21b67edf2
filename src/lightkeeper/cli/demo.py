"""lightkeeper demo."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from lightkeeper.cli import home as homes
from lightkeeper.cli.files import tell
from lightkeeper.cli.output import AsJson, elided, err, out, show
from lightkeeper.cli.work import PROGRESS, report_table
from lightkeeper.client import Client
from lightkeeper.domain.units import readable_bytes

if TYPE_CHECKING:
    from lightkeeper.demo import Result


def demo(
    home: Annotated[
        Path | None, typer.Option(help="Folder of the demo's instance; a new temporary one if not given.")
    ] = None,
    night: Annotated[Path | None, typer.Option(help="Folder with a night to hand in; simulated if not given.")] = None,
    events: Annotated[
        Path | None, typer.Option(help="Folder with events to process; the night's if not given.")
    ] = None,
    scale: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each simulated file, or observations.")] = 4,
    port: Annotated[int, typer.Option(help="Port of the dashboard; 0: any free one.")] = 0,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Stay up afterwards, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a night's walk: in, verified, copied twice, freed, processed, healed, explained."""
    from lightkeeper.demo import Demo, open_demo  # it brings the whole server, which no other command needs

    chosen = home or Path(tempfile.mkdtemp(prefix="lightkeeper-demo-"))
    _write_settings(chosen)
    settings = homes.settings(chosen, port=port)
    with _Display(quiet=as_json) as display, (settings.home / "demo.log").open("a") as log_file:
        log = _FileLog(log_file)
        with open_demo(settings, log) as instance:
            token = (settings.home / "run" / "operator.token").read_text()
            with Client(instance.url, token) as client:
                display.address = instance.url
                result = Demo(instance, client, display.tell).run(night, events, scale)
                display.end()
                _print(result, as_json)
                if keep_running:
                    err.print(f"The dashboard stays at {instance.url} until Ctrl-C")
                    _wait_for_interrupt()
    if result.facts["fsck_violations"]:
        raise typer.Exit(1)


HURRY = """\
# Written by `lightkeeper demo`: nobody wants to wait minutes for a pilot that is known to be dead. Times in seconds.
trigger_patience = 3
lease = 20
heartbeat = 1
pilot_idle = 10
pilot_silence = 15
retry_after = 0.5
"""


def _write_settings(home: Path) -> None:
    """Settings of the demo, which `lightkeeper up` on the same home finds later."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / "lightkeeper.toml"
    if not file.exists():
        file.write_text(HURRY)


def _print(result: "Result", as_json: bool) -> None:
    facts = result.facts
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2, default=str) + "\n")
        sys.stdout.flush()
        return
    out.print()
    for report in result.reports:
        out.print(report_table(report))
    if result.story:
        out.print(f"\n[bold]Why is there {result.story['file']['lfn'].rpartition('/')[2]}?[/]")
        tell(result.story)
    out.print("\n[bold]Healed on the way, without a person[/]")
    show(facts["healed"], as_json=False, columns=("at", "what", "why"), empty="nothing")
    out.print("\n[bold]Refused, never registered[/]")
    refused = [{"file": elided(q["path"].rpartition("/")[2]), "reason": q["reason"]} for q in facts["quarantine"]]
    show(refused, as_json=False, columns=("file", "reason"), empty="nothing")
    out.print()
    show(
        facts["transformations"],
        as_json=False,
        columns=[c for c in PROGRESS if c not in ("production", "processed")],
    )
    table = Table(box=None, show_header=False, title="The night", title_justify="left")
    table.add_row("in the catalogue", f"{facts['files_ingested']} files, {facts['files_quarantined']} refused")
    table.add_row("verified copies at data centres", str(facts["replicas_verified"]))
    table.add_row("copied", readable_bytes(facts["bytes_copied"]))
    table.add_row("freed on site", f"{facts['onsite_freed']} files, each after two copies were read back")
    table.add_row("made", f"{facts['outputs']} files, {facts['lineage_depth']} steps from raw data")
    table.add_row("promises broken (fsck, every byte re-read)", str(facts["fsck_violations"]))
    table.add_row("time", f"{facts['seconds']} s")
    table.add_row("dashboard", facts["dashboard"])
    table.add_row("look again", f"lightkeeper --home {facts['home']} up")
    out.print(table)


class _Display:
    """What is happening, in plain words: a live panel on a terminal, a line per change elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self.address = ""
        self._live = None if quiet or not err.is_terminal else Live(console=err, refresh_per_second=8, transient=True)
        self._quiet = quiet
        self._last = ""
        self._spinner = Spinner("dots")
        self._started = time.monotonic()

    def __enter__(self) -> "_Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Give the terminal back."""
        if self._live:
            self._live.stop()

    def tell(self, sentence: str, status: Mapping[str, Any]) -> None:
        """Show a sentence and the numbers."""
        if self._live:
            self._spinner.update(text=Text(f"{sentence} … {time.monotonic() - self._started:.0f} s", style="bold"))
            self._live.update(Group(self._spinner, _numbers(status), Text(f"dashboard: {self.address}", style="dim")))
        elif sentence != self._last and not self._quiet:
            err.print(f"{time.monotonic() - self._started:5.1f} s  {sentence}")
        self._last = sentence


def _numbers(status: Mapping[str, Any]) -> Table:
    """What comes in, is copied, freed and done, each with a bar of how far it is."""
    came, copying = status["files_ingested"], status["transfers_waiting"] + status["transfers_running"]
    verified, freed, done = status["replicas_verified"], status["onsite_freed"], status["tasks_done"]
    refused, open_ = status["files_quarantined"], status["triggers_open"]
    table = Table.grid(padding=(0, 2))
    rows = [
        ("verified and catalogued", came + refused, open_, f"{came} registered, {refused} refused"),
        ("copied to data centres", verified, copying, f"{verified} copies read back"),
        ("freed on site", freed, came - freed, f"{freed} files"),
        ("processed", done, status["tasks"] - done, f"{done} of {status['tasks']} tasks, {status['pilots']} pilots"),
    ]
    for what, n, left, told in rows:
        bar = ProgressBar(total=max(n + left, 1), completed=n, width=30)
        table.add_row(f"  {what}", bar, told)
    return table


class _FileLog:
    """The log of a demo goes to a file: the terminal is for the display."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def info(self, event: str, **facts: Any) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._write("error", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "level": level,
            "event": event,
            **facts,
        }
        self._file.write(json.dumps(line, default=repr) + "\n")
        self._file.flush()


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        err.print("stopping …")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(demo)
