"""Composition root: settings in, Context out. The only place where plug-ins meet the core."""

import sys
from importlib.metadata import entry_points
from typing import Any, TextIO, cast

import structlog

from lightkeeper.context import Context, Log
from lightkeeper.domain.errors import NotFound
from lightkeeper.ports import Mover
from lightkeeper.settings import Settings
from lightkeeper.steps import quality
from lightkeeper.store import topology
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate


def make_context(
    settings: Settings, database_url: str, *, mover: Mover | None = None, log: Log | None = None
) -> Context:
    """A Context on the database at `database_url`, which is brought to this version's schema.

    `mover` and `log` replace the installed ones: that is how tests and the demo put faults between us and the bytes.
    """
    migrate(database_url)
    observatories = tuple(plug_in() for _, plug_in in sorted(_installed("observatory").items()))
    movers = _installed("mover")
    context = Context(
        db=Database(database_url).open(),
        settings=settings,
        log=log or make_log(settings),
        storage_drivers=_installed("storage"),
        mover=mover or movers["tpc"](),
        executors={name: plug_in() for name, plug_in in _installed("executor").items()},
        observatories=observatories,
        services={name: movers[name] for name in ("fts",) if name in movers},
        notifiers={name: plug_in(settings) for name, plug_in in sorted(_installed("notifier").items())},
        groupings=_installed("grouping"),
        readers=tuple(plug_in() for _, plug_in in sorted(_installed("production").items())),
        job_types={name: plug_in() for name, plug_in in _installed("job_type").items()},
    )
    try:
        _ = context.product_readers
    except ImportError as error:
        raise NotFound(
            f"an observatory's readers cannot be loaded: {error}", hint="pip install 'lightkeeper[ctao]'"
        ) from error
    with context.db.transaction() as conn:
        topology.put_keys(conn, context.metadata_keys)
    quality.put_figures_of_observatories(context)
    return context


def _installed(port: str) -> dict[str, Any]:
    """Plug-ins of one port by name."""
    found = {entry.name: entry for entry in entry_points(group=f"lightkeeper.{port}")}
    plug_ins: dict[str, Any] = {}
    for name, entry in found.items():
        try:
            plug_ins[name] = entry.load()
        except ImportError as error:
            raise NotFound(
                f"the plug-in '{name}' ({port}) cannot be loaded: {error}",
                hint="install what it needs, or remove it",
            ) from error
    return plug_ins


_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""Tracebacks without the values of variables: secrets would be among them."""


class _Patient:
    """A text file whose lines are lost, and counted, while its volume is full or its reader gone: nothing stops
    because it cannot be told. The number of lost lines is told as soon as one can be."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lost = 0

    def write(self, line: str) -> None:
        """Write a line if that is possible."""
        try:
            if self._lost:
                self._file.write(f"{self._lost} lines of the log were lost: they could not be written\n")
                self._file.flush()
                self._lost = 0
            self._file.write(line)
            self._file.flush()
        except OSError:
            self._lost += 1

    def flush(self) -> None:
        """Each line is written at once."""


def make_log(settings: Settings) -> Log:
    """A log for people on a terminal, JSON lines otherwise; to standard error."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if as_text else structlog.processors.JSONRenderer()
    )
    return structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, _Patient(sys.stderr))),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS if not as_text else structlog.processors.format_exc_info,
            renderer,
        ],
    )
