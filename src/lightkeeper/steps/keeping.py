"""The keeper's options: the part `keeper` of the topology document, checked, compared and kept.

Called by topology.py for `lightkeeper apply`; heal.py and tell.py read what is kept at every round, so a change holds
without a restart.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.healing import keeper_of
from lightkeeper.domain.units import parse_time
from lightkeeper.store import healing
from lightkeeper.store.db import Connection


class Part(BaseModel):
    """A part of the document: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Address = Annotated[str, Field(pattern=r"^([^\s@<>,;]+@[^\s@<>,;]+|https?://\S+)$", max_length=500)]
Types = list[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]]


class KeeperTypePart(Part):
    """What differs for transformations of one type; see `keeper`."""

    complete: bool | None = None
    flush: bool | None = None
    reassign: bool | None = None
    report: bool | None = None
    max_flush: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_reassign: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_reschedule: Annotated[int, Field(ge=0, le=1000)] | None = None
    tell: list[Address] | None = None


class KeeperPart(Part):
    """What the keeper may do with transformations, and whom it tells. `types`, `complete`, `flush`, `reassign`,
    `report`: the types that are looked at, completed, flushed, whose failed tasks get another attempt, and that are
    reported; all, when left out. `states`: which are looked at. `max_flush` per transformation; `max_reassign`,
    `max_reschedule` per task: other attempts after the work failed, and after what is around it failed. `tell`:
    mailboxes and URLs; with `send: false` nothing is sent, and kept until it is true again. `digest`: at most one
    message of a kind to an address in that time. `every`: how often it looks at all, besides whenever something
    changes; `threads`: how many transformations at once."""

    every: str | int = "10 min"
    threads: int = Field(10, ge=1, le=100)
    states: list[Literal["New", "Active", "Flush", "Stopped"]] = ["Active"]
    types: Types | None = None
    complete: Types | None = None
    flush: Types | None = None
    reassign: Types | None = None
    report: Types | None = None
    max_flush: int = Field(2, ge=0, le=1000)
    max_reassign: int = Field(3, ge=0, le=1000)
    max_reschedule: int = Field(50, ge=0, le=1000)
    sender: Annotated[str, Field(pattern=r"^[^\s@<>,;]+@[^\s@<>,;]+$", max_length=200)] = "lightkeeper@localhost"
    subject: Annotated[str, Field(pattern=r"^[ -~]*$", max_length=60)] = "[Lightkeeper]"
    html: bool = True
    send: bool = True
    digest: str | int = "1 h"
    tell: list[Address] = []
    by_type: dict[str, KeeperTypePart] = {}


def options_of(part: KeeperPart) -> dict[str, Any]:
    """The options as they are kept; raises Invalid for a time that is none."""
    given = part.model_dump(mode="json", exclude_unset=True)
    for key, name in (("every", "every"), ("digest", "period")):
        if key in given:
            try:
                time = parse_time(str(given.pop(key))).total_seconds()
            except Invalid as error:
                raise Invalid(f"keeper.{key}: {error.message}", hint=error.hint) from None
            if time <= 0 and key == "every":
                raise Invalid("keeper.every: it looks at all at least now and then", hint="every: 10 min")
            given[name] = time
    for type_, own in given.get("by_type", {}).items():
        given["by_type"][type_] = {key: value for key, value in own.items() if value is not None}
    keeper_of(given)
    return given


def write(conn: Connection, part: KeeperPart | None) -> None:
    """Keep the options; without the part, what is kept stays."""
    if part is not None:
        healing.put_options(conn, options_of(part))
