"""The folders below one storage's root, and which triggers came into them.

By events where the file system tells them, by looking where it does not, and by looking now and then in any case. To
look is to ask each folder for the time of its last change, and to list those that have another one than before: a night
of 500,000 files is some hundred folders.
"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightkeeper.steps import inotify
from lightkeeper.steps.inotify import Event, Inotify
from lightkeeper.steps.reading import SUFFIX

MAX_PATH = 1000
COARSE = 2.0
"""Seconds: no file system tells times of changes more coarsely."""
WITHOUT_EVENTS = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gpfs", "lustre", "nfs", "smb", "virtiofs")
"""File systems, by the beginnings of their names, that other machines write to without this one being told."""
_NEW = inotify.CREATED | inotify.MOVED_TO
_GONE = inotify.DELETED_ITSELF | inotify.UNMOUNTED | inotify.IGNORED


@dataclass(slots=True)
class _Folder:
    """What is known of a folder: inode and time of its last change, since when we know that, and whether it was listed
    so much later that nothing of that time can have been missed."""

    inode: int = 0
    changed: int = 0
    since: float = 0.0
    settled: bool = False
    watch: int = -1


class Folders:
    """All folders below `root`, by their names relative to it: "" is the root itself, others end in '/'."""

    def __init__(self, root: Path, *, events: bool) -> None:
        self.root = str(root)
        self.why_unwatched = "" if events else "its file system does not tell"
        """Why events do not tell everything; empty when they do."""
        self.queue: Inotify | None = None
        self._folders = {"": _Folder()}
        self._watched: dict[int, str] = {}
        self._mount: tuple[int, int] | None = None
        if events:
            try:
                self.queue = Inotify()
            except OSError as error:
                self.why_unwatched = error.strerror

    def close(self) -> None:
        """Watch nothing more."""
        if self.queue:
            self.queue.close()

    def is_still_there(self) -> bool:
        """Whether the root is the folder that was looked at: not unmounted, mounted over, moved or replaced."""
        try:
            found = os.stat(self.root)  # noqa: PTH116
        except OSError:
            return self._mount is None
        return "" in self._folders and self._mount in (None, (found.st_dev, found.st_ino))

    def look(self) -> Iterator[str]:
        """Paths of the triggers in every folder that has changed since the last look, old ones among them."""
        for name in list(self._folders):
            if name in self._folders:
                yield from self._look_at(name)

    def hear(self) -> Iterator[str]:
        """Paths of the triggers that events told of."""
        for event in self.queue.read() if self.queue else ():
            yield from self.look() if event.mask & inotify.OVERFLOWED else self._heard(event)

    # --- looking ---------------------------------------------------------------------------------------------
    def _look_at(self, name: str) -> Iterator[str]:
        folder, now = self._folders[name], time.monotonic()
        try:
            found = os.stat(f"{self.root}/{name}", follow_symlinks=not name)  # noqa: PTH116
        except OSError:
            self._forget(name)
            return
        if not stat.S_ISDIR(found.st_mode):
            self._forget(name)
            return
        if not name:
            self._mount = found.st_dev, found.st_ino
        if found.st_ino != folder.inode:
            self._watch(name, folder)
        if (found.st_ino, found.st_mtime_ns) != (folder.inode, folder.changed):
            folder.inode, folder.changed, folder.since, folder.settled = found.st_ino, found.st_mtime_ns, now, False
        if not folder.settled:
            # What came in the same tick of the clock as a change that we saw does not show as another change.
            folder.settled = now - folder.since > COARSE
            yield from self._list(name)

    def _list(self, name: str) -> Iterator[str]:
        """Triggers in a folder, and in those below it that are new."""
        below: list[str] = []
        try:
            with os.scandir(f"{self.root}/{name}") as entries:
                for entry in entries:
                    if not _is_usable(name, entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(f"{name}{entry.name}/")
                    elif entry.name.endswith(SUFFIX):
                        yield f"/{name}{entry.name}"
        except OSError:
            return  # removed while we looked, or not ours to read: the other folders do not wait for it
        for one in below:
            if one not in self._folders:
                self._folders[one] = _Folder()
                yield from self._look_at(one)

    def _watch(self, name: str, folder: _Folder) -> None:
        if not self.queue:
            return
        try:
            folder.watch = self.queue.add(os.fsencode(f"{self.root}/{name}" if name else f"{self.root}/."))
        except OSError as error:
            self.why_unwatched = error.strerror
        else:
            self._watched[folder.watch] = name

    # --- listening -------------------------------------------------------------------------------------------
    def _heard(self, event: Event) -> Iterator[str]:
        name = self._watched.get(event.watch)
        if name is None:
            return  # of a folder that was there before
        if event.mask & _GONE or (event.mask & inotify.MOVED_ITSELF and not name):
            self._forget(name)
            return
        text = os.fsdecode(event.name)
        if not text or not _is_usable(name, text):
            return
        if event.mask & inotify.IS_FOLDER:
            moved = f"{name}{text}/"
            for one in [one for one in self._folders if one.startswith(moved)]:
                self._forget(one)
            if event.mask & _NEW:
                self._folders[moved] = _Folder()
                yield from self._look_at(moved)
        elif event.mask & _NEW and text.endswith(SUFFIX):
            yield f"/{name}{text}"

    def _forget(self, name: str) -> None:
        watch = self._folders.pop(name).watch
        if self._watched.get(watch) == name:  # a folder that moved has the same watch under its new name
            del self._watched[watch]
            if self.queue:
                self.queue.remove(watch)


def _is_usable(folder: str, name: str) -> bool:
    """Whether a name can be of a trigger, or of a folder with triggers: ours are hidden, others are text."""
    hidden = name.startswith(".") and name != SUFFIX
    return not hidden and name.isprintable() and len(folder) + len(name) <= MAX_PATH


def tells_events(root: Path, mounts: str = "/proc/self/mounts") -> bool:
    """Whether the file system that holds `root` tells of all changes, by its kind."""
    where, best, kind = os.path.realpath(root), "", ""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        for line in file:
            _, point, what = line.split(" ")[:3]
            point = point.replace("\\040", " ")
            inside = point == "/" or where == point or where.startswith(point + "/")
            if inside and len(point) >= len(best):  # the last one mounted there counts
                best, kind = point, what
    return not kind.startswith(WITHOUT_EVENTS)
