"""Runs where the computing is: asks for a job, lays out its inputs, runs its CWL tool, uploads its outputs, says so.

It knows only the HTTP client and the storage plug-ins. It may die at any instruction: what it had is given to another.
It ends by itself when there is no work for a while, when its secret is no longer accepted, or when nobody has answered
for so long that its jobs have been given away.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any, NoReturn

from lightkeeper.client import Client
from lightkeeper.domain.errors import Corrupt, LightkeeperError, NotFound, Offline, Refused, Unavailable
from lightkeeper.domain.fixity import Sums, chunks_of
from lightkeeper.ports import Storage

SECRET = "LIGHTKEEPER_PILOT_SECRET"  # noqa: S105  # the variable's name, not the secret
LOG_LIMIT = 64 * 1024
IDLE_POLL = 0.5
"""Seconds between two questions for work when there is none."""
NEWS_AFTER = 0.3
"""Seconds after which it is told what a job is at."""
SHORT, MOST = 0.5, 16
"""Jobs that take less than so many seconds are asked for several at once, up to so many."""
# `python -m cwltool` would end with 0 whatever happened.
CWLTOOL = (sys.executable, "-c", "import sys; from cwltool.main import run; sys.exit(run())")
SUMMARY = "outputs.json"
CWLTOOL_OPTIONS = (
    *("--disable-color", "--outdir", "out", "--tmpdir-prefix", "tmp/"),
    *("--write-summary", SUMMARY),
)
ENGINES = {"apptainer": "--singularity", "singularity": "--singularity", "podman": "--podman"}
"""Programs that run containers without privileges, and what cwltool calls them."""


class JobFailed(Exception):
    """A job cannot be done here: minor status, what the application said, and its exit code."""

    def __init__(self, minor: str, application: str, exit_code: int | None = None) -> None:
        super().__init__(minor, application)
        self.minor, self.application, self.exit_code = minor, application, exit_code


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
        self._process: subprocess.Popen[bytes] | None = None
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
        self._running = job_id
        log = folder / "tool.log"
        bad: list[dict[str, str | bool]] = []
        done = False
        try:
            shutil.rmtree(folder, ignore_errors=True)
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
                    for name, parameter in _outputs(job, folder)
                ],
                "provenance": [_read_text(folder / "out" / name) for name in job["provenance_logs"]],
                "environment": _environment(job),
                "log": _tail(log),
                "bad_replicas": bad,
            }
            done = True
            return report
        except JobFailed as failure:
            self._report_failure(job_id, failure, _tail(log), bad)
        except LightkeeperError as error:
            self._report_failure(job_id, JobFailed("Pilot", error.message), _tail(log), bad)
        except OSError as error:
            self._report_failure(job_id, JobFailed("Pilot", f"on this host: {error}"), _tail(log), bad)
        except JobTakenAway:
            print(f"job {job_id} was taken away", flush=True)
        finally:
            self._running = None
            if not done:
                self._status.pop(job_id, None)
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def _report_failure(self, job_id: int, failure: JobFailed, log: str, bad: list[dict[str, str | bool]]) -> None:
        try:
            self._client.fail(
                job_id,
                {
                    "minor_status": failure.minor,
                    "application_status": failure.application[:2000],
                    "exit_code": failure.exit_code,
                    "log": log,
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
        """Run the job's CWL tool with cwltool; raises JobFailed when it does not succeed or leaves an output out."""
        (folder / "tmp").mkdir()
        environment = {key: value for key, value in os.environ.items() if key != SECRET}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
        environment |= job["environment"]
        if programs := _programs(job):
            environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
        kept = [name for name in ("NUMBA_CACHE_DIR", "XDG_CONFIG_HOME", *job["environment"]) if name in environment]
        command = [
            *CWLTOOL,
            *CWLTOOL_OPTIONS,
            _engine(_container(job), environment["PATH"]),
            *_default_container(job),
            *(f"--preserve-environment={name}" for name in kept),
            "tool.cwl",
            "inputs.json",
        ]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        exit_code = self._process.wait()
        self._process = None
        self._check()
        if exit_code != 0:
            raise JobFailed("Application Finished With Errors", _what_it_said(_tail(log), exit_code), exit_code)
        for name in [*job["outputs"], *job["provenance_logs"]]:
            if not (folder / "out" / name).is_file():
                raise JobFailed("Application left no output", f"it ended with 0, but did not make {name}", 0)

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
                        self._kill_tool()

    def _give_up(self, why: str) -> NoReturn:
        print(f"ending: {why}", flush=True)
        self._kill_tool()
        os._exit(1)

    def _kill_tool(self) -> None:
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Linux: the tool is killed when the pilot disappears, so that a killed pilot leaves no work running."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGKILL)


def _programs(job: Mapping[str, Any]) -> Path | None:
    """The folder of the programs that the job's software declares; raises JobFailed when it is not here."""
    software = job.get("software")
    if software is None or software["kind"] == "container":
        return None
    place = Path(software["place"])
    programs = place / "bin" if (place / "bin").is_dir() else place
    if not programs.is_dir():
        raise JobFailed("Software not found", f"{software['name']} is declared to be in {place}, which is not here")
    return programs


def _container(job: Mapping[str, Any]) -> str:
    declared = (job.get("software") or {}).get("kind") == "container"
    return "needed" if declared else job.get("container", "")


def _default_container(job: Mapping[str, Any]) -> list[str]:
    software = job.get("software") or {}
    return [f"--default-container={software['place']}"] if software.get("kind") == "container" else []


def _environment(job: Mapping[str, Any]) -> dict[str, str]:
    """What a job ran in, for its provenance."""
    software = job.get("software")
    declared = {"declared": f"{software['kind']} {software['place']}"} if software else {}
    return declared | {"host": socket.gethostname(), "cwltool": version("cwltool")}


def _engine(container: str, path: str) -> str:
    """How cwltool runs a tool: in a container when one is wanted and there is an engine, else bare if it may."""
    engine = next((name for name in ENGINES if shutil.which(name, path=path)), None) if container else None
    if engine is not None:
        return ENGINES[engine]
    if container == "needed":
        raise JobFailed("No container engine", f"the job needs a container; none of {', '.join(ENGINES)} is here")
    return "--no-container"


def _outputs(job: Mapping[str, Any], folder: Path) -> list[tuple[str, str | None]]:
    """What is uploaded by its name below the folder of outputs, with the tool's output when only the run named it."""
    found: dict[str, str | None] = dict.fromkeys(job["outputs"])
    if not job.get("collected"):
        return list(found.items())
    told = json.loads((folder / SUMMARY).read_text())
    out = (folder / "out").resolve()
    for parameter in job["collected"]:
        for path in _files_in(told.get(parameter)):
            inside = path.is_relative_to(out) and path.resolve().is_relative_to(folder.resolve())
            if not inside or not path.is_file():
                raise JobFailed("Application left no output", f"output {parameter} is no file of the job: {path}", 0)
            found[path.relative_to(out).as_posix()] = parameter
    return list(found.items())


def _files_in(value: Any) -> Iterator[Path]:
    """The files of an output value of CWL, those of directories and those that belong to others too."""
    match value:
        case {"class": "Directory"}:
            yield from (Path(folder) / name for folder, _, names in os.walk(value["path"]) for name in sorted(names))
        case {"class": "File"}:
            yield Path(value["path"])
            yield from _files_in(value.get("secondaryFiles"))
        case dict():
            yield from (path for item in value.values() for path in _files_in(item))
        case list():
            yield from (path for item in value for path in _files_in(item))
        case _:
            return


def _what_it_said(log: str, exit_code: int) -> str:
    """The line of the log that tells why: the tool's own end before cwltool's."""
    killed = re.search(r"was terminated by signal: (\w+)", log)
    if killed:
        return f"received kill signal {killed[1]} while executing"
    ended = re.findall(r"exited with status: (-?\d+)", log)
    errors = [line.strip() for line in log.splitlines() if re.search(r"error|critical|exception|killed", line, re.I)]
    said = errors[0] if errors else (log.strip().splitlines() or ["it said nothing"])[-1]
    return f"exit code {ended[0] if ended else exit_code}: {said[:300]}"


def _tail(path: Path) -> str:
    """The last 64 kB of a log, as text; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_LIMIT))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace")


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
    with Client(given.api_url, os.environ[SECRET]) as client:
        try:
            Pilot(client, given.work_dir).run()
        except Refused as error:
            sys.exit(f"{given.name}: {error.message}")
        except Unavailable as error:
            sys.exit(f"{given.name}: {error.message}")


if __name__ == "__main__":
    main()
