"""The one table of states."""

from collections.abc import Callable
from typing import Any

import pytest

from lightkeeper.domain import states
from lightkeeper.domain.states import KINDS, MOVES, Job, Task, Transfer, allowed, is_final


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_state_can_be_reached_from_the_first(kind: type[states.State]):
    reached = {next(iter(kind))}
    while more := {t for s, t in MOVES[kind] if s in reached} - reached:
        reached |= more
    assert reached == set(kind)


def test_states_of_different_kinds_are_not_taken_for_each_other():
    assert str(Transfer.RUNNING) == str(Task.RUNNING)
    assert allowed(Transfer.RUNNING, Transfer.WAITING)
    assert not allowed(Transfer.RUNNING, Task.READY)
    assert not allowed(Task.RUNNING, Transfer.WAITING)


def test_what_is_done_stays_done():
    assert is_final(Job.DONE)
    assert is_final(Task.DONE)
    assert not is_final(Task.FAILED), "an operator may try again"


def test_the_database_knows_the_same_states_in_the_same_order(sql: Callable[..., Any]):
    for name, kind in KINDS.items():
        labels = sql(f"SELECT unnest(enum_range(NULL::{name}_state))::text")
        assert [label for (label,) in labels] == [str(state) for state in kind]
        default = sql(
            "SELECT column_default FROM information_schema.columns WHERE table_name = %s AND column_name = 'state'",
            "meta_set" if name == "file" else name,
        )
        assert str(next(iter(kind))) in default[0][0], f"a {name} must begin in its first state"
