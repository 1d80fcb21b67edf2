"""`lightkeeper demo`: the walk of a file from folder to report, with things that break on the way.

It runs a complete instance and uses it through its HTTP contract, as anybody would. Three faults are real ones: a mover
that flips a byte of its first copy, a pilot killed with -9, and a job's tool killed too. Nothing but the mover
is told of them. Started again on the same home it goes on where it was.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.client import Client
from lightkeeper.context import Log
from lightkeeper.domain.errors import LightkeeperError, NotFound, Unavailable
from lightkeeper.instance import Instance
from lightkeeper.ports import DemoInput, Demonstration
from lightkeeper.settings import Settings
from lightkeeper.testing.faults import CorruptingMover

PRODUCTION = "demo"
PATIENCE = 900.0
"""Seconds after which the demo says that it is stuck instead of waiting on."""


@dataclass(slots=True)
class Result:
    """What the demo ends with: the object of `--json`, and what a person wants to see."""

    facts: dict[str, Any]
    reports: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    story: dict[str, Any] | None = None


class Demo:
    """One run of the demo on a home."""

    def __init__(self, instance: Instance, client: Client, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        """`tell` is given a sentence and the instance's numbers, often."""
        self._instance, self._client, self._tell = instance, client, tell

    def run(self, night: Path | None, events: Path | None, scale: int) -> Result:
        """All of it; returns when everything is preserved, processed and freed."""
        started = time.monotonic()
        home = self._instance.settings.home
        shown = demonstration()
        document, roots = shown.topology(home)
        for root in roots:
            root.mkdir(parents=True, exist_ok=True)
        self._client.apply(document)
        self._say("the array control writes a night and its triggers")
        handed_in = shown.hand_in(home, night, events, scale)
        self._say("handed in: " + "; ".join(handed_in.told))
        self._wait("verifying and cataloguing what came in", self._is_ingested)
        self._submit(handed_in)
        saboteur = Saboteur(self._client)
        saboteur.start()
        try:
            self._wait("copying to two data centres, freeing on site, processing", self._is_finished)
        finally:
            saboteur.stop()
        self._say("checking every promise")
        return self._result(started)

    def _submit(self, handed_in: DemoInput) -> None:
        self._say("starting a production of two steps")
        self._client.submit(PRODUCTION, handed_in.production, handed_in.sandbox)

    def _is_ingested(self, status: Mapping[str, Any]) -> bool:
        onsite = self._instance.settings.home / "storage"
        return status["triggers_open"] == 0 and not any(
            name.endswith(".trigger")
            for folder, folders, names in os.walk(onsite)
            for name in names
            if _keep_visible(folders) and "/.lightkeeper" not in folder
        )

    def _is_finished(self, status: Mapping[str, Any]) -> bool:
        productions = self._client.productions()
        quiet = not any(status[key] for key in ("unsettled", "transfers_waiting", "transfers_running", "intents_open"))
        return quiet and all(p["state"] == "Completed" for p in productions)

    def _wait(self, sentence: str, until: Callable[[Mapping[str, Any]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            status = self._client.status()
            self._tell(sentence, status)
            if until(status):
                return
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the demo is stuck: still {sentence} after {PATIENCE:.0f} s",
                    hint=f"look with: lightkeeper --home {self._instance.settings.home} status",
                )
            time.sleep(0.25)

    def _say(self, sentence: str) -> None:
        self._tell(sentence, self._client.status())

    def _result(self, started: float) -> Result:
        fsck = self._client.fsck(read_bytes=True)
        summary = self._client.summary()
        totals = summary["totals"]
        story = self._client.why(summary["outputs"][0]) if summary["outputs"] else None
        fields = (
            "id",
            "type",
            "status",
            "files",
            "tasks",
            "done",
            "failed_attempts",
            "flushes",
            "name",
            "outputs",
        )
        facts: dict[str, Any] = {
            key: totals[key]
            for key in (
                "files_ingested",
                "files_quarantined",
                "replicas_verified",
                "bytes_copied",
                "onsite_freed",
            )
        }
        facts |= {
            "transformations": [{key: t[key] for key in fields} for t in summary["transformations"]],
            "productions": [{"name": p["name"], "status": p["state"]} for p in self._client.productions()],
            "outputs": len(summary["outputs"]),
            "output_files": summary["outputs"],
            "lineage_depth": summary["lineage_depth"],
            "fsck_violations": len(fsck["violations"]),
            "healed": summary["healed"],
            "quarantine": [{"path": q["path"], "reason": q["reason"]} for q in self._client.quarantine()],
            "dashboard": self._instance.url,
            "home": str(self._instance.settings.home),
            "seconds": round(time.monotonic() - started, 1),
        }
        reports = [self._client.transformation_report(t["id"]) for t in summary["transformations"]]
        return Result(facts, reports, story)


class Saboteur:
    """Kills one pilot and the tool of one other job with -9, while they work, once each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saboteur")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, also when not everything could be broken."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        spared: set[int] = set()
        for attack in (self._kill_pilot, self._kill_tool):
            while not self._stopping.wait(0.2):
                jobs = [job for job in self._executing() if job["task_id"] not in spared]
                victim = next((job for job in jobs if attack(job)), None)
                if victim is not None:
                    spared.add(victim["task_id"])
                    break

    def _executing(self) -> list[dict[str, Any]]:
        with suppress(LightkeeperError):
            jobs = self._client.jobs()
            return [
                j for j in jobs if j["status"] == "Running" and j["minor_status"] == "Executing Payload" and j["handle"]
            ]
        return []

    def _kill_pilot(self, job: Mapping[str, Any]) -> bool:
        return _kill(_pid(job), signal.SIGKILL)

    def _kill_tool(self, job: Mapping[str, Any]) -> bool:
        tools = [pid for pid in _descendants(_pid(job)) if "cwltool" not in _command(pid)]
        return bool(tools) and _kill(tools[-1], signal.SIGKILL)


def faulty_mover() -> CorruptingMover:
    """The mover of the demo: its first copy arrives with one byte flipped."""
    return CorruptingMover(StreamMover(), first=1)


def demonstration() -> Demonstration:
    """What the installed observatory shows of itself; raises NotFound."""
    for entry in entry_points(group="lightkeeper.demonstration"):
        try:
            return entry.load()()
        except ImportError as error:
            raise NotFound(
                f"the demo of '{entry.name}' cannot be loaded: {error}",
                hint="pip install 'lightkeeper[ctao,cwl,ctapipe]'",
            ) from error
    raise NotFound("no installed observatory has a demo")


def open_demo(settings: Settings, log: Log) -> Instance:
    """The instance that a demo runs in."""
    return Instance(settings, mover=faulty_mover(), log=log)


def _keep_visible(folders: list[str]) -> bool:
    """Prune hidden folders from an os.walk, in place; always true."""
    folders[:] = [folder for folder in folders if not folder.startswith(".")]
    return True


def _pid(job: Mapping[str, Any]) -> int:
    """Local pilots are named by process id and start time."""
    return int(str(job["handle"]).split(":")[0])


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def _descendants(pid: int) -> list[int]:
    """Processes below `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
