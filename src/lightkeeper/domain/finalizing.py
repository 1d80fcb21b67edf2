"""How a transformation stands with its files and tasks when it does not end by itself, and what is done about it."""

from enum import StrEnum
from typing import Final


class Stand(StrEnum):
    """Where files that are not processed are. FAILED: their task failed in every attempt; BAD_INPUT: the same, and a
    copy of an input is suspect; LOST: no copy of the file is left anywhere; LOST_INPUT: their task failed, and of one
    of its inputs no copy is left."""

    LEFT = "below the group size"
    NO_COPY = "no copy yet"
    LOST = "lost"
    FAILED = "task failed"
    BAD_INPUT = "input damaged"
    LOST_INPUT = "input lost"
    READY = "task waits"
    NO_PILOT = "no pilot for it"
    RUNNING = "task runs"
    COMPLETING = "outputs not accepted"


BY_ITSELF: Final = {
    Stand.LEFT: "a task of fewer files is made once no more input will come",
    Stand.NO_COPY: "its task is made when a data centre has a verified copy",
    Stand.READY: "a pilot takes its job in turn",
    Stand.RUNNING: "it ends, or is given to another pilot when nothing is heard of it",
    Stand.COMPLETING: "outputs are accepted when their storage answers",
    Stand.NO_PILOT: "nothing: no site has pilots with the processors, memory and tags that its jobs need",
    Stand.FAILED: "nothing: every attempt failed",
    Stand.BAD_INPUT: "the copy is read again and made again from a good one; then every attempt has failed",
    Stand.LOST: "nothing: no copy is left",
    Stand.LOST_INPUT: "nothing: every attempt failed",
}
"""What happens without a person."""

FINALIZE: Final = {
    Stand.LEFT: "make tasks of fewer files now",
    Stand.LOST: "mark the file Removed if that may be, and take it out: no copy is left",
    Stand.LOST_INPUT: "take out the inputs of which no copy is left, and make tasks of the others",
    Stand.FAILED: "give its task another attempt",
    Stand.BAD_INPUT: "read the bad copy again now, and give its task another attempt",
    Stand.COMPLETING: "accept the outputs now",
}
"""What `transformation finalize` does about it now."""
