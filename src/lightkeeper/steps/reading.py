"""Step 1, second part: deliveries are read, once, from the medium: what announces them, their bytes, what these say.

Before: ingest.py claimed it.    After: ingest.py registers it, waits, or refuses it.
This part knows no database, so that it can run in a process of its own (verify.py); whatever the bytes are, the answer
is a Reading.
"""

import io
import json
import os
import stat
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from lightkeeper.domain.delivering import Found
from lightkeeper.domain.errors import Invalid, LightkeeperError, NotFound, Unavailable
from lightkeeper.domain.names import Fixity, parse_lfn, printable
from lightkeeper.ports import LocalStorage, Product, ProductReader

SUFFIX = ".trigger"
WHOLE = 1 << 20
"""Bytes of a file that is read at once."""
MAX_TRIGGER = 64 * 1024
"""Bytes of a trigger that says what its file must be."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one delivery is. `trigger` tells its trigger file from a later one of the same name; `quiet` is for how many
    seconds neither has changed. `why` says more of what was found when there is no product."""

    found: Found
    product: Product | None = None
    why: str = ""
    trigger: tuple[int, int] | None = None
    quiet: float = 0.0
    waived: tuple[str, ...] = ()
    """What was wrong with it, and does not count: see admit.py."""

    def to_json(self) -> list[Any]:
        """As plain values, for `from_json`."""
        product = self.product
        if product is None:
            return [self.found, None, self.why, self.trigger, self.quiet]
        fixity = product.fixity and [product.fixity.size, product.fixity.sha256, product.fixity.adler32]
        return [self.found, [product.lfn, fixity, product.meta, product.problems], "", self.trigger, self.quiet]

    @classmethod
    def from_json(cls, told: list[Any]) -> "Reading":
        """The Reading of such values, checked as far as wrong ones would do harm."""
        found, product, why, trigger, quiet = told
        if product is not None:
            lfn, fixity, meta, problems = product
            product = Product(
                None if lfn is None else parse_lfn(lfn), fixity and Fixity(*fixity), dict(meta), tuple(problems)
            )
        return cls(Found(found), product, str(why), trigger and (int(trigger[0]), int(trigger[1])), float(quiet))


class Progress(Protocol):
    """Who is told how reading goes on, so that it is known which file has the better of it."""

    def at(self, number: int, size: int = 0) -> None:
        """The delivery `number` is touched from now on; so many bytes of it are to be read."""
        ...

    def moved(self) -> None:
        """More bytes came."""
        ...


def read_all(
    deliveries: Sequence[tuple[LocalStorage, str]], readers: Sequence[ProductReader], progress: Progress
) -> Iterator[tuple[int, Reading]]:
    """Verify deliveries and read their metadata, each in one pass over its bytes; with their places in `deliveries`,
    the smallest file first.

    All that lies on their storages is synced first, names included: from then on these are the copies of record, and
    they are read from the medium. A file that is not as it was before that is CHANGING.
    """
    looked = [_Delivery(number, storage, path) for number, (storage, path) in enumerate(deliveries)]
    for one in looked:
        progress.at(one.number)
        one.look()
    by_root = {one.root: one for one in looked}
    for first in by_root.values():
        progress.at(first.number)
        first.sync([one for one in looked if one.root == first.root])
    for first in by_root.values():
        wanted = sorted((one for one in looked if one.root == first.root and one.is_wanted(readers)), key=_folder)
        files = first.storage.open_all([one.path for one in wanted])
        for one in wanted:
            progress.at(one.number)
            one.open(next(files))
    for one in sorted(looked, key=lambda one: one.size):
        progress.at(one.number, one.size)
        yield one.number, one.read(progress)


class _Delivery:
    """One delivery on its way to a Reading, which is there as soon as it is known."""

    def __init__(self, number: int, storage: LocalStorage, path: str) -> None:
        self.number = number
        self.root = str(storage.local_path("/"))
        self.storage = storage
        self.path = path
        self._trigger: os.stat_result | None = None
        self._before: os.stat_result | None = None
        self._reader: ProductReader | None = None
        self._file: BinaryIO | None = None
        self._reading: Reading | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return self._before.st_size if self._before else 0

    def look(self) -> None:
        """See what is there."""
        self._trigger = _status(f"{self.root}{self.path}{SUFFIX}")
        self._before = _status(f"{self.root}{self.path}")

    def sync(self, those: Iterable["_Delivery"]) -> None:
        """Have the storage synced, or tell why it cannot be."""
        try:
            self.storage.sync()
            device = os.stat(self.root).st_dev  # noqa: PTH116
        except (LightkeeperError, OSError) as error:
            for one in those:
                one._told(Found.AWAY, f"its storage cannot be synced: {error}")
        else:
            for one in those:
                if one._before and one._before.st_dev != device:
                    one._told(Found.AWAY, f"it lies on another disk than the root of its storage, {self.root}")

    def is_wanted(self, readers: Sequence[ProductReader]) -> bool:
        """Find its reader; whether it is to be opened."""
        if self._reading is None:
            with self._refusing():
                if self.path.endswith("/" + SUFFIX):
                    raise Invalid("the trigger names no file")
                self._reader = next((reader for reader in readers if reader.recognises(self.path)), None)
                if self._reader is None:
                    raise Invalid("no installed reader knows files of this name")
        return self._reading is None

    def open(self, file: BinaryIO | LightkeeperError) -> None:
        """Have its bytes come."""
        with self._refusing():
            if isinstance(file, LightkeeperError):
                raise file
            self._file = file
            with suppress(OSError):  # advice only
                os.posix_fadvise(file.fileno(), 0, WHOLE, os.POSIX_FADV_WILLNEED)

    def read(self, progress: Progress) -> Reading:
        """What it is."""
        if self._file and self._reader:
            with self._file, self._refusing():
                self._reading = self._read(self._file, self._reader, progress)
        one = self._reading or Reading(Found.AWAY, why="it was not read")
        trigger = self._trigger and (self._trigger.st_ino, self._trigger.st_ctime_ns)
        return Reading(one.found, one.product, one.why, trigger, one.quiet)

    def _read(self, file: BinaryIO, reader: ProductReader, progress: Progress) -> Reading:
        before = self._before
        announced = _announced(self.storage, self.path, self._trigger)
        told = io.BytesIO(_whole(file, self.size)) if self.size < WHOLE else cast("BinaryIO", _Noticed(file, progress))
        product = reader.read(told, self.path)
        after, still = os.fstat(file.fileno()), _status(f"{self.root}{self.path}")
        if before is None or still is None or not _same(before, after) or not _same(before, still):
            return Reading(Found.CHANGING)
        problems = [*product.problems, *_contradictions(announced, product.fixity)]
        if product.lfn is not None and product.lfn != self.path:
            problems.append(f"its reader names it {product.lfn}, but a file on site lies under its own name")
        elif not problems and (product.lfn is None or product.fixity is None):
            problems.append("its reader told no problem, but no name or no fixity either")
        if not problems:
            return Reading(Found.FILE, product)
        return self._refused(replace(product, problems=tuple(problems)))

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """What is raised inside becomes the Reading."""
        try:
            yield
        except NotFound:
            self._told(Found.MISSING, "")
        except Unavailable as error:
            self._told(Found.AWAY, error.message)
        except LightkeeperError as error:
            self._reading = self._refused(Product(None, None, problems=(error.message,)))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # a reader that a hostile file gets the better of stops only its file
            what = f"its reader failed: {type(error).__name__}: {printable(str(error))}"
            self._reading = self._refused(Product(None, None, problems=(what,)))

    def _told(self, found: Found, why: str) -> None:
        self._reading = Reading(found, why=why)

    def _refused(self, product: Product) -> Reading:
        """With the time for which neither the file nor its trigger has changed."""
        times = [status.st_mtime for status in (self._before, self._trigger) if status]
        return Reading(Found.FILE, product, quiet=time.time() - max(times, default=0.0))


class _Noticed:
    """A file whose reads are told."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        self._progress.moved()
        return self._file.read(size)

    def readinto(self, buffer: Any, /) -> int:
        self._progress.moved()
        return self._file.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _whole(file: BinaryIO, size: int) -> bytes:
    """A small file, with no look at what may follow: that it has not changed is seen otherwise."""
    data = cast("io.BufferedReader", file).read1(size)
    return data if len(data) == size else data + file.read(size - len(data))


def identity(root: Path, path: str) -> tuple[int, int] | None:
    """What tells the trigger file of `path` from a later one of the same name; None when there is none."""
    found = _status(f"{root}{path}{SUFFIX}")
    return found and (found.st_ino, found.st_ctime_ns)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _folder(one: _Delivery) -> str:
    return one.path.rpartition("/")[0]


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) == (
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
        other.st_ctime_ns,
    )


# --- what a trigger says -------------------------------------------------------------------------------------
def _announced(storage: LocalStorage, path: str, found: os.stat_result | None) -> Mapping[str, Any]:
    """What the trigger says that its file must be: nothing, mostly. Raises Invalid when it announces something else."""
    if found is None:
        return {}  # taken away since it was seen: the delivery was accepted and goes on
    if stat.S_ISLNK(found.st_mode):
        _must_point_to(f"{storage.local_path('/')}{path}{SUFFIX}", path)
        return {}
    if not stat.S_ISREG(found.st_mode):
        raise Invalid("its trigger is neither a file nor a link")
    if found.st_size == 0:
        return {}
    if found.st_size > MAX_TRIGGER:
        raise Invalid(f"its trigger has {found.st_size} bytes; one that says what its file must be has {MAX_TRIGGER}")
    with storage.open(path + SUFFIX) as file:
        text = file.read(MAX_TRIGGER)
    try:
        said: object = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Invalid('its trigger is neither empty nor a JSON object like {"size": 43200, "sha256": "…"}')
    return cast("dict[str, Any]", said)


def _must_point_to(trigger: str, path: str) -> None:
    """A link must lead to its own data file; an absolute one may begin with the folder's name on another machine."""
    try:
        target = os.readlink(trigger)  # noqa: PTH115  # as it is written
    except OSError:
        return
    if target.startswith("/"):
        good = os.path.normpath(target).endswith(path)
    else:
        good = os.path.normpath(f"{path.rpartition('/')[0]}/{target}") == path
    if not good:
        raise Invalid(f"its trigger points to {printable(target)}, which is another file")


def _contradictions(announced: Mapping[str, Any], fixity: Fixity | None) -> list[str]:
    """Where size or checksums are not what the trigger says."""
    if not announced or fixity is None:
        return []
    read = {"size": fixity.size, "sha256": fixity.sha256, "adler32": fixity.adler32}
    problems: list[str] = []
    for key, value in read.items():
        told = announced.get(key, value)
        if key == "adler32" and isinstance(told, str):
            told = told.rjust(8, "0")
        if isinstance(told, str):
            told = told.lower()
        if told != value:
            problems.append(f"its trigger says {key} {printable(str(told))}, its bytes have {value}")
    return problems
