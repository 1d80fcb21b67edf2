"""How a storage is found to be, from what probes and work told."""

from datetime import timedelta

import pytest

from lightkeeper.domain.probing import BAN_AFTER, Found, answers, judge, next_probe
from lightkeeper.domain.states import Health

MINUTE = timedelta(minutes=1)


def live(answered: list[bool], health: Health = Health.GOOD) -> list[Health]:
    """The health after each of these probes."""
    failed = succeeded = 0
    lived: list[Health] = []
    for ok in answered:
        failed, succeeded = (0, succeeded + 1) if ok else (failed + 1, 0)
        health, _ = judge(Found(health, failed, succeeded))
        lived.append(health)
    return lived


def test_a_storage_that_does_not_answer_is_degraded_then_banned():
    assert live([False] * 4) == [Health.DEGRADED, Health.DEGRADED, Health.BANNED, Health.BANNED]


def test_a_banned_storage_comes_back_in_steps():
    assert live([True] * 4, Health.BANNED) == [Health.BANNED, Health.DEGRADED, Health.GOOD, Health.GOOD]


def test_a_storage_that_answers_every_other_time_stays_degraded_and_does_not_come_and_go():
    assert set(live([False, True] * 50)[1:]) == {Health.DEGRADED}


@pytest.mark.parametrize(
    ("failed", "done", "health"),
    [(4, 0, Health.GOOD), (5, 0, Health.DEGRADED), (5, 20, Health.DEGRADED), (5, 1000, Health.GOOD)],
)
def test_work_that_fails_degrades_a_storage_when_it_is_much_of_it(failed: int, done: int, health: Health):
    assert judge(Found(Health.GOOD, 0, 9, failed, done, "HTTP 500"))[0] is health


def test_a_storage_is_not_good_again_while_work_on_it_still_fails():
    assert judge(Found(Health.DEGRADED, 0, 9, 3, 1))[0] is Health.DEGRADED
    assert judge(Found(Health.DEGRADED, 0, 9, 1, 1))[0] is Health.GOOD


def test_work_alone_bans_nothing():
    assert judge(Found(Health.DEGRADED, 0, 9, 1000, 0))[0] is Health.DEGRADED


def test_a_reason_says_what_happened():
    assert judge(Found(Health.DEGRADED, 3, 0, error="no write pools online"))[1] == (
        "3 probes in a row failed: no write pools online"
    )


def test_a_protocol_is_left_at_its_first_failure_and_taken_again_after_several_answers():
    assert not answers(True, failed=1, succeeded=0)
    assert not answers(False, failed=0, succeeded=1)
    assert answers(False, failed=0, succeeded=2)


def test_probes_come_quickly_while_something_is_wrong_and_rarely_when_it_stays_so():
    assert next_probe(Health.GOOD, 0, True, MINUTE) == MINUTE
    assert next_probe(Health.DEGRADED, 1, False, MINUTE) == MINUTE / 4
    waits = [next_probe(Health.BANNED, n, False, MINUTE) for n in range(BAN_AFTER, 20)]
    assert waits == sorted(waits)
    assert waits[-1] == 15 * MINUTE
    assert next_probe(Health.BANNED, 0, False, MINUTE) == MINUTE / 4
