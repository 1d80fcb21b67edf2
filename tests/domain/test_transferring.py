"""Which transfers go next, from where, and when one that failed is tried again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.catalog import Media, SiteKind, StorageElement
from lightkeeper.domain.errors import Corrupt, NotFound, Refused, Unavailable
from lightkeeper.domain.transferring import (
    SMALL,
    TOGETHER,
    Head,
    LinkLimit,
    Load,
    Queued,
    best_source,
    in_turn,
    next_attempt,
    next_stream,
)

MB = 1_000_000


def storage(number: int, site: str, kind: SiteKind = SiteKind.DATA_CENTRE, **more: object) -> StorageElement:
    return StorageElement(number, f"s{number}", site, kind, Media.DISK, "posix", "/x", **more)  # type: ignore[arg-type]


MOUNTAIN = storage(1, "Mountain", SiteKind.OBSERVATORY)
NORTH, EAST, SOUTH = storage(2, "North"), storage(3, "East"), storage(4, "South")
ALL = {s.storage_id: s for s in (MOUNTAIN, NORTH, EAST, SOUTH)}


def waiting(n: int, size: int, *sources: int, failed: tuple[int, ...] = ()) -> Queued:
    return Queued(n, size, sources or (1,), failed)


def stream(queued: list[Queued], load: Load | None = None, **links: LinkLimit):
    limits = {(key.split("_")[0], key.split("_")[1]): limit for key, limit in links.items()}
    return next_stream(queued, NORTH, ALL, limits, load or Load())


# --- turns ---------------------------------------------------------------------------------------------------
def test_a_smaller_number_of_priority_goes_first_whatever_else_waits():
    heads = [Head(2, "preservation", 5), Head(2, "recall", 1), Head(3, "preservation", 0)]
    assert [h.priority for h in in_turn(heads, Load(), {})] == [0, 1, 5]


def test_of_equal_priority_the_activity_with_least_of_its_share_goes_first():
    heads = [Head(2, "preservation", 5), Head(2, "recall", 5)]
    load = Load.of([(1, 2, "preservation"), (1, 2, "preservation"), (1, 2, "recall")], ALL)
    assert in_turn(heads, load, {"preservation": 1, "recall": 1})[0].activity == "recall"
    assert in_turn(heads, load, {"preservation": 3, "recall": 1})[0].activity == "preservation"


@given(shares=st.tuples(st.integers(1, 9), st.integers(1, 9)), slots=st.integers(1, 40))
def test_over_many_turns_each_activity_gets_its_share(shares: tuple[int, int], slots: int):
    weights = {"a": float(shares[0]), "b": float(shares[1])}
    running: list[tuple[int, int, str]] = []
    for _ in range(slots):
        heads = [Head(2, "a", 5), Head(2, "b", 5)]
        running.append((1, 2, in_turn(heads, Load.of(running, ALL), weights)[0].activity))
    got = sum(activity == "a" for _, _, activity in running)
    assert abs(got - slots * shares[0] / sum(shares)) <= 1


# --- streams -------------------------------------------------------------------------------------------------
def test_a_large_file_goes_alone():
    chosen = stream([waiting(1, SMALL), waiting(2, 10)])
    assert chosen is not None and chosen.transfer_ids == (1,)


def test_small_files_on_one_way_go_together_and_leave_their_part_to_other_streams():
    queued = [waiting(n, MB) for n in range(1, 101)]
    chosen = stream(queued, Mountain_North=LinkLimit(max_transfers=4))
    assert chosen is not None and chosen.transfer_ids == tuple(range(1, 26)), "a quarter: four streams have room"
    chosen = stream(queued, Mountain_North=LinkLimit(max_transfers=1))
    assert chosen is not None and len(chosen.transfer_ids) == 100


def test_a_slow_way_carries_no_more_at_once_than_it_can_in_a_second():
    queued = [waiting(n, MB) for n in range(1, 101)]
    chosen = stream(queued, Mountain_North=LinkLimit(max_transfers=1, max_rate=12 * MB))
    assert chosen is not None and len(chosen.transfer_ids) == 12


def test_files_with_another_source_do_not_go_along():
    chosen = stream([waiting(1, MB, 1), waiting(2, MB, 3), waiting(3, MB, 1)], Mountain_North=LinkLimit(1))
    assert chosen is not None and (chosen.source_id, chosen.transfer_ids) == (1, (1, 3))


def test_a_way_that_is_full_is_passed_over_and_the_next_in_the_queue_goes():
    load = Load.of([(1, 2, "x")] * 4, ALL)
    chosen = stream([waiting(1, MB, 1), waiting(2, MB, 3)], load)
    assert chosen is not None and chosen.transfer_ids == (2,)


def test_a_storage_takes_no_more_streams_than_it_may_whichever_links_they_come_over():
    load = Load.of([(1, 2, "x")] * 4 + [(3, 2, "x")] * 4, ALL)
    assert stream([waiting(1, MB, 4)], load) is None


def test_a_source_gives_no_more_streams_than_it_may():
    load = Load.of([(1, 3, "x")] * 4 + [(1, 4, "x")] * 4, ALL)
    assert stream([waiting(1, MB, 1)], load) is None


sizes = st.integers(1, 2 * SMALL)
queues = st.lists(st.tuples(sizes, st.lists(st.sampled_from([1, 3, 4]), max_size=3)), max_size=300)


@given(queue=queues, running=st.lists(st.sampled_from([1, 3, 4]), max_size=12), most=st.integers(1, 6))
def test_a_stream_is_of_one_way_with_room_and_of_transfers_that_wait(
    queue: list[tuple[int, list[int]]], running: list[int], most: int
):
    queued = [Queued(n, size, tuple(sources)) for n, (size, sources) in enumerate(queue)]
    load = Load.of([(source, 2, "x") for source in running], ALL)
    limits = {(ALL[s].site, "North"): LinkLimit(most) for s in (1, 3, 4)}
    chosen = next_stream(queued, NORTH, ALL, limits, load)
    if chosen is None:
        open_ways = {s for s in (1, 3, 4) if load.links[ALL[s].site, "North"] < most and load.storages[s] < 8}
        assert len(running) >= NORTH.max_transfers or not any(open_ways & set(q.sources) for q in queued)
        return
    assert load.links[ALL[chosen.source_id].site, "North"] < most
    assert len(set(chosen.transfer_ids)) == len(chosen.transfer_ids) <= TOGETHER
    assert all(chosen.source_id in queued[i].sources for i in chosen.transfer_ids)
    assert len(chosen.transfer_ids) == 1 or all(queued[i].size < SMALL for i in chosen.transfer_ids)


# --- sources -------------------------------------------------------------------------------------------------
def test_a_data_centre_is_asked_before_the_observatory():
    assert best_source(waiting(1, MB, 1, 3), NORTH, ALL, {}, Load()) == 3


def test_after_a_failure_another_copy_is_taken_and_the_first_again_when_all_failed():
    assert best_source(waiting(1, MB, 1, 3, failed=(3,)), NORTH, ALL, {}, Load()) == 1
    assert best_source(waiting(1, MB, 1, 3, failed=(3, 1)), NORTH, ALL, {}, Load()) == 3


def test_a_storage_that_was_given_up_is_no_source():
    lost = {**ALL, 3: storage(3, "East", enabled=False)}
    assert best_source(waiting(1, MB, 3), NORTH, lost, {}, Load()) is None


# --- attempts ------------------------------------------------------------------------------------------------
BASE = timedelta(seconds=2)


def test_what_is_away_is_asked_with_growing_waits_until_the_attempts_are_used_up():
    waits = [next_attempt(Unavailable("away"), n, 10, BASE) for n in range(1, 11)]
    assert waits[:4] == [BASE, 2 * BASE, 4 * BASE, 8 * BASE]
    assert waits[-1] is None


@pytest.mark.parametrize("error", [Corrupt("bytes differ"), NotFound("not there")])
def test_damage_is_no_reason_to_wait_long_because_another_copy_is_taken(error: Corrupt | NotFound):
    assert next_attempt(error, 9, 10, BASE) == 4 * BASE


def test_what_is_forbidden_is_asked_for_a_few_times_only():
    waits = [next_attempt(Refused("no"), n, 10, BASE) for n in range(1, 4)]
    assert waits == [8 * BASE, 16 * BASE, None]
