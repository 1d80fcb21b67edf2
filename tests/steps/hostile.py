"""A small observatory whose reader does what a file tells it to: files that get the better of a reader, on purpose."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import LightkeeperError, Unavailable
from lightkeeper.ports import Product, ProductReader
from lightkeeper.testing.observatory import PlainObservatory, PlainReader


class HostileReader(PlainReader):
    """Does what the file's name says, and otherwise reads it."""

    def read(self, file: BinaryIO, path: str) -> Product:
        match path.rpartition("/")[2].split("-")[0]:
            case "fail":
                raise RecursionError("too deep")
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "leave":
                os._exit(3)
            case "swell":
                held = [bytearray(1 << 20) for _ in range(100_000)]
                raise AssertionError(f"{len(held)} MB were there")
            case "spin":
                while True:
                    pass
            case "sleep":
                time.sleep(3600)
            case "write":
                Path(os.environ.get("TMPDIR", "/tmp"), "of-a-hostile-file").write_text("here I was")
            case "babble":
                print("{" * 1000, flush=True)
                os.write(1, b"[]\n" * 100)
            case _:
                pass
        return super().read(file, path)


class HostileObservatory(PlainObservatory):
    def product_readers(self) -> Sequence[ProductReader]:
        return [HostileReader()]


class SometimesAway(PosixStorage):
    """A storage that does not answer while a file `away` lies beside its root."""

    def open(self, path: str) -> BinaryIO:
        if self.root.with_name("away").exists():
            raise Unavailable("the disk does not answer")
        return super().open(path)

    def open_all(self, paths: Sequence[str]) -> Iterator[BinaryIO | LightkeeperError]:
        for path in paths:
            try:
                yield self.open(path)
            except LightkeeperError as error:
                yield error
