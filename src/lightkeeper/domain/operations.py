"""How far an operation is with each of its files, and what is done when one is stuck."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """REPLICATE: copies are made. MOVE: then those elsewhere are deleted. DELETE: copies are deleted."""

    REPLICATE = "replicate"
    MOVE = "move"
    DELETE = "delete"


class Stand(StrEnum):
    """Where an operation stands with a file."""

    DONE = "done"
    UNDER_WAY = "under way"
    SOURCE_LEFT = "source left"
    FAILED = "transfer failed"
    STUCK = "transfer stuck"
    DAMAGED = "copy damaged"
    LOST = "lost"
    TAKEN_OUT = "taken out"


@dataclass(frozen=True, slots=True)
class Facts:
    """One file of an operation. `readable`: a verified copy is somewhere; `hope`: or one that is to be read again.
    `copies_there`: as many as are wanted, where they are wanted; `bad_copy`: one there is Suspect or Lost.
    `source_left`: a copy is still where none is wanted. `transfer`: the state of the one that should bring a copy;
    `damaged`: its bytes arrived wrongly; `old`: nothing came of it for an hour."""

    taken_out: bool
    removed: bool
    readable: bool
    hope: bool
    copies_there: bool
    bad_copy: bool
    source_left: bool
    transfer: str | None
    damaged: bool
    old: bool


def stand_of(kind: Kind, facts: Facts) -> Stand:
    """Where an operation stands with a file."""
    if facts.taken_out:
        return Stand.TAKEN_OUT
    if facts.removed:
        return Stand.DONE
    if not facts.hope:
        return Stand.LOST
    if not facts.readable:
        return Stand.DAMAGED
    if facts.copies_there:
        return Stand.SOURCE_LEFT if kind is not Kind.REPLICATE and facts.source_left else Stand.DONE
    if facts.bad_copy or facts.damaged:
        return Stand.DAMAGED
    if facts.transfer == "Failed":
        return Stand.FAILED
    return Stand.STUCK if facts.old else Stand.UNDER_WAY


BY_ITSELF: Final = {
    Stand.DONE: "nothing more",
    Stand.UNDER_WAY: "the copy is made in its turn",
    Stand.SOURCE_LEFT: "the copy at the source is deleted when enough others were verified lately, after its delay",
    Stand.FAILED: "it is tried again an hour after it was given up",
    Stand.STUCK: "it goes on when its turn comes, or is taken back when its worker is gone",
    Stand.DAMAGED: "the copy is read again and made again from a good one",
    Stand.LOST: "nothing: no copy is left",
    Stand.TAKEN_OUT: "nothing: a person said so",
}
"""What happens to a file without a person."""
FINALIZE: Final = {
    Stand.SOURCE_LEFT: "delete the copy at the source now, if enough others were verified lately",
    Stand.FAILED: "try again now",
    Stand.STUCK: "cancel the transfer and plan it anew",
    Stand.DAMAGED: "read the bad copy again now, and make it again",
    Stand.LOST: "mark the file Removed if that may be, and take it out: no copy is left",
}
"""What `operation finalize` does about it now."""
ENDED: Final = frozenset({Stand.DONE, Stand.TAKEN_OUT})
"""An operation is done when it stands so with every file."""
