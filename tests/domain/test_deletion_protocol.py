"""Every course of deletions that two workers, an auditor, one spell of rot and two crashes can take, to the end.

A file has copies at three places. What steps/delete.py does in one transaction is one step here, and so is one unlink;
what may go is asked of the real `may_delete`. Every order of the steps is tried, and a worker may be gone, or stand
still for as long as it likes, after each of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from lightkeeper.domain.catalog import Media, Replica, SiteKind, StorageElement
from lightkeeper.domain.policy import MAX_VERIFY_AGE, FileCopies, Policy, may_delete, without
from lightkeeper.domain.states import Replica as State

NOW = datetime(2030, 1, 2, 3, tzinfo=UTC)
OLD = NOW - MAX_VERIFY_AGE - timedelta(hours=1)
PLACES = (0, 1, 2)
POLICY = Policy(0, "nights", {}, copies=2, free_on_site=True)
Storages = dict[int, StorageElement]
CENTRES: Storages = {
    n: StorageElement(n, f"s{n}", f"Site{n}", SiteKind.DATA_CENTRE, Media.DISK, "posix", "/") for n in PLACES
}
WITH_SITE: Storages = {**CENTRES, 0: replace(CENTRES[0], site_kind=SiteKind.OBSERVATORY)}


@dataclass(frozen=True, slots=True)
class Copy:
    """One place: what the catalogue says, whether what is there is sound, and the deletion that was approved."""

    state: State | None = State.AVAILABLE
    bytes: str = "good"
    read_lately: bool = True
    intent: str = ""  # approved, begun


@dataclass(frozen=True, slots=True)
class World:
    """All that a course depends on. `at`: the place at which each worker is about to unlink, or has."""

    copies: tuple[Copy, ...] = (Copy(), Copy(), Copy())
    at: tuple[tuple[int, str] | None, ...] = (None, None)
    rot_left: int = 1
    crashes_left: int = 2

    def put(self, place: int, **changed: object) -> "World":
        copies = list(self.copies)
        copies[place] = replace(copies[place], **changed)  # pyright: ignore[reportArgumentType]
        return replace(self, copies=tuple(copies))

    def worker(self, n: int, at: tuple[int, str] | None) -> "World":
        return replace(self, at=tuple(at if m == n else was for m, was in enumerate(self.at)))

    @property
    def file(self) -> FileCopies:
        """The file as the catalogue has it."""
        return FileCopies(
            1,
            0,
            tuple(
                Replica(n, copy.state, NOW if copy.read_lately else OLD, OLD, OLD)
                for n, copy in enumerate(self.copies)
                if copy.state is not None
            ),
        )


Decides = Callable[[World, int, bool], bool]
"""Whether the copy at a place may go; when it is approved, other approved deletions count as done."""


def as_it_is(storages: Storages) -> Decides:
    """As the project decides."""

    def decides(world: World, place: int, new: bool) -> bool:
        going = {n for n, copy in enumerate(world.copies) if copy.intent and n != place} if new else set[int]()
        return may_delete(without(world.file, going), place, [POLICY], storages, NOW) == ""

    return decides


def steps(world: World, decides: Decides) -> Iterator[tuple[str, int, World]]:
    """Everything that can happen next: what, where, and the world after it."""
    for place, copy in enumerate(world.copies):
        if not copy.intent and decides(world, place, True):
            yield "approved", place, world.put(place, intent="approved")
        if copy.state in (State.AVAILABLE, State.SUSPECT) and not (copy.read_lately and copy.state is State.AVAILABLE):
            found = State.AVAILABLE if copy.bytes == "good" else State.LOST
            yield "read", place, world.put(place, state=found, read_lately=True)
        if copy.state is State.AVAILABLE and copy.read_lately:
            yield (
                "found rotten" if copy.bytes == "rotten" else "a week passes",
                place,
                world.put(place, read_lately=False, state=State.LOST if copy.bytes == "rotten" else State.AVAILABLE),
            )
        if copy.bytes == "good" and world.rot_left:
            yield "rots", place, replace(world.put(place, bytes="rotten"), rot_left=0)
        if copy.state in (None, State.LOST) and not copy.intent and place and _source(world, place):
            new = world.put(place, state=State.AVAILABLE, bytes="good", read_lately=True)
            yield "copied anew", place, new
    for n, at in enumerate(world.at):
        if at is None:
            yield from _begin(world, n, decides)
            continue
        place, then = at
        if then == "unlink":
            yield f"worker {n} unlinks", place, world.put(place, bytes="none").worker(n, (place, "record"))
        else:
            yield f"worker {n} records", place, world.put(place, state=None, intent="").worker(n, None)
        if world.crashes_left:
            yield f"worker {n} is gone", place, replace(world.worker(n, None), crashes_left=world.crashes_left - 1)


def _begin(world: World, n: int, decides: Decides) -> Iterator[tuple[str, int, World]]:
    """A turn on a storage begins: only one worker has it, and what was approved or begun is decided again."""
    for place, copy in enumerate(world.copies):
        if not copy.intent or any(at is not None and at[0] == place for at in world.at):
            continue
        if decides(world, place, False):
            begun = world.put(place, intent="begun", state=State.DELETING)
            yield f"worker {n} begins", place, begun.worker(n, (place, "unlink"))
        elif copy.intent == "begun":  # nobody knows whether it was unlinked: it is looked at
            yield (
                "given up",
                place,
                world.put(place, intent="", state=State.LOST if copy.bytes == "none" else State.SUSPECT),
            )
        else:
            yield "given up", place, world.put(place, intent="")


def _source(world: World, but: int) -> bool:
    return any(c.state is State.AVAILABLE and c.bytes == "good" for n, c in enumerate(world.copies) if n != but)


def wrong(storages: Storages, before: World, what: str, place: int, after: World) -> str:
    """What the promises say against a step (I1, I2); empty: nothing."""
    if not any(copy.bytes == "good" for copy in after.copies):
        return "no sound copy is left"
    if not any(copy.state in (State.AVAILABLE, State.SUSPECT) for copy in after.copies):
        return "the catalogue counts no copy"
    if what == "approved" or "begins" in what:
        evidence = [
            n
            for n, copy in enumerate(before.copies)
            if n != place and storages[n].site_kind is SiteKind.DATA_CENTRE
            and copy.state is State.AVAILABLE and copy.read_lately
        ]  # fmt: skip
        if len(evidence) < 2:
            return f"on {len(evidence)} copies at data centres that were read lately"
    return ""


def courses(storages: Storages, decides: Decides) -> tuple[int, str]:
    """How many different worlds there are, and the shortest course to one that breaks a promise."""
    came_from: dict[World, tuple[World, str] | None] = {World(): None}
    to_do = deque(came_from)
    while to_do:
        world = to_do.popleft()
        for what, place, after in steps(world, decides):
            if broken := wrong(storages, world, what, place, after):
                return len(came_from), f"{_told(came_from, world)}{what} at {place}: {broken}"
            if after not in came_from:
                came_from[after] = (world, f"{what} at {place}")
                to_do.append(after)
    return len(came_from), ""


def _told(came_from: dict[World, tuple[World, str] | None], world: World) -> str:
    told: list[str] = []
    while (step := came_from[world]) is not None:
        world, what = step
        told.append(what)
    return "".join(f"{what}; " for what in reversed(told))


@pytest.mark.parametrize("storages", [WITH_SITE, CENTRES], ids=["one on site", "three data centres"])
def test_no_course_of_deletions_ends_without_a_sound_copy_or_goes_on_too_little_evidence(storages: Storages) -> None:
    worlds, broken = courses(storages, as_it_is(storages))
    assert broken == ""
    assert worlds > 1000, "hardly anything was tried"


def test_a_check_that_is_made_only_once_is_found_out() -> None:
    real = as_it_is(CENTRES)
    _, broken = courses(CENTRES, lambda world, place, new: not new or real(world, place, new))
    assert "begins" in broken


def test_approving_two_copies_on_the_evidence_of_each_other_is_found_out_where_nothing_is_checked_again() -> None:
    careless = as_it_is(CENTRES)
    _, broken = courses(CENTRES, lambda world, place, new: not new or careless(world, place, False))
    assert broken


def test_counting_on_a_copy_that_is_being_deleted_is_found_out() -> None:
    def decides(world: World, place: int, new: bool) -> bool:
        there = replace(
            world,
            copies=tuple(
                replace(copy, state=State.AVAILABLE) if copy.state is State.DELETING else copy for copy in world.copies
            ),
        )
        return as_it_is(CENTRES)(there, place, False) if not new else as_it_is(CENTRES)(world, place, False)

    _, broken = courses(CENTRES, decides)
    assert broken
