"""How a pilot runs the CWL tool of a job: under a watchdog that holds it to its limits; and what it left.

What it may use stands in the order of its job. It runs with cwltool, in a container or bare, in a session of its own
below a watchdog (watchdog.py).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast

from lightkeeper import watchdog
from lightkeeper.domain.limits import LEFT_OUT, Limit, Limits, Used, exceeded

SECRET = "LIGHTKEEPER_PILOT_SECRET"  # noqa: S105  # the variable's name, not the secret
PROVENANCE_LIMIT = 16_000_000
"""Bytes of a provenance log: a longer one is none."""
# `python -m cwltool` would end with 0 whatever happened.
CWLTOOL = (sys.executable, "-c", "import sys; from cwltool.main import run; sys.exit(run())")
SUMMARY = "outputs.json"
CWLTOOL_OPTIONS = (
    *("--disable-color", "--outdir", "out", "--tmpdir-prefix", "tmp/"),
    *("--write-summary", SUMMARY),
)
WATCHDOG = (sys.executable, "-I", "-S", watchdog.__file__)
ENGINES = {"apptainer": "--singularity", "singularity": "--singularity", "podman": "--podman"}
"""Programs that run containers without privileges, and what cwltool calls them."""


class JobFailed(Exception):
    """A job cannot be done here: minor status, what the application said, its exit code, and what it used."""

    def __init__(self, minor: str, application: str, exit_code: int | None = None, used: Used | None = None) -> None:
        super().__init__(minor, application)
        self.minor, self.application, self.exit_code, self.used = minor, application, exit_code, used


class Watchdogs:
    """Has a watchdog at hand for each program that is run, one at a time."""

    def __init__(self) -> None:
        self._process = _begin()

    def watch(
        self, command: list[str], folder: Path, environment: Mapping[str, str], limits: Limits, log: Path
    ) -> Used:
        """Run a command in a folder under a watchdog; raises JobFailed when it does not end with 0, or is ended."""
        order = {
            "command": command,
            "folder": str(folder.absolute()),
            "environment": dict(environment),
            "log": str(log.absolute()),
            "without": "inputs",
            "left_out": LEFT_OUT,
            "limits": asdict(limits),
        }
        ended = self._ask(order)
        if ended is None:
            raise JobFailed("Watchdog killed", "whoever held it to its limits was killed, so it was ended")
        used = Used(**{name: ended[name] for name in ("cpu_seconds", "wall_seconds", "memory", "disk")})
        exit_code = ended["exit_code"]
        if ended["exceeded"] is not None:
            limit, amount = ended["exceeded"]
            raise JobFailed(*exceeded(Limit(limit), amount, limits), exit_code, used)
        if ended["unwanted"]:
            raise JobFailed("Watchdog killed", "somebody told its watchdog to end it", exit_code, used)
        if exit_code != 0:
            raise JobFailed(*_why_failed(text_of(log), exit_code, limits), exit_code, used)
        return used

    def end(self) -> None:
        """End the program that runs now, if one does; also called from other threads."""
        self._process.terminate()

    def close(self) -> None:
        """No more programs are run."""
        with suppress(BrokenPipeError), self._process:
            pass

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the watchdog of a program told when that had ended; None when it was killed itself."""
        if self._process.poll() is not None:
            self.close()
            self._process = _begin()
        stdin, stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()
        told = stdout.readline()
        if not told:  # nobody is left who could end it
            self._process.wait()
            watchdog.end_all(0)
        return json.loads(told) if told else None


def _begin() -> "subprocess.Popen[bytes]":
    environment = {key: value for key, value in os.environ.items() if key != SECRET}
    pipe = subprocess.PIPE
    return subprocess.Popen(WATCHDOG, stdin=pipe, stdout=pipe, env=environment, start_new_session=True)


def run(job: Mapping[str, Any], folder: Path, log: Path, watchdogs: Watchdogs) -> Used:
    """Run the job's CWL tool with cwltool, and return what it used; raises JobFailed when it does not succeed, is
    ended, or leaves an output out."""
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
        _engine(_container(job), folder, environment),
        *_default_container(job),
        *(f"--preserve-environment={name}" for name in kept),
        "tool.cwl",
        "inputs.json",
    ]
    used = watchdogs.watch(command, folder, environment, Limits(**job["limits"]), log)
    for name in [*job["outputs"], *job["provenance_logs"]]:
        if not (folder / "out" / name).is_file():
            raise JobFailed("Application left no output", f"it ended with 0, but did not make {name}", 0, used)
    return used


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


def environment(job: Mapping[str, Any]) -> dict[str, str]:
    """What a job ran in, for its provenance."""
    software = job.get("software")
    declared = {"declared": f"{software['kind']} {software['place']}"} if software else {}
    engines = _engines(os.environ.get("PATH", os.defpath)) if _container(job) else {}
    contained = {"container engine": next(iter(engines))} if engines else {}
    return declared | contained | {"host": socket.gethostname(), "cwltool": version("cwltool")}


def _engine(container: str, folder: Path, environment: dict[str, str]) -> str:
    """How cwltool runs a tool: in a container when one is wanted and there is an engine, else bare if it may.

    Where cwltool looks for its images and for apptainer, which it knows by its older name only, is put into the
    environment: images are kept for the pilot's other jobs.
    """
    if not container:
        return "--no-container"
    here = _engines(environment["PATH"])
    if not here and container == "needed":
        raise JobFailed("No container engine", f"the job needs a container; none of {', '.join(ENGINES)} is here")
    if not here:
        return "--no-container"
    engine = next(iter(here))
    if engine == "apptainer" and "singularity" not in here:
        (folder / "engine").mkdir()
        (folder / "engine" / "singularity").symlink_to(here[engine])
        environment["PATH"] = f"{folder / 'engine'}{os.pathsep}{environment['PATH']}"
    images = Path(environment.setdefault("CWL_SINGULARITY_CACHE", str(folder.parent / "images")))
    images.mkdir(parents=True, exist_ok=True)
    return ENGINES[engine]


def _engines(path: str) -> dict[str, str]:
    """Engines that are here, the preferred one first, with their programs."""
    return {name: found for name in ENGINES if (found := shutil.which(name, path=path))}


def outputs(job: Mapping[str, Any], folder: Path) -> list[tuple[str, str | None]]:
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


def _why_failed(log: str, exit_code: int, limits: Limits) -> tuple[str, str]:
    """Minor status and sentence of a program that ended with another status than 0. Two limits are known by what those
    say who meet them."""
    if found := re.search(r"exceeded time limit of (\d+) seconds", log):
        seconds = float(found[1])
        return exceeded(Limit.WALL_TIME, seconds, replace(limits, wall_time=seconds))
    if limits.disk and re.search(r"File too large|SIGXFSZ", log):
        return exceeded(Limit.DISK, limits.disk, limits)
    return "Application Finished With Errors", _what_it_said(log, exit_code)


def _what_it_said(log: str, exit_code: int) -> str:
    """The line of the log that tells why: of what the tool itself printed, if it failed and printed anything."""
    killed = re.search(r"was terminated by signal: (\w+)", log)
    if killed:
        return f"received kill signal {killed[1]} while executing"
    ended = re.search(r"^WARNING \[job .*exited with status: (-?\d+)$", log, re.M)
    own = re.sub(r"\\\n", "", log[: ended.start()]) if ended else ""  # a command is one line
    printed = "\n".join(line for line in own.splitlines() if not line.startswith("INFO "))
    return f"exit code {ended[1] if ended else exit_code}: {_telling(printed) or _telling(log) or 'it said nothing'}"


def _telling(text: str) -> str:
    """The first line of a text that tells of an error, else the last one; empty when there is none."""
    whole = re.sub(r":\n\s*", ": ", text)  # what a line announces stands in the next
    lines = [line.strip() for line in whole.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|critical|exception|killed", line, re.I)]
    return (errors or lines[-1:] or [""])[0][:300]


def text_of(log: Path) -> str:
    """A log that the watchdog kept short; empty when there is none."""
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""


def provenance(path: Path) -> str:
    """A provenance log that the tool left; raises JobFailed for what cannot be one."""
    with path.open("rb") as file:
        told = file.read(PROVENANCE_LIMIT + 1)
    if len(told) > PROVENANCE_LIMIT:
        raise JobFailed("Application left no output", f"the provenance log {path.name} is too long to be one", 0)
    return told.decode(errors="replace")
