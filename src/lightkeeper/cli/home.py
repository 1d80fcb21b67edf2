"""Which instance a command speaks to."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lightkeeper.client import Client, find
from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.settings import Settings

_home: Path | None = None


def use_home(home: Path | None) -> None:
    """The home given on the command line, if one was."""
    global _home  # one process is one command
    _home = home


def settings(home: Path | None = None, **given: Any) -> Settings:
    """The settings of that home, with what the command line gives above all."""
    chosen = home or _home
    arguments = {"home": chosen.expanduser().absolute()} if chosen else {}
    try:
        return Settings(**arguments, **{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Invalid(f"unknown setting '{name}'", hint=nearest(name, Settings.model_fields)) from error
        raise Invalid(f"setting '{name}': {first['msg']}") from error


@contextmanager
def client(*, work: bool = False) -> Generator[Client]:
    """A client of the instance on that home; started for this command when none runs, and then with `work` it does what
    is to be done."""
    chosen = settings()
    running = find(chosen.home)
    if running is not None:
        with running:
            yield running
        return
    from lightkeeper.instance import connect  # it brings the whole server: only when it is needed

    with connect(chosen, work=work) as client:
        yield client
