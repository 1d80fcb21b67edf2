"""Files of protobuf tables, written by the library that the telescopes use."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from protozfits import FlatProtobufZOFits

_ROWS_PER_TILE = 20


class TableFile:
    """One file in the making: tables of one row, then one long table. Outside the layout until finished."""

    def __init__(
        self, path: Path, start: datetime, tables: Sequence[tuple[str, Any]], long_table: str, max_rows: int
    ) -> None:
        self.path = path
        self.rows = 0
        self.end = start + timedelta(seconds=1)
        self._start = start
        self._folder = tempfile.TemporaryDirectory(prefix="night-")
        self._draft = Path(self._folder.name) / "draft"
        # With fewer tiles than it needs, the compiled writer makes files whose header is wrong.
        tiles = max_rows // _ROWS_PER_TILE + 2
        self._zfits = FlatProtobufZOFits(tiles, _ROWS_PER_TILE, compression_block_size_kb=64 * 1024)
        self._zfits.open(str(self._draft))
        for name, message in tables:
            self._table(name)
            self._zfits.set_string("DATE-END", fits_time(self.end), "File closing date")
            self._zfits.write_message(message)
        self._table(long_table)

    def write(self, message: Any, moment: datetime) -> None:
        """Append a row."""
        self._zfits.write_message(message)
        self.rows += 1
        self.end = moment.replace(microsecond=0) + timedelta(seconds=1)

    def finish(self) -> bytes:
        """Close the file and return what is in it."""
        self._zfits.set_string("DATE-END", fits_time(self.end), "File closing date")
        self._zfits.close()
        content = self._draft.read_bytes()
        self._folder.cleanup()
        return content

    def _table(self, name: str) -> None:
        self._zfits.move_to_new_table(name)
        self._zfits.set_string("ORIGIN", "CTAO", "Institution that wrote the file")
        self._zfits.set_string("DATE", fits_time(self._start), "File creation date")


def fits_time(moment: datetime) -> str:
    """A moment as FITS cards have it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


@contextmanager
def quiet_writer() -> Iterator[None]:
    """Let the compiled writer print nothing."""
    # The compiled writer reports every file it closes on standard output, which belongs to our caller.
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
