"""How often copies are read again, and how much of a storage may be read now."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from lightkeeper.domain.catalog import Media

SAVED_UP = timedelta(minutes=1)
"""What was not read is saved up for so long and no longer: a budget is no reason to read for hours at once."""
SAMPLE = 20
"""So many copies tell whether a disk without a marker is the one that the catalogue means."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every copy of a storage is read once in `every`, at most `rate` bytes per second; never when `every` is zero."""

    every: timedelta
    rate: int


def schedule(media: Media, own: tuple[timedelta | None, int | None], default: Schedule) -> Schedule:
    """What holds for a storage: its own numbers, else the default. A tape is read only when its own numbers say so:
    each reading mounts it."""
    every, rate = own
    if every is None:
        every = timedelta(0) if media is Media.TAPE and rate is None else default.every
    return Schedule(every, rate or default.rate)


def credit(rate: int, not_before: datetime, now: datetime) -> int:
    """Bytes that may be read now; none before `not_before`."""
    return int(rate * min(max(now - not_before, timedelta(0)), SAVED_UP).total_seconds())


def paid_for(rate: int, not_before: datetime, now: datetime, read: int) -> datetime:
    """The moment from which more may be read, after `read` more bytes were."""
    return max(not_before, now - SAVED_UP) + timedelta(seconds=read / rate)


def is_the_disk(there: int, sample: int) -> bool:
    """Whether a disk without a marker is the one that the catalogue means, when so many of a sample of its copies are
    there. An empty folder has none; folders that were written to while the disk was away have few."""
    return 2 * there >= sample


MANY = 20
"""Files that fail to be read on one storage in `WINDOW` before it is the storage that is in doubt."""
WINDOW = timedelta(minutes=10)
SILENT = 3
"""Times that a copy gives no answer, while others on its storage do, before it is doubted."""


class Doubt(StrEnum):
    """What a failed read says. COPY: this copy may be bad. STORAGE: its storage fails, which says nothing of one copy.
    NOTHING: not enough yet."""

    COPY = "copy"
    STORAGE = "storage"
    NOTHING = "nothing"


def doubt(wrong: bool, failures: int, files: int) -> Doubt:
    """What a failed read says. `wrong`: other bytes came, or the file is not there; else there was no answer.
    `failures`: of this copy so far; `files`: that failed on its storage lately."""
    if files >= MANY:
        return Doubt.STORAGE
    return Doubt.COPY if wrong or failures >= SILENT else Doubt.NOTHING


def days_for_a_pass(size: int, rate: int) -> float:
    """How long it takes to read everything once."""
    return size / rate / 86400
