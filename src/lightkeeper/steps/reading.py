"""Step 1, second part: one delivery is read, once, from the medium: what it announces, its bytes, what they say.

Before: ingest.py claimed it.    After: ingest.py registers it, waits, or refuses it.
This part knows no database, so that it can run in a process of its own (verify.py); whatever the bytes are, the answer
is a Reading.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from lightkeeper.domain.delivering import Found
from lightkeeper.domain.errors import Invalid, LightkeeperError, NotFound, Unavailable
from lightkeeper.domain.names import Fixity, parse_lfn, printable
from lightkeeper.ports import LocalStorage, Product, ProductReader

SUFFIX = ".trigger"
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


def read(storage: LocalStorage, readers: Sequence[ProductReader], path: str, notice: Callable[[], None]) -> Reading:
    """Verify one delivery and read its metadata in one pass; its bytes are synced first. `notice` is called whenever
    more of them came."""
    trigger = identity(storage.local_path("/"), path)
    try:
        if path.endswith("/" + SUFFIX):
            raise Invalid("the trigger names no file")
        reader = next((reader for reader in readers if reader.recognises(path)), None)
        if reader is None:
            raise Invalid("no installed reader knows files of this name")
        product = _read(storage, reader, path, notice)
        if product is None:
            return Reading(Found.CHANGING, trigger=trigger)
    except NotFound:
        return Reading(Found.MISSING, trigger=trigger)
    except Unavailable as error:
        return Reading(Found.AWAY, why=error.message, trigger=trigger)
    except LightkeeperError as error:
        product = Product(None, None, problems=(error.message,))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # a reader that a hostile file gets the better of stops only its file
        what = f"its reader failed: {type(error).__name__}: {printable(str(error))}"
        product = Product(None, None, problems=(what,))
    quiet = _quiet(storage.local_path("/"), path) if product.problems else 0.0
    return Reading(Found.FILE, product, trigger=trigger, quiet=quiet)


def identity(root: Path, path: str) -> tuple[int, int] | None:
    """What tells the trigger file of `path` from a later one of the same name; None when there is none."""
    try:
        found = os.lstat(f"{root}{path}{SUFFIX}")
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _read(storage: LocalStorage, reader: ProductReader, path: str, notice: Callable[[], None]) -> Product | None:
    """None: the file changed while it was read."""
    announced = _announced(storage, path)
    with storage.open(path) as file:
        before = os.fstat(file.fileno())
        os.fsync(file.fileno())  # the array control may not have: from now on this is the copy of record
        product = reader.read(cast("BinaryIO", _Noticed(file, notice)), path)
        after = os.fstat(file.fileno())
    try:
        still = os.lstat(f"{storage.local_path('/')}{path}")
    except OSError:
        return None
    if not _same(before, after) or not _same(after, still):
        return None
    problems = [*product.problems, *_contradictions(announced, product.fixity)]
    if product.lfn is not None and product.lfn != path:
        problems.append(f"its reader names it {product.lfn}, but a file on site lies under its own name")
    elif not problems and (product.lfn is None or product.fixity is None):
        problems.append("its reader told no problem, but no name or no fixity either")
    return replace(product, problems=tuple(problems))


class _Noticed:
    """A file whose reads are noticed."""

    def __init__(self, file: BinaryIO, notice: Callable[[], None]) -> None:
        self._file = file
        self._notice = notice

    def read(self, size: int = -1, /) -> bytes:
        self._notice()
        return self._file.read(size)

    def readinto(self, buffer: Any, /) -> int:
        self._notice()
        return self._file.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (other.st_ino, other.st_size, other.st_mtime_ns)


def _quiet(root: Path, path: str) -> float:
    """For how many seconds neither the file nor its trigger has changed."""
    changed = 0.0
    for name in (path, path + SUFFIX):
        with suppress(OSError):
            changed = max(changed, os.lstat(f"{root}{name}").st_mtime)
    return time.time() - changed


# --- what a trigger says -------------------------------------------------------------------------------------
def _announced(storage: LocalStorage, path: str) -> Mapping[str, Any]:
    """What the trigger says that its file must be: nothing, mostly. Raises Invalid when it announces something else."""
    trigger = f"{storage.local_path('/')}{path}{SUFFIX}"
    try:
        found = os.lstat(trigger)
    except OSError:
        return {}  # taken away since it was seen: the delivery was accepted and goes on
    if stat.S_ISLNK(found.st_mode):
        _must_point_to(trigger, path)
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
