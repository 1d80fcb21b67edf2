"""Which waiting jobs go first: priorities before shares, shares of processors that are used now, needs before all."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.sharing import Lane, Offer, in_turn, suits

LANE = Lane(1, 5, "observatory", "p", "Merging", 1, None, frozenset(), frozenset(), waiting=100, running=0)


def drained(lanes: list[Lane], shares: dict[tuple[str, str], float], n: int) -> Counter[int]:
    """Who gets the processors when `n` become free and no job ends."""
    by_id = {lane.transformation_id: lane for lane in lanes}
    got: Counter[int] = Counter()
    for _ in range(n):
        first = in_turn(by_id.values(), shares, Offer(1))[0].transformation_id
        by_id[first] = replace(by_id[first], waiting=by_id[first].waiting - 1, running=by_id[first].running + 1)
        got[first] += 1
    return got


@pytest.mark.feature("S2-027")
def test_what_is_urgent_goes_before_all_else_however_much_it_has():
    low = replace(LANE, waiting=1000)
    high = replace(LANE, transformation_id=2, production="q", priority=1, waiting=10, running=500)
    assert drained([low, high], {}, 15) == {2: 10, 1: 5}


@pytest.mark.feature("S0-010")
@pytest.mark.parametrize(
    ("kind", "field"), [("group", "group"), ("production", "production"), ("job type", "job_type")]
)
def test_groups_productions_and_job_types_get_processors_by_their_shares(kind: str, field: str):
    lanes = [replace(LANE, **{field: "a"}), replace(LANE, transformation_id=2, **{field: "b"})]
    assert drained(lanes, {(kind, "a"): 3.0}, 40) == {1: 30, 2: 10}
    assert drained(lanes, {}, 40) == {1: 20, 2: 20}


def test_productions_share_what_their_group_has():
    lanes = [
        replace(LANE, group="a", production="a1"),
        replace(LANE, transformation_id=2, group="a", production="a2"),
        replace(LANE, transformation_id=3, group="b", production="b1"),
    ]
    assert drained(lanes, {}, 40) == {1: 10, 2: 10, 3: 20}


def test_a_job_of_many_processors_counts_as_many():
    lanes = [replace(LANE, production="a", processors=4), replace(LANE, transformation_id=2, production="b")]
    by_id = {lane.transformation_id: lane for lane in lanes}
    got: Counter[int] = Counter()
    for _ in range(50):
        first = in_turn(by_id.values(), {}, Offer(1, processors=8))[0].transformation_id
        by_id[first] = replace(by_id[first], waiting=by_id[first].waiting - 1, running=by_id[first].running + 1)
        got[first] += 1
    assert got == {1: 10, 2: 40}


@pytest.mark.feature("S0-016")
def test_a_job_goes_only_to_a_pilot_that_has_what_it_needs():
    small = Offer(1, processors=1, memory_mb=2000)
    large = Offer(2, processors=8, memory_mb=16000, tags=frozenset({"gpu"}))
    assert not suits(replace(LANE, processors=4), small)
    assert not suits(replace(LANE, memory_mb=4000), small)
    assert not suits(replace(LANE, tags=frozenset({"gpu"})), small)
    assert not suits(replace(LANE, sites=frozenset({2, 3})), small)
    assert suits(replace(LANE, processors=4, memory_mb=4000, tags=frozenset({"gpu"}), sites=frozenset({2, 3})), large)
    assert suits(replace(LANE, memory_mb=64000), Offer(1)), "a site that says nothing of memory takes every job"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.integers(0, 5)), max_size=20),
    st.integers(1, 4),
)
def test_every_lane_that_suits_has_its_turn_and_no_other(found: list[tuple[int, int, int, int]], processors: int):
    lanes = [
        replace(LANE, transformation_id=n, processors=1 + p, production=str(q), waiting=w, running=r)
        for n, (p, q, w, r) in enumerate(found)
    ]
    turn = in_turn(lanes, {}, Offer(1, processors))
    wanted = {lane.transformation_id for lane in lanes if lane.waiting and lane.processors <= processors}
    assert {lane.transformation_id for lane in turn} == wanted
    assert len(turn) == len(wanted)
