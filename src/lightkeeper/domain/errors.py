"""The error tree. Each error says what is wrong with which thing, and its hint says what to do.

`code` is stable and machine-readable (API, `--json`); `exit_status` is what the command line ends with.
"""

from collections.abc import Iterable
from difflib import get_close_matches

MANY = 40
"""More known words than these are not all told."""


class LightkeeperError(Exception):
    """Anything that a user can be told in one sentence."""

    code = "error"
    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[LightkeeperError], message: str, hint: str) -> LightkeeperError:
    return kind(message, hint=hint)


class Invalid(LightkeeperError):
    """The input does not say what it must: unknown key, wrong type, impossible value."""

    code = "invalid"
    exit_status = 2


class NotFound(LightkeeperError):
    """What is named does not exist."""

    code = "not_found"
    exit_status = 3


class Conflict(LightkeeperError):
    """What is there already contradicts what is asked for."""

    code = "conflict"
    exit_status = 4


class Refused(LightkeeperError):
    """A rule of safety forbids it: the last copy, a stale lease, a missing right."""

    code = "refused"
    exit_status = 5


class Unavailable(LightkeeperError):
    """Something outside does not answer now; the same call may work later."""

    code = "unavailable"
    exit_status = 6


class Offline(Unavailable):
    """The bytes lie on tape only; they can be read once they were staged."""


class Corrupt(LightkeeperError):
    """Bytes are not what they were when their checksum was taken."""

    code = "corrupt"
    exit_status = 7


def errors_by_code() -> dict[str, type[LightkeeperError]]:
    """Every error of the tree under its code, to raise again on a client what a server answered."""
    kinds: list[type[LightkeeperError]] = [LightkeeperError, *LightkeeperError.__subclasses__()]
    return {kind.code: kind for kind in kinds}


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or some of them when none is near."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    if len(known) > MANY:
        return f"known are: {', '.join(known[:MANY])} and {len(known) - MANY} more"
    return f"known are: {', '.join(known)}" if known else "none is known yet"
