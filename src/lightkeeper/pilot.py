"""Runs where the computing is: asks for a job, lays out its inputs, runs its CWL tool, uploads its outputs, says so.

It knows only the HTTP client and the storage plug-ins. It may die at any instruction: what it had is given to another.
It ends by itself when there is no work for a while, when its secret is no longer accepted, or when nobody has answered
for so long that its jobs have been given away. How the tool of a job is run is told in tool.py.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

from lightkeeper import tool, watchdog
from lightkeeper.client import Client
from lightkeeper.domain.errors import Corrupt, LightkeeperError, NotFound, Offline, Refused, Unavailable
from lightkeeper.domain.fixity import Sums, chunks_of
from lightkeeper.domain.limits import Used
from lightkeeper.ports import Storage
from lightkeeper.tool import SECRET, JobFailed

IDLE_POLL = 0.5
"""Seconds between two questions for work when there is none."""
NEWS_AFTER = 0.3
"""Seconds after which it is told what a job is at."""
SHORT, MOST = 0.5, 16
"""Jobs that take less than so many seconds are asked for several at once, up to so many."""


class JobTakenAway(Exception):
    """The job is not ours any more: leave it, and say nothing."""


class Pilot:
    """One pilot with one job at a time."""

    def __init__(self, client: Client, work_dir: Path) -> None:
        self._client = client
        self._work_dir = work_dir
        self._drivers = {entry.name: entry for entry in entry_points(group="lightkeeper.storage")}
        self._orders = client.hello()
        self._status: dict[int, str] = {}
        self._watchdogs = tool.Watchdogs()
        self._used: Used | None = None
        self._running: int | None = None
        self._taken_away: set[int] = set()
        self._news = threading.Event()
        self._ending = threading.Event()

    def run(self) -> None:
        """Do jobs until there are none for a while. Short ones are asked for and reported several at once."""
        heart = threading.Thread(target=self._beat, daemon=True)
        heart.start()
        idle_since, most = time.monotonic(), 1
        while time.monotonic() - idle_since < self._orders["idle"]:
            jobs = self._client.claim(most, holding=[])
            if not jobs:
                time.sleep(min(IDLE_POLL, self._orders["heartbeat"]))
                continue
            began = time.monotonic()
            self._status = {job["job_id"]: "Initializing Job" for job in jobs}
            done = {job["job_id"]: report for job in jobs if (report := self._do(job)) is not None}
            self._report(done)
            idle_since = time.monotonic()
            most = min(2 * most, MOST) if idle_since - began < SHORT * len(jobs) else 1
        self._ending.set()
        self._news.set()
        self._watchdogs.close()
        self._client.goodbye()

    def _report(self, done: Mapping[int, Mapping[str, Any]]) -> None:
        try:
            refused = self._client.finish_all(done) if done else []
            for job_id in refused:
                print(f"job {job_id} is not ours any more", flush=True)
        except LightkeeperError as error:
            print(f"jobs {list(done)}: {error.message}", flush=True)
        for job_id in done:
            self._status.pop(job_id, None)

    # --- one job
    def _do(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """Run a job; what is to be reported when its outputs are uploaded, None when it ended otherwise."""
        job_id, folder = job["job_id"], self._work_dir / f"job-{job['job_id']}"
        self._running, self._used = job_id, None
        log = folder / "tool.log"
        bad: list[dict[str, str | bool]] = []
        done = False
        try:
            _remove(folder)
            folder.mkdir(parents=True)
            self._set_status(job_id, "Resolving Input Data")
            for file in job["input_files"]:
                self._fetch(file, folder / "inputs", bad)
            self._lay_out(job, folder)
            self._set_status(job_id, "Executing Payload")
            self._run_tool(job, folder, log)
            self._set_status(job_id, "Uploading Output Data")
            report = {
                "storage": job["upload"]["storage"],
                "outputs": [
                    self._upload(job["upload"], folder / "out", name, parameter)
                    for name, parameter in tool.outputs(job, folder)
                ],
                "provenance": [tool.provenance(folder / "out" / name) for name in job["provenance_logs"]],
                "environment": tool.environment(job),
                "log": tool.text_of(log),
                "used": self._used and asdict(self._used),
                "bad_replicas": bad,
            }
            done = True
            return report
        except JobFailed as failure:
            self._report_failure(job_id, failure, tool.text_of(log), bad)
        except LightkeeperError as error:
            self._report_failure(job_id, JobFailed("Pilot", error.message), tool.text_of(log), bad)
        except OSError as error:
            self._report_failure(job_id, JobFailed("Pilot", f"on this host: {error}"), tool.text_of(log), bad)
        except ValueError as error:  # what the program left cannot be read
            told = f"it left what is no proper answer: {type(error).__name__}: {error}"
            self._report_failure(job_id, JobFailed("Application left no output", told), tool.text_of(log), bad)
        except JobTakenAway:
            print(f"job {job_id} was taken away", flush=True)
        finally:
            self._running = None
            if not done:
                self._status.pop(job_id, None)
            _remove(folder)
        return None

    def _report_failure(self, job_id: int, failure: JobFailed, log: str, bad: list[dict[str, str | bool]]) -> None:
        try:
            self._client.fail(
                job_id,
                {
                    "minor_status": failure.minor,
                    "application_status": _sendable(failure.application)[:2000],
                    "exit_code": failure.exit_code,
                    "log": log,
                    "used": self._used and asdict(self._used),
                    "bad_replicas": bad,
                },
            )
        except LightkeeperError as error:
            print(f"job {job_id}: {error.message}", flush=True)

    def _fetch(self, file: Mapping[str, Any], inputs: Path, bad: list[dict[str, str | bool]]) -> None:
        """Copy one input from the first source that reads as the catalogue says."""
        target = inputs / file["lfn"].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        for source in file["sources"]:
            self._check()
            try:
                with self._storage(source).open(file["lfn"]) as stream, target.open("wb") as out:
                    sums = Sums()
                    for chunk in chunks_of(stream):
                        sums.update(chunk)
                        out.write(chunk)
                if sums.fixity().sha256 != file["sha256"]:
                    raise Corrupt(f"reads as sha256 {sums.fixity().sha256[:12]}… instead of {file['sha256'][:12]}…")
            except (Corrupt, NotFound) as error:
                bad.append({"lfn": file["lfn"], "storage": source["storage"], "why": error.message})
            except Unavailable as error:
                if not isinstance(error, Offline):
                    bad.append({"lfn": file["lfn"], "storage": source["storage"], "why": error.message, "silent": True})
                print(f"{file['lfn']} at {source['storage']}: {error.message}", flush=True)
            else:
                return
        tried = ", ".join(source["storage"] for source in file["sources"]) or "none is available"
        raise JobFailed("Input data resolution", f"no copy of {file['lfn']} could be read (tried: {tried})")

    def _lay_out(self, job: Mapping[str, Any], folder: Path) -> None:
        for name, text in job["sandbox"].items():
            (folder / Path(name).name).write_text(text)
        (folder / "tool.cwl").write_text(job["cwl"])
        (folder / "inputs.json").write_text(json.dumps(job["inputs"]))

    def _run_tool(self, job: Mapping[str, Any], folder: Path, log: Path) -> None:
        """Run the job's tool under a watchdog; what it used is told however it ends."""
        try:
            self._used = tool.run(job, folder, log, self._watchdogs)
        except JobFailed as failure:
            self._used = failure.used
            self._check()
            raise
        self._check()

    def _upload(self, upload: Mapping[str, str], out: Path, name: str, parameter: str | None) -> dict[str, Any]:
        """Upload one output into the job's temporary area; its fixity is that of the bytes here."""
        self._check()
        sums = Sums()

        def passing() -> Iterator[bytes]:
            with (out / name).open("rb") as file:
                for chunk in chunks_of(file):
                    sums.update(chunk)
                    yield chunk

        try:
            self._storage(upload).write(f"{upload['directory']}/{name}", passing())
        except LightkeeperError as error:
            raise JobFailed("Storing output data", error.message) from error
        fixity = sums.fixity()
        return {
            "name": name,
            "parameter": parameter,
            "size": fixity.size,
            "sha256": fixity.sha256,
            "adler32": fixity.adler32,
        }

    def _storage(self, place: Mapping[str, str]) -> Storage:
        if place["driver"] not in self._drivers:
            raise JobFailed("Input data resolution", f"no storage driver '{place['driver']}' is installed here")
        return self._drivers[place["driver"]].load()(place["storage"], place["root"])

    # --- being alive
    def _set_status(self, job_id: int, status: str) -> None:
        """What a job is at, which the heart tells in a moment."""
        self._check()
        self._status[job_id] = status
        self._news.set()

    def _check(self) -> None:
        if self._running in self._taken_away:
            raise JobTakenAway

    def _beat(self) -> None:
        """Say that we are alive, and what each job is at; stop what is no longer ours; end when nobody has answered for
        too long."""
        heard = time.monotonic()
        with Client(self._client.url, os.environ[SECRET], timeout=10) as client:
            while not self._ending.is_set():
                if self._news.wait(self._orders["heartbeat"]):
                    self._ending.wait(NEWS_AFTER)  # more comes, and what is over soon need not be told
                self._news.clear()
                try:
                    stop = client.alive(dict(self._status))
                    heard = time.monotonic()
                except Refused:
                    self._give_up("our secret is not accepted any more")
                except LightkeeperError:
                    if time.monotonic() - heard > self._orders["silence"]:
                        self._give_up("nobody answers")
                else:
                    self._taken_away.update(stop)
                    if self._running in stop:
                        self._watchdogs.end()

    def _give_up(self, why: str) -> NoReturn:
        print(f"ending: {why}", flush=True)
        self._watchdogs.end()
        os._exit(1)


def _sendable(text: str) -> str:
    """Names of files may hold bytes that are no text."""
    return text.encode(errors="replace").decode()


def _remove(folder: Path) -> None:
    """Remove the folder of a job, whatever the job made of it: folders that cannot be opened, or a thousand deep."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir():
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, str(folder)], stderr=subprocess.DEVNULL, check=False)


def main() -> None:
    """Started by an executor; the secret comes in the environment, never on the command line."""
    parser = argparse.ArgumentParser(prog="lightkeeper-pilot", description="Ask Lightkeeper for jobs and do them.")
    parser.add_argument("--name", required=True, help="name of this pilot")
    parser.add_argument("--site", required=True, help="site that it runs at")
    parser.add_argument("--api-url", required=True, help="where to ask")
    parser.add_argument("--work-dir", required=True, type=Path, help="where jobs are run; emptied afterwards")
    given = parser.parse_args()
    if SECRET not in os.environ:
        parser.error(f"the environment has no {SECRET}: pilots are started by an executor")
    watchdog.adopt_orphans()  # those of a watchdog that was killed
    with Client(given.api_url, os.environ[SECRET]) as client:
        try:
            Pilot(client, given.work_dir).run()
        except Refused as error:
            sys.exit(f"{given.name}: {error.message}")
        except Unavailable as error:
            sys.exit(f"{given.name}: {error.message}")


if __name__ == "__main__":
    main()
