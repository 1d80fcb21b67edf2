"""Answers that are read at once and kept aside, on disk when they are long: a slow reader holds no transaction."""

from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile

BLOCK = 1 << 20
"""Bytes that are kept in memory, and that are handed out at once."""


def kept_aside(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, after all of `parts` was read. They are read before this returns, and may raise till then."""
    spool = SpooledTemporaryFile(max_size=BLOCK)  # noqa: SIM115  # closed by the reader below
    try:
        for part in parts:
            spool.write(part)
    except BaseException:
        spool.close()
        raise
    spool.seek(0)

    def blocks() -> Iterator[bytes]:
        with spool:
            while block := spool.read(BLOCK):
                yield block

    return blocks()
