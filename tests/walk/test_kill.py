"""Every process of the demo is killed with -9 at a random moment; `lightkeeper up` on the same home finishes it.

Nothing is lost: every delivery whose trigger had been written ends in the catalogue or in the quarantine, every file
has its copies, productions that were submitted complete, and all invariants hold with every byte read again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lightkeeper.client import Client, find

pytestmark = [pytest.mark.ctapipe, pytest.mark.timeout(400)]
MOMENTS = 20
LONGEST = 16.0
"""Seconds after the start of the demo within which the moments lie; it takes about so long undisturbed."""
LIGHTKEEPER = [sys.executable, "-m", "lightkeeper"]


def moments() -> list[float]:
    """Random, one in each of 20 equal parts of the demo, so that none of it is left out. The seed is in the name."""
    seed = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
    chance = random.Random(seed)
    return [round((n + chance.random()) * LONGEST / MOMENTS, 2) for n in range(MOMENTS)]


@pytest.mark.parametrize("moment", moments())
@pytest.mark.feature("X-02", "S3-048")
def test_killed_at_any_moment_it_goes_on_and_loses_nothing(tmp_path: Path, moment: float):
    home = tmp_path / "home"
    demo = start(home, "demo", "--home", str(home), "--scale", "2", "--json")
    time.sleep(moment)
    kill_everything(home)
    demo.wait()
    announced = {
        "/" + str(trigger.relative_to(home / "storage/LaPalma-onsite")).removesuffix(".trigger")
        for trigger in (home / "storage/LaPalma-onsite/ctao").rglob("*.trigger")
    }
    with running(home) as client:
        finish(client, home)
        known = {f["lfn"] for f in client.files({})} | {q["path"] for q in client.quarantine()}
        assert announced <= known, "a delivery was lost"
        assert not list((home / "storage/LaPalma-onsite/ctao").rglob("*.trigger"))
        assert client.fsck(read_bytes=True)["violations"] == []
        for file in client.files({}):
            sites = {c["site"] for c in client.why(file["lfn"])["replicas"]}
            assert len(sites) == 2
            assert "LaPalma" not in sites
    assert survivors(home) == set()


def test_a_demo_that_was_killed_goes_on_where_it_was_when_it_is_started_again(tmp_path: Path):
    home = tmp_path / "home"
    demo = start(home, "demo", "--home", str(home), "--scale", "2", "--json")
    time.sleep(6)
    kill_everything(home)
    demo.wait()
    again = start(home, "demo", "--home", str(home), "--scale", "2", "--json", stdout=subprocess.PIPE)
    told, _ = again.communicate(timeout=200)
    facts = json.loads(told)
    assert again.returncode == 0
    assert facts["fsck_violations"] == 0
    assert [t["status"] for t in facts["transformations"]] == ["Completed", "Completed"]
    assert facts["files_ingested"] == facts["onsite_freed"] == 12


def finish(client: Client, home: Path) -> None:
    """Wait until there is nothing left to do."""
    deadline = time.monotonic() + 200
    while True:
        status = client.status()
        busy = [
            key
            for key in ("triggers_open", "unsettled", "transfers_waiting", "transfers_running", "intents_open")
            if status[key]
        ]
        left = list((home / "storage/LaPalma-onsite/ctao").rglob("*.trigger"))
        if not busy and not left and all(p["state"] == "Completed" for p in client.productions()):
            return
        assert time.monotonic() < deadline, f"stuck: {busy} {left} {client.productions()} {client.jobs()[:3]}"
        time.sleep(0.2)


@contextmanager
def running(home: Path) -> Iterator[Client]:
    """`lightkeeper up` on the home, stopped as with Ctrl-C afterwards."""
    up = start(home, "--home", str(home), "up", "--port", "0")
    try:
        deadline = time.monotonic() + 60
        while (client := find(home)) is None:
            assert up.poll() is None, (home.parent / "log").read_text()
            assert time.monotonic() < deadline, "not up within a minute"
            time.sleep(0.1)
        with client:
            yield client
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, "Ctrl-C stops cleanly"
    finally:
        kill_everything(home)
        up.wait()


def start(home: Path, *arguments: str, stdout: int | None = None) -> "subprocess.Popen[bytes]":
    """A lightkeeper command, its output in a file beside the home. Its environment tells the home it belongs to."""
    with (home.parent / "log").open("ab") as log:
        environment = os.environ | {"LIGHTKEEPER_TEST_HOME": str(home)}
        return subprocess.Popen([*LIGHTKEEPER, *arguments], stdout=stdout or log, stderr=log, env=environment)


def survivors(home: Path) -> set[int]:
    """Every process that belongs to the home: by its environment, its folder or its command line."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(home).encode() in told or str(home) in str((process / "cwd").readlink()):
                found.add(int(process.name))
    return found - {os.getpid()}


def kill_everything(home: Path) -> None:
    """kill -9 all of it at once, until nothing is left."""
    while pids := survivors(home):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
