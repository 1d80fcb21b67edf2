"""What is wrong and what is odd in a document, gathered so that its author is told all of it at once."""

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from lightkeeper.domain.errors import Invalid

MANY = 30
"""More than these are not told one by one."""

_LINE = re.compile(r"line (\d+)")


class Findings:
    """Problems, for which a document is refused, and warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._problems: list[Invalid] = []

    @contextmanager
    def noting(self) -> Generator[None]:
        """Note what is refused inside, and go on behind it."""
        try:
            yield
        except Invalid as problem:
            self._problems.append(problem)

    def add(self, problems: Iterable[Invalid]) -> None:
        """Note these problems."""
        self._problems.extend(problems)

    def refuse(self) -> None:
        """Raises Invalid with everything that was found, when anything is wrong."""
        if len(self._problems) == 1 and not self.warnings:
            raise self._problems[0]
        if self._problems:
            told = sorted({_sentence(problem): None for problem in self._problems}, key=_place)
            more = [f"and {len(told) - MANY} more"] if len(told) > MANY else []
            raise Invalid("\n".join([*told[:MANY], *more, *(f"warning: {one}" for one in self.warnings[:MANY])]))


def _sentence(problem: Invalid) -> str:
    return f"{problem.message} ({problem.hint})" if problem.hint else problem.message


def _place(sentence: str) -> int:
    found = _LINE.search(sentence)
    return int(found[1]) if found else 0
