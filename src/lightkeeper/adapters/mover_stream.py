"""Copies a file through this process: any storage to any other, without a transfer service.

The bytes pass once from source to target; then the copy is read back from the target, and what comes back
is what is summed up. The outgoing stream is not hashed: that would cost a second hash of every byte, and
only the read-back proves the copy. When the fixity differs from the catalogue's, the caller learns by one
more read who is to blame: if `fixity_of(chunks_of(file))` of the source is the catalogue's, it was
corrupted on the way, else the source is bad.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.names import Fixity
from lightkeeper.ports import Storage


class StreamMover:
    """Copies by reading and writing, 1 MiB at a time. Remembers nothing; threads may share it."""

    def __init__(self, progress_seconds: float = 1.0) -> None:
        self._progress_seconds = progress_seconds

    def copy(
        self,
        source: Storage,
        source_path: str,
        target: Storage,
        target_path: str,
        progress: Callable[[int], None],
        *,
        paced: bool = False,
    ) -> Fixity:
        """Copy, read the copy back and return its fixity. `progress` is told now and then, when `paced` after every
        chunk, and at the end."""
        every = 0.0 if paced else self._progress_seconds
        with source.open(source_path) as file:
            written = target.write(target_path, _reported(chunks_of(file), progress, every))
        progress(written)
        with target.open(target_path) as copy:
            return fixity_of(_read_back(chunks_of(copy), lambda: progress(written), self._progress_seconds))


def _reported(chunks: Iterable[bytes], progress: Callable[[int], None], every: float) -> Iterator[bytes]:
    written = 0
    told = time.monotonic()
    for chunk in chunks:
        yield chunk
        written += len(chunk)
        if time.monotonic() - told >= every:
            progress(written)
            told = time.monotonic()


def _read_back(chunks: Iterable[bytes], alive: Callable[[], None], every: float) -> Iterator[bytes]:
    """`chunks`; whoever follows the copy hears now and then that it goes on."""
    told = time.monotonic()
    for chunk in chunks:
        yield chunk
        if time.monotonic() - told >= every:
            alive()
            told = time.monotonic()
