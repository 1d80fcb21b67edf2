"""T21: jobs of the worst kind among good ones, on real pilots. Each fails in every attempt, with the reason; the others
are done as if they were alone."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chaos import poison
from tests.cwl.documents import tool

from lightkeeper.app import make_log
from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings

TOPOLOGY = """
version: 1
sites:
  North: {computing: {executor: local, pilots: 2}}
storages:
  north: {site: North, root: "ROOT"}
keeper: {max_reassign: REASSIGN}
"""
OF_KIND = 'hints: {"lightkeeper:Transformation": {input_query: {particle: %s}}}\n'
RUN = "baseCommand: python3\ninputs: {program: {type: File, inputBinding: {position: 1}}}\n"
FILE = tool(OF_KIND + RUN + "outputs: {made: {type: File, outputBinding: {glob: made.txt}}}\n")
FOLDER = tool(OF_KIND + RUN + "outputs: {made: {type: Directory, outputBinding: {glob: made.txt}}}\n")
"""Each task has one file as its input, and runs it."""
SHORT = FILE + "requirements: {ToolTimeLimit: {timelimit: 1}}\n"


@contextmanager
def observatory(home: Path, reassign: int, wall_time: int) -> Iterator[Client]:
    """An instance whose jobs may not use much."""
    (home / "north").mkdir(parents=True)
    settings = Settings(
        home=home,
        port=0,
        heartbeat=1,
        pilot_idle=10,
        retry_after=0.1,
        job_wall_time=wall_time,
        job_memory_mb=350,  # cwltool itself has 100
        job_processes=40,
        job_disk_mb=50,
        job_files=500,
        job_log_kb=16,
        job_grace=0.5,
    )
    with (
        Instance(settings, log=make_log(settings)) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        client.apply(TOPOLOGY.replace("ROOT", str(home / "north")).replace("REASSIGN", str(reassign)))
        yield client


def submit(client: Client, name: str, document: str, programs: list[str]) -> None:
    """Programs are files with metadata of their own, and one transformation takes them all."""
    for n, text in enumerate(programs):
        content = text.encode()
        meta = {"data_level": 0, "particle": name}
        digest = hashlib.sha256(content).hexdigest()
        client.put_content(f"/ctao/raw/{name}{n}.py", "north", [content], len(content), digest, meta)
    client.submit(name, document % name, {})


def wait(client: Client, name: str, seconds: float) -> dict[str, Any]:
    """Wait until every task is done or has failed for good; the transformation."""
    deadline = time.monotonic() + seconds
    while True:
        (one,) = client.transformations(name)
        if one["tasks"] and one["unused"] == 0 and one["done"] + one["failed"] == one["tasks"]:
            return one
        assert time.monotonic() < deadline, client.jobs()[:5]
        time.sleep(0.3)


def reasons(client: Client, name: str) -> dict[str, list[tuple[str, str]]]:
    """Minor and application status of each attempt that failed, by task."""
    found: dict[str, list[tuple[str, str]]] = {}
    for job in client.jobs(transformation=name, status="Failed"):
        found.setdefault(str(job["task_id"]), []).append((job["minor_status"], job["application_status"]))
    return found


def expect(client: Client, name: str, attempts: int, minors: list[str]) -> list[str]:
    """Each failed task had so many attempts that ended for the same reason; the reasons' sentences."""
    told = reasons(client, name)
    for tries in told.values():
        assert len(tries) == attempts, tries
        assert len({minor for minor, _ in tries}) == 1, tries
        assert all(len(sentence) > 10 for _, sentence in tries)
    assert sorted(tries[0][0] for tries in told.values()) == sorted(minors)
    return [tries[0][1] for tries in told.values()]


@pytest.mark.feature("S0-054")
def test_poisoned_jobs_fail_with_a_reason_beside_good_ones_and_what_each_used_is_told(tmp_path: Path):
    with observatory(tmp_path / "home", reassign=1, wall_time=60) as client:
        bad = [poison.FILLS_MEMORY, poison.LEAVES_A_DAEMON, poison.ALWAYS_FAILS]
        submit(client, "gamma", FILE, [poison.MAKES_A_FILE] * 3 + bad)
        submit(client, "proton", FOLDER, [poison.MAKES_AN_ODD_NAME])
        submit(client, "electron", SHORT, [poison.NEVER_ENDS])
        one = wait(client, "gamma", 100)
        assert (one["done"], one["failed"]) == (3, 3)
        told = expect(client, "gamma", 2, ["Memory limit exceeded", *["Application Finished With Errors"] * 2])
        assert "exit code 1: the calibration is missing" in told, "what it printed itself tells more than its runner"
        figures = {(line["status"], line["what"]): line for line in client.usage("gamma")}
        assert {status for status, _ in figures} == {"Done", "Failed"}
        for what in ("cpu_seconds", "wall_seconds", "memory"):
            line = figures["Done", what]
            assert line["jobs"] == 3
            assert 0 < line["p50"] <= line["p95"] <= line["most"]
            assert 0 < line["mean"] <= line["most"]
        assert figures["Failed", "memory"]["most"] > 350_000_000 > figures["Done", "memory"]["most"]
        done = [job for job in client.jobs(transformation="gamma") if job["status"] == "Done"]
        assert max(job["cpu_seconds"] for job in done) == pytest.approx(figures["Done", "cpu_seconds"]["most"])
        wait(client, "electron", 60)
        (sentence,) = expect(client, "electron", 2, ["Wall time limit exceeded"])
        assert "may run for 1 second" in sentence
        wait(client, "proton", 60)
        (sentence,) = expect(client, "proton", 2, ["Application Finished With Errors"])
        assert "'utf-8' codec can't encode" in sentence


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_every_poison_ends_after_its_attempts_and_forty_good_jobs_beside_it_are_done(tmp_path: Path):
    limit, went_wrong = "{} limit exceeded".format, "Application Finished With Errors"
    poisons = {
        poison.ALWAYS_FAILS: went_wrong,
        poison.CRASHES: went_wrong,
        poison.FORK_BOMB: limit("Process"),
        poison.FILLS_MEMORY: limit("Memory"),
        poison.FILLS_MEMORY_IN_MANY: limit("Memory"),
        poison.FILLS_DISK: limit("Disk"),
        poison.ONE_LARGE_FILE: limit("Disk"),
        poison.FILLS_INODES: limit("Disk"),
        poison.NEVER_ENDS: limit("Wall time"),
        poison.IGNORES_TERM: limit("Wall time"),
        poison.PRINTS % 1_000_000_000: went_wrong,
        poison.MAKES_NOTHING: went_wrong,
        poison.MAKES_A_PIPE: went_wrong,
        poison.KILLS_ITS_WATCHDOG: "Watchdog killed",
        poison.DEEP: limit("Disk"),
    }
    with observatory(tmp_path / "home", reassign=3, wall_time=15) as client:
        programs = [poison.MAKES_A_FILE] * 40
        for n, program in enumerate(poisons):
            programs.insert(3 * n, program)
        submit(client, "gamma", FILE, programs)
        one = wait(client, "gamma", 800)
        assert (one["done"], one["failed"]) == (40, len(poisons))
        expect(client, "gamma", 4, list(poisons.values()))
        assert {job["attempt"] for job in client.jobs(transformation="gamma", status="Done")} == {1}
        logs = [client.job_log(job["job_id"]) for job in client.jobs(transformation="gamma", status="Failed")]
        assert max(len(log) for log in logs) < 16 * 1024 + 200
        assert sum("bytes are left out here" in log for log in logs) >= 4
        assert client.fsck()["violations"] == []
        assert not list((tmp_path / "home" / "pilots").glob("*/job-*"))
