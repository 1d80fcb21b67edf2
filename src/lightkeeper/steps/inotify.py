"""What Linux tells of folders: a thin binding of inotify(7), by ctypes.

The packages for this hide the one event on which correctness hangs: that the queue overflowed and something was not
told. It is a hundred lines.
"""

import ctypes
import errno
import os
import select
import struct
from typing import NamedTuple

CREATED, MOVED_TO, MOVED_FROM = 0x100, 0x80, 0x40
DELETED_ITSELF, MOVED_ITSELF = 0x400, 0x800
UNMOUNTED, OVERFLOWED, IGNORED = 0x2000, 0x4000, 0x8000
IS_FOLDER = 0x40000000
_ONLY_FOLDERS, _FOLLOW_NOT, _ONLY_LINKED = 0x01000000, 0x02000000, 0x04000000
_WANTED = CREATED | MOVED_TO | MOVED_FROM | DELETED_ITSELF | MOVED_ITSELF | _ONLY_FOLDERS | _FOLLOW_NOT | _ONLY_LINKED
_HEADER = struct.Struct("iIII")
_AT_ONCE = 1 << 18


class Event(NamedTuple):
    """One event: of the folder with watch number `watch`, -1 for OVERFLOWED; `name` of what lies in it."""

    watch: int
    mask: int
    name: bytes


class Inotify:
    """One queue of events."""

    def __init__(self) -> None:
        """Raises OSError when the kernel has none, or none left."""
        self._c = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._c.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, folder: bytes) -> int:
        """Watch a folder; the number of the watch, the same when it is watched already. Raises OSError."""
        return self._checked(self._c.inotify_add_watch(self.fd, folder, _WANTED))

    def remove(self, watch: int) -> None:
        """Watch it no more; nothing when it is gone."""
        self._c.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[Event]:
        """What has been told since; empty when nothing was."""
        events: list[Event] = []
        while True:
            try:
                data = os.read(self.fd, _AT_ONCE)
            except BlockingIOError:
                return events
            at = 0
            while at < len(data):
                watch, mask, _, size = _HEADER.unpack_from(data, at)
                at += _HEADER.size
                events.append(Event(watch, mask, data[at : at + size].rstrip(b"\0")))
                at += size

    def close(self) -> None:
        """Watch nothing more."""
        os.close(self.fd)

    def _checked(self, answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno() or errno.EINVAL
            raise OSError(number, os.strerror(number))
        return answer


def wait(queues: list[Inotify], seconds: float) -> bool:
    """Until one of the queues has something to tell, or so long; whether one has."""
    poll = select.poll()
    for queue in queues:
        poll.register(queue.fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
