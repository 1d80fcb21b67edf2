"""Datasets are what productions take: dynamic ones as their conditions, frozen ones as their lists."""

import pytest
from tests.conftest import World
from tests.steps.test_work import submit, tasks

from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.steps import datasets, files, transform
from lightkeeper.steps.datasets import NewDataset

A, B, C = "/ctao/a/one.fits", "/ctao/a/two.fits", "/ctao/a/three.fits"


def inputs(world: World) -> set[int]:
    with world.ctx.db.transaction() as conn:
        return {file_id for (file_id,) in conn.execute("SELECT file_id FROM pending_input").fetchall()}


@pytest.mark.feature("S0-043")
def test_a_dynamic_dataset_gives_the_files_that_it_means_also_later_ones(world: World):
    ids = world.register(A, number=1) | world.register(B, number=2)
    datasets.create(world.ctx, NewDataset("first", "level = 0 and number <= 1"))
    submit(world, {"dataset": "first", "group_size": 1}, open_=True)
    assert inputs(world) == {ids[A]}
    later = world.register(C, number=0)
    assert inputs(world) == {ids[A], later[C]}


@pytest.mark.feature("S0-043")
def test_a_frozen_dataset_gives_its_list_whatever_its_files_have_become(world: World):
    ids = world.register(A, number=1) | world.register(B, number=2)
    datasets.create(world.ctx, NewDataset("paper", "level = 0"))
    datasets.freeze(world.ctx, "paper")
    world.register(C, number=3)
    files.set_metadata(world.ctx, [B], {"night": "2031-01-01"})
    submit(world, {"dataset": "paper", "group_size": 1}, open_=True)
    assert inputs(world) == {ids[A], ids[B]}
    transform.make_tasks(world.ctx)
    assert tasks(world) == [{ids[A]}, {ids[B]}]
    with pytest.raises(Conflict, match="takes its files from the list"):
        datasets.remove(world.ctx, "paper")


def test_own_conditions_narrow_a_dataset(world: World):
    ids = world.register(A, number=1) | world.register(B, number=2)
    datasets.create(world.ctx, NewDataset("all", "level = 0"))
    submit(world, {"dataset": "all", "query": {"number": 2}, "group_size": 1})
    assert inputs(world) == {ids[B]}


def test_a_dataset_that_is_none_or_asks_more_than_keys_is_refused_before_anything_happens(world: World):
    world.register(A)
    datasets.create(world.ctx, NewDataset("large", "size > 1"))
    with pytest.raises(NotFound, match="no dataset 'larg'"):
        submit(world, {"dataset": "larg", "group_size": 1})
    with pytest.raises(Invalid, match="a condition on 'size' cannot be used here"):
        submit(world, {"dataset": "large", "group_size": 1})
    assert world.value("SELECT count(*) FROM production") == 0


def test_a_corrupted_file_leaves_the_queue_and_comes_back(world: World):
    ids = world.register(A)
    submit(world, {"query": {"level": 0}, "group_size": 5}, open_=True)
    files.mark_corrupted(world.ctx, [A], "bad pixels")
    assert inputs(world) == set()
    files.restore(world.ctx, [A], "they are fine")
    assert inputs(world) == {ids[A]}


def test_metadata_that_are_set_later_bring_a_file_to_the_transformations_that_want_it(world: World):
    ids = world.register(A, level=7)
    world.register(B)
    submit(world, {"query": {"level": 0}, "group_size": 5}, open_=True)
    assert ids[A] not in inputs(world)
    files.set_metadata(world.ctx, [A], {"level": 0})
    assert ids[A] in inputs(world)
    files.set_metadata(world.ctx, [A], {"level": 7})
    assert ids[A] not in inputs(world)
