"""Every combination of a task, its latest job and its outputs is in order, repaired, or told to a person."""

from itertools import product

import pytest

from lightkeeper.domain.contradictions import Outputs, Repair, fine, path, table
from lightkeeper.domain.states import Job, Task, allowed

COMBINATIONS = list(product(Task, (None, *Job), Outputs))
TARGETS = {Repair.TO_READY: Task.READY, Repair.TO_RUNNING: Task.RUNNING, Repair.TO_DONE: Task.DONE}
AFTER_REPAIR = {  # the states of task and job that a repair leaves behind
    Repair.TO_READY: lambda task, job: (Task.READY, job),
    Repair.TO_RUNNING: lambda task, job: (Task.RUNNING, job),
    Repair.TO_DONE: lambda task, job: (Task.DONE, job),
    Repair.AGAIN: lambda task, job: (Task.READY, job),
    Repair.STOP: lambda task, job: (task, Job.FAILED if job is Job.COMPLETING else Job.KILLED),
}


def test_the_table_has_every_combination():
    assert set(table()) == set(COMBINATIONS)


@pytest.mark.feature("S1-080", "S1-076")
def test_every_combination_is_in_order_repaired_or_told():
    for combination, verdict in table().items():
        assert (verdict.repair is Repair.FINE) == (verdict.why == ""), combination


def test_what_one_transaction_can_leave_behind_is_in_order():
    made = {
        (Task.READY, None, Outputs.NONE),
        (Task.READY, Job.WAITING, Outputs.NONE),
        (Task.RUNNING, Job.RUNNING, Outputs.NONE),
        (Task.RUNNING, Job.COMPLETING, Outputs.REPORTED),
        (Task.RUNNING, Job.COMPLETING, Outputs.NONE),
        (Task.DONE, Job.DONE, Outputs.REGISTERED),
        (Task.DONE, Job.DONE, Outputs.NONE),
        (Task.READY, Job.FAILED, Outputs.NONE),
        (Task.READY, Job.FAILED, Outputs.REPORTED),
        (Task.READY, Job.KILLED, Outputs.NONE),
        (Task.FAILED, Job.FAILED, Outputs.NONE),
        (Task.FAILED, Job.FAILED, Outputs.REPORTED),
    }
    assert made <= set(fine())


def test_a_repair_ends_in_order_or_at_a_person_and_never_goes_round():
    for (task, job, outputs), verdict in table().items():
        if verdict.repair not in AFTER_REPAIR:
            continue
        after = (*AFTER_REPAIR[verdict.repair](task, job), outputs)
        assert table()[after].repair in (Repair.FINE, Repair.TELL), ((task, job, outputs), after)


def test_a_task_moves_along_the_table_of_states():
    for (task, _, _), verdict in table().items():
        if verdict.repair in TARGETS:
            steps = path(task, TARGETS[verdict.repair])
            assert all(allowed(source, target) for source, target in steps)
            assert (steps[0][0], steps[-1][1]) == (task, TARGETS[verdict.repair])


def test_no_task_is_run_again_while_outputs_of_it_are_in_the_catalogue():
    again = {Repair.TO_READY, Repair.AGAIN, Repair.TO_RUNNING}
    for (_, _, outputs), verdict in table().items():
        if outputs in (Outputs.REGISTERED, Outputs.OTHERS):
            assert verdict.repair not in again
