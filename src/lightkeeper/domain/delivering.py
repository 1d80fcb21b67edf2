"""What becomes of a delivery: registered, refused, or looked at again. Decisions only."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

QUIET = timedelta(seconds=3)
"""A file is refused for its content only when it has not changed for so long: it may be half written."""
ATTEMPTS = 3
"""Processes that end while they read a file, one after the other, before the file is refused for it."""
SOON, LATE, LATEST = timedelta(seconds=1), timedelta(seconds=10), timedelta(minutes=10)


class Found(StrEnum):
    """What reading a delivery came to. FILE: there is a product, good or with problems. Otherwise its file is MISSING,
    or is CHANGING while it is read; its storage is AWAY and says so, or is SILENT and says nothing; or the process that
    read it CRASHED."""

    FILE = "file"
    MISSING = "missing"
    CHANGING = "changing"
    AWAY = "away"
    SILENT = "silent"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Register:
    """It is good."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """It goes into the quarantine."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """It is looked at again after `time`; `why` is told. `counts`: such attempts come to an end."""

    time: timedelta
    why: str
    counts: bool = False


Verdict = Register | Refuse | Wait


def verdict(
    found: Found,
    problems: tuple[str, ...],
    why: str,
    *,
    quiet: timedelta,
    waited: timedelta,
    attempts: int,
    patience: timedelta,
) -> Verdict:
    """What to do with a delivery that was accepted `waited` ago and has ended `attempts` processes before this reading.

    A trigger waits as long as `patience` for a file that is missing or not at rest. A storage that does not give the
    file is waited for without end: that is not the file's fault, and nothing could be moved there either.
    """
    late = min(max(waited / 4, SOON), LATE)
    match found:
        case Found.FILE if not problems:
            return Register()
        case Found.FILE:
            if quiet < min(QUIET, patience) and waited < patience:
                return Wait(SOON, f"it may be half written: {problems[0]}")
            return Refuse("; ".join(problems))
        case Found.MISSING | Found.CHANGING:
            what = "did not come" if found is Found.MISSING else "did not come to rest"
            if waited < patience:
                return Wait(late, f"its data file {what} yet")
            return Refuse(f"the trigger is there, but its data file {what} within {patience.total_seconds():g} s")
        case Found.AWAY | Found.SILENT:
            return Wait(min(max(waited / 4, SOON), LATEST), why)
        case Found.CRASHED:
            if attempts + 1 < ATTEMPTS:
                return Wait(timedelta(0), why, counts=True)
            return Refuse(f"{why}; so {ATTEMPTS} processes ended that read it")
