"""Readers of production documents that do what a hostile document might make a reader do."""

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightkeeper.domain.work import PlannedStep, ProductionPlan
from lightkeeper.testing.observatory import PlainObservatory


class Odd(PlainObservatory):
    """An observatory whose reader does `work`, and tells what came of it as the campaign."""

    def production_reader(self):
        return self

    def read(
        self, text: str, *, sandbox: Callable[[str], bytes], dataset: Callable[[str], Mapping[str, Any]]
    ) -> ProductionPlan:
        try:
            told = self.work(text, sandbox, dataset)
        except OSError as error:
            told = f"{type(error).__name__} {error.strerror}"
        step = PlannedStep(1, "Odd", "Odd", "Odd", {}, None, 1, {}, tags=("a",), feeders=())
        return ProductionPlan((step,), str(told))

    def work(self, text: str, sandbox: Callable[[str], bytes], dataset: Callable[[str], Mapping[str, Any]]) -> object:
        raise NotImplementedError


class ReadsFiles(Odd):
    def work(self, text, sandbox, dataset):
        return Path("/etc/passwd").read_text()


class Connects(Odd):
    def work(self, text, sandbox, dataset):
        return socket.create_connection(("127.0.0.1", 1))


class Grows(Odd):
    def work(self, text, sandbox, dataset):
        return len([bytes(100_000_000) for _ in range(1_000)])


class NeverEnds(Odd):
    def work(self, text, sandbox, dataset):
        while True:
            pass


class Dies(Odd):
    def work(self, text, sandbox, dataset):
        os._exit(3)


class TellsEnvironment(Odd):
    def work(self, text, sandbox, dataset):
        return sorted(os.environ)


class Asks(Odd):
    def work(self, text, sandbox, dataset):
        return f"{sandbox('beside.txt').decode()} {dict(dataset('D'))}"
