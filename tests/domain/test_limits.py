"""What a job may use: what its step asks for, or it needs, or its pilot has; and what is said when it takes more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.limits import MB, Limit, Limits, capped, exceeded, limits_of

DEFAULT = Limits(memory=8000 * MB)


@pytest.mark.parametrize(
    ("asked", "needs", "has", "memory"),
    [
        ({}, None, None, 8000),
        ({}, 2000, None, 8000),  # what it needs is the least it wants
        ({}, 16_000, None, 16_000),
        ({}, 16_000, 12_000, 12_000),  # a pilot has no more than it has
        ({"memory": 1000 * MB}, 500, None, 1000),
        ({"memory": 20_000 * MB}, None, 12_000, 12_000),
        ({"memory": 0}, None, None, 0),  # no limit
        ({"memory": 0}, None, 12_000, 12_000),
    ],
)
def test_a_job_may_use_what_its_step_asks_for_or_needs_but_never_more_than_its_pilot_has(asked, needs, has, memory):
    mb = lambda n: n and n * MB  # noqa: E731
    assert limits_of(DEFAULT, asked, needs=mb(needs), has=mb(has)).memory == memory * MB


def test_what_a_step_does_not_ask_for_is_as_in_the_settings():
    found = limits_of(DEFAULT, {"wall_time": 60, "disk": 5, "files": 7, "log": 1, "grace": 0}, needs=None, has=None)
    assert (found.wall_time, found.disk, found.files) == (60, 5, 7)
    assert (found.processes, found.log, found.grace) == (DEFAULT.processes, DEFAULT.log, DEFAULT.grace)


@pytest.mark.parametrize("limit", Limit)
def test_every_limit_has_a_sentence_with_what_was_used_what_may_be_and_what_to_do(limit):
    minor, told = exceeded(limit, 2 * getattr(DEFAULT, limit), DEFAULT)
    assert minor.endswith("limit exceeded")
    assert " may " in told
    assert told.partition(": ")[2].startswith(("let it", "let its", "split"))


def test_jobs_that_met_the_same_limit_at_about_the_same_amount_are_told_in_the_same_words():
    assert exceeded(Limit.MEMORY, 8_212_345_678, DEFAULT) == exceeded(Limit.MEMORY, 8_298_765_432, DEFAULT)


def test_what_was_a_little_too_much_is_told_as_more_than_the_limit():
    assert exceeded(Limit.MEMORY, 8_000_000_001, DEFAULT)[1].startswith("it had 8.1 GB of memory and may have 8.0 GB")


@given(st.text(max_size=3000), st.integers(0, 1000))
def test_a_log_is_never_much_longer_than_it_may_be_and_a_short_one_is_whole(text, most):
    found = capped(text, most)
    if not most or len(text) <= most:
        assert found == text
    else:
        assert len(found) <= most + 100
        assert found.endswith(text[len(text) - most // 2 :])
    assert capped(found, most) == found
