"""Where files are put, durably, and their triggers."""

import filecmp
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightkeeper.domain.errors import Conflict

TRIGGER = ".trigger"
DELIVERY = Path("ctao/acada")
MANIFEST = "MANIFEST.json"


def local(root: Path, path: str) -> Path:
    """Where a path of the interface directory lies here."""
    return root / path.lstrip("/")


def write(path: Path, content: bytes) -> None:
    """Write a file, durably: complete under its name, or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def copy(source: Path, target: Path) -> bool:
    """Whether `source` had to be copied. Complete and durable under its name, or not there."""
    if target.exists():
        if filecmp.cmp(source, target, shallow=False):
            return False
        raise Conflict(f"{target} is there already with other content than {source}", hint="remove one of them")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    return True


def sync_folders(files: Sequence[Path]) -> None:
    """Make the names of these files durable."""
    for folder in sorted({file.parent for file in files}):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def trigger_of(path: Path) -> Path:
    """The trigger that announces a file."""
    return path.with_name(path.name + TRIGGER)


def make_triggers(files: Sequence[Path]) -> None:
    """Announce these files, as the array control does: by a link to each."""
    for path in files:
        trigger = trigger_of(path)
        if not trigger.is_symlink():
            trigger.symlink_to(path.name)
