"""What a tape storage is asked for next."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.staging import LONGEST_LOOK, Waiting, estimate, look_again, next_batch

sizes = st.integers(1, 100)
groups = st.lists(st.tuples(st.booleans(), st.lists(sizes, min_size=1, max_size=5)), max_size=12)


def queued(drawn: list[tuple[bool, list[int]]]) -> list[Waiting]:
    """A queue of single files and of groups that are needed together."""
    queue: list[Waiting] = []
    for number, (together, members) in enumerate(drawn, 1):
        for size in members:
            queue.append(Waiting(len(queue) + 1, size, number if together else 0))
    return queue


@given(groups, st.integers(0, 400), st.integers(1, 400), st.integers(1, 20))
def test_a_batch_fits_takes_the_head_of_the_queue_and_never_a_part_of_a_group(drawn, room, buffer, most):
    room = min(room, buffer)
    whole = queued(drawn)
    batch = next_batch(whole[: most + 1], room, buffer, most)
    taken = [one for one in whole if one.recall_id in batch.take]
    refused = {recall_id for recall_id, _ in batch.too_large}
    assert sum(one.size for one in taken) <= room
    ahead = [one.recall_id for one in whole if one.recall_id not in refused]
    assert list(batch.take) == ahead[: len(batch.take)]
    seen = whole[: most + 1]
    for number in {one.together for one in taken} - {0}:
        assert {one for one in seen if one.together == number} <= set(taken)


@given(groups, st.integers(1, 300))
def test_with_an_empty_buffer_something_is_always_taken_or_refused(drawn, buffer):
    queue = queued(drawn)
    batch = next_batch(queue, buffer, buffer, 1000)
    assert batch.take or batch.too_large or not queue


def test_a_group_that_no_buffer_holds_is_refused_with_what_it_needs_and_the_next_is_taken():
    queue = [Waiting(1, 60, 7), Waiting(2, 60, 7), Waiting(3, 50, 0)]
    batch = next_batch(queue, 100, 100, 10)
    assert batch.too_large == ((1, 120), (2, 120))
    assert batch.take == (3,)


def test_nothing_overtakes_a_group_that_waits_for_room():
    queue = [Waiting(1, 60, 7), Waiting(2, 30, 7), Waiting(3, 10, 0)]
    assert next_batch(queue, 80, 100, 10).take == ()


def test_a_group_that_the_end_of_the_queue_cuts_is_left_for_the_next_batch():
    queue = [Waiting(1, 1, 0), Waiting(2, 1, 7), Waiting(3, 1, 7)]
    assert next_batch(queue, 100, 100, 2).take == (1,)


def test_an_old_request_is_looked_at_less_often_but_at_least_once_a_minute():
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert look_again(now, now) == timedelta(seconds=1)
    assert look_again(now - timedelta(minutes=5), now) == timedelta(seconds=30)
    assert look_again(now - timedelta(days=2), now) == LONGEST_LOOK


def test_how_long_it_takes_is_not_guessed_when_nothing_came():
    assert estimate(0, 0) == 0
    assert estimate(10, 0) is None
    assert estimate(10, 5) == 2
