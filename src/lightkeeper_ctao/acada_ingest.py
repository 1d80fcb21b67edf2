"""acada-ingest: the options of the ingest daemon that came before, for whoever has them in scripts and unit files.

Every option is checked, and told in our own words: settings of an instance, a storage that takes deliveries, a rule of
copies. Then an instance runs, `lightkeeper up`, until this program is told to stop. docs/how-to/replace-acada-ingest.md
has the table.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lightkeeper.client import Client, find, running
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, Unavailable, nearest
from lightkeeper.domain.names import parse_name, printable
from lightkeeper_ctao.layout import VO

LOCK = "bdms_ingest.lock"
RULE = "acada-offsite"
SITE = "Observatory"
START = 120.0
"""Seconds in which the instance must answer."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_NO_PLACE_FOR_LOGS = ("/etc", "/boot", "/sys", "/proc", "/dev")


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked."""

    data_path: Path
    offsite_copies: int = 2
    rse: str = "ONSITE"
    vo: str = VO
    metrics_port: int = 8000
    disable_metrics: bool = False
    log_level: str = "INFO"
    log_file: Path | None = None
    file_polling_interval: float = 1.0
    task_polling_interval: float = 1.0
    client_retry_interval: float = 30.0
    lock_file: Path | None = None
    dry_run: bool = False

    @property
    def lock(self) -> Path:
        """The file that keeps a second daemon from the same directory."""
        return self.lock_file or self.data_path / LOCK

    def environment(self) -> dict[str, str]:
        """Our settings that say the same."""
        port = 0 if self.disable_metrics else self.metrics_port
        return {"LIGHTKEEPER_SCAN_EVERY": str(self.file_polling_interval), "LIGHTKEEPER_PORT": str(port)}

    def topology(self, *, with_storage: bool) -> str:
        """Our topology that says the same: the storage, unless it is known, and what raw files are owed."""
        lines = ["version: 1"]
        if with_storage:
            lines += [
                "sites:",
                f"  {SITE}: {{kind: observatory}}",
                "storages:",
                f"  {self.rse}: {{site: {SITE}, root: {_quoted(self.data_path)}, ingest: true}}",
            ]
        if self.offsite_copies:
            lines += ["policies:", f"  {RULE}: {{files: {{data_level: 0}}, copies: {self.offsite_copies}}}"]
        return "\n".join(lines) + "\n"


def read_config(file: Path) -> dict[str, Any]:
    """The options in a configuration file: a map, names with hyphens or underscores. Raises Invalid."""
    try:
        told: object = YAML(typ="safe", pure=True).load(file.read_text())  # pyright: ignore[reportUnknownMemberType]
    except OSError as error:
        raise Invalid(f"the configuration {file} cannot be read: {error.strerror}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise Invalid(f"the configuration {file} is not YAML: {' '.join(str(error).split())}") from None
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise Invalid(f"the configuration {file} must be a map of options", hint="offsite_copies: 2")
    options = {str(key).replace("-", "_"): value for key, value in cast("dict[object, Any]", told).items()}
    known = [field.name for field in fields(Options)]
    for name in options:
        if name not in known:
            raise Invalid(f"the configuration {file} has no option '{printable(name)}'", hint=nearest(name, known))
    return options


def checked(given: Mapping[str, Any]) -> Options:
    """The options; raises Invalid for the first that is wrong. What is None counts as not given."""
    told = {name: value for name, value in given.items() if value is not None}
    if "data_path" not in told:
        raise Invalid("data-path is not given", hint="--data-path DIRECTORY, or data_path in the configuration")
    data_path = Path(str(told["data_path"]))
    if not data_path.is_absolute():
        raise Invalid(f"data-path must be absolute, not {printable(str(data_path))}")
    if not data_path.is_dir():
        raise Invalid(f"data-path {printable(str(data_path))} is not a directory", hint="make it, or mount it, first")
    told["data_path"] = data_path
    port = _number(told, "metrics_port", int)
    if port is not None and not 1024 <= port <= 65535:
        raise Invalid(f"metrics-port must be between 1024 and 65535, not {port}")
    copies = _number(told, "offsite_copies", int)
    if copies is not None and not 0 <= copies <= 20:
        raise Invalid(f"offsite-copies must be between 0 and 20, not {copies}")
    for name in ("file_polling_interval", "task_polling_interval", "client_retry_interval"):
        seconds = _number(told, name, float)
        if seconds is not None and not 0 < seconds < 1_000_000:
            raise Invalid(f"{_option(name)} must be a positive number of seconds, not {seconds:g}")
    if (vo := str(told.get("vo", VO))) != VO:
        raise Invalid(f"vo must be {VO}, not {printable(vo)}: every name of this observatory must start with /{VO}/")
    if "rse" in told:
        told["rse"] = parse_name(str(told["rse"]), "storage")
    level = str(told.get("log_level", "INFO")).upper()
    if level not in LEVELS:
        raise Invalid(f"log-level must be one of {', '.join(LEVELS)}, not {printable(level)}")
    told["log_level"] = level
    for name in ("log_file", "lock_file"):
        if name in told:
            told[name] = Path(str(told[name])).absolute()
    if (log := told.get("log_file")) is not None:
        for place in _NO_PLACE_FOR_LOGS:
            if log.resolve().is_relative_to(place) and not log.resolve().is_relative_to("/dev/shm"):  # noqa: S108
                raise Invalid(f"log-file {log} may not lie under {place}")
    for name in ("disable_metrics", "dry_run"):
        if not isinstance(told.get(name, False), bool):
            raise Invalid(f"{_option(name)} must be true or false")
    return Options(**told)


def _option(name: str) -> str:
    return name.replace("_", "-")


def _number(told: dict[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """The option as a number, which is written back; None when it is not given."""
    if name not in told:
        return None
    try:
        if isinstance(told[name], bool):
            raise ValueError
        told[name] = kind(str(told[name]))
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise Invalid(f"{_option(name)} must be {what}, not {printable(str(told[name]))}") from None
    return told[name]


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- running -----------------------------------------------------------------------------------------------------
@contextmanager
def only_one(lock: Path) -> Generator[None]:
    """Hold a lock file with our process id as long as this lasts; raises Conflict when another process holds it."""
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise Invalid(f"the lock file {lock} cannot be made: {error.strerror}", hint="--lock-file FILE") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            raise Conflict(
                f"Another ingestion process is already running (process {printable(owner) or 'just starting'})",
                hint=f"stop it first; it holds {lock}",
            ) from None
        if _is_there(lock, handle):
            break
        os.close(handle)  # its last holder removed it before we had it
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _is_there(lock: Path, handle: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), lock.stat())
    return False


def prepare(client: Client, options: Options) -> list[str]:
    """Have the instance take deliveries there and make the copies; what that changes, in words."""
    known = {one["storage"]: one["directory"] for one in client.ingest_status()}
    same = [name for name, directory in known.items() if Path(directory) == options.data_path]
    if options.rse in known and options.rse not in same:
        raise Conflict(
            f"storage {options.rse} takes deliveries at {known[options.rse]}, not at {options.data_path}",
            hint="choose another name with --rse, or change the topology with: lightkeeper apply",
        )
    return client.apply(options.topology(with_storage=not same), dry_run=options.dry_run)


def run(options: Options, home: Path) -> None:
    """Run an instance as the options say until SIGTERM or SIGINT; with `dry_run` only until it has answered."""
    with only_one(options.lock), _Daemon(options, home) as daemon:
        with daemon.client() as client:
            changes = prepare(client, options)
            url = client.url
        for change in changes:
            print(f"{'would change' if options.dry_run else 'changed'}: {change}", flush=True)
        if options.dry_run:
            print("Dry run: everything starts, and was stopped again", flush=True)
            return
        print(f"Deliveries are taken at {options.data_path}; the dashboard is at {url}", flush=True)
        daemon.wait()


class _Daemon:
    """`lightkeeper up` as a process of its own, stopped when the block is left."""

    def __init__(self, options: Options, home: Path) -> None:
        self._home = home
        self._told_to_stop = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        log = options.log_file.open("ab") if options.log_file else None
        self._child = subprocess.Popen(
            [sys.executable, "-m", "lightkeeper", "--home", str(home), "up"],
            env=os.environ | options.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log or subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        if log:
            log.close()

    def __enter__(self) -> "_Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.terminate()
        self._child.wait()

    def client(self) -> Client:
        """A client of it, as soon as it answers."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and not self._told_to_stop:
            if self._child.poll() is not None:
                raise Unavailable(f"the instance on {self._home} did not start", hint="its log says why")
            runs = running(self._home)
            if runs is not None and runs["pid"] == self._child.pid and (found := find(self._home)) is not None:
                return found
            time.sleep(0.1)
        raise Unavailable(f"the instance on {self._home} did not answer within {START:g} s")

    def wait(self) -> None:
        """Until it ends, or we are told to stop."""
        while self._child.poll() is None and not self._told_to_stop:
            time.sleep(0.2)
        if not self._told_to_stop:
            raise Unavailable("the instance ended by itself", hint="its log says why")

    def _stop(self, *_: object) -> None:
        self._told_to_stop = True


# --- the command -------------------------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def acada_ingest(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with options.")] = None,
    data_path: Annotated[str | None, typer.Option("--data-path", "-d", help="Interface directory.")] = None,
    offsite_copies: Annotated[str | None, typer.Option(help="Copies off site; 0: none. [default: 2]")] = None,
    rse: Annotated[str | None, typer.Option(help="Name of the on-site storage. [default: ONSITE]")] = None,
    vo: Annotated[str | None, typer.Option(help="First part of every name. [default: ctao]")] = None,
    metrics_port: Annotated[str | None, typer.Option(help="Port of API and metrics. [default: 8000]")] = None,
    disable_metrics: Annotated[bool | None, typer.Option("--disable-metrics", help="Use any free port.")] = None,
    log_level: Annotated[str | None, typer.Option(help="Checked; our log tells decisions only.")] = None,
    log_file: Annotated[str | None, typer.Option(help="File for the log; standard error, if not given.")] = None,
    file_polling_interval: Annotated[str | None, typer.Option(help="Seconds between scans. [default: 1]")] = None,
    task_polling_interval: Annotated[str | None, typer.Option(help="Checked; there is no queue to poll.")] = None,
    client_retry_interval: Annotated[str | None, typer.Option(help="Checked; there is no other server.")] = None,
    lock_file: Annotated[str | None, typer.Option(help=f"Lock. [default: {LOCK} in the interface directory]")] = None,
    dry_run: Annotated[bool | None, typer.Option("--dry-run", help="Start, check, stop.")] = None,
    home: Annotated[Path | None, typer.Option(envvar="LIGHTKEEPER_HOME", help="Folder of the instance.")] = None,
) -> None:
    """Take the deliveries of the array control, with the options of the daemon that came before."""
    told = {
        "data_path": data_path,
        "offsite_copies": offsite_copies,
        "rse": rse,
        "vo": vo,
        "metrics_port": metrics_port,
        "disable_metrics": disable_metrics,
        "log_level": log_level,
        "log_file": log_file,
        "file_polling_interval": file_polling_interval,
        "task_polling_interval": task_polling_interval,
        "client_retry_interval": client_retry_interval,
        "lock_file": lock_file,
        "dry_run": dry_run,
    }
    if config is not None and not config.is_file():
        raise NotFound(f"there is no configuration {config}")
    from_file = read_config(config) if config else {}
    options = checked(from_file | {name: value for name, value in told.items() if value is not None})
    run(options, home.expanduser().absolute() if home else Path.home() / ".lightkeeper")


def main() -> None:
    """Entry point of `acada-ingest`."""
    try:
        app()
    except LightkeeperError as error:
        print(f"{error.code}: {error.message}" + (f"\n→ {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
