"""Where copies go: policies with storage expressions and distances, and several policies on one file."""

import pytest
from tests.conftest import World

from lightkeeper.domain.errors import Invalid
from lightkeeper.steps import topology

A = "/test/raw/a.plain"
DOCUMENT = """
storages:
  east: {{site: East, root: {root}/east, attributes: {{tier: 1}}}}
  south: {{site: South, root: {root}/south, attributes: {{tier: 1, quality: good}}}}
policies:
  raw: {{files: {{level: 0}}, copies: {copies}, free_on_site: true, at: "{at}"}}
"""


def apply(world: World, at: str, copies: int = 2, more: str = "") -> list[str]:
    return topology.apply(world.ctx, DOCUMENT.format(root=world.root, at=at, copies=copies) + more)


@pytest.mark.feature("S0-024")
def test_copies_go_where_the_expression_says_and_the_site_is_freed(world: World):
    apply(world, "tier=1")
    world.deliver(A)
    world.ingest()
    world.settle()
    assert set(world.copies(A)) == {"east", "south"}
    assert apply(world, "tier=1") == [], "applying it twice changes nothing"


def test_a_policy_that_gets_another_place_makes_new_copies_and_keeps_the_old(world: World):
    apply(world, "tier=1")
    world.deliver(A)
    world.ingest()
    world.settle()
    apply(world, "north|east")
    world.settle()
    assert set(world.copies(A)) == {"north", "east", "south"}


def test_a_second_policy_on_the_same_files_adds_its_copies(world: World):
    apply(world, "tier=1", more="  archive: {files: {level: 0}, copies: 1, media: tape}\n")
    world.deliver(A)
    world.ingest()
    world.settle()
    assert set(world.copies(A)) == {"east", "south", "vault"}


@pytest.mark.parametrize(
    ("at", "copies", "told"),
    [
        ("teir=1", 2, "policies.raw.at: no storage has an attribute 'teir'"),
        ("tier=1&", 2, "policies.raw.at: storage expression, position 8"),
        ("tier=1", 3, "3 copies on disk are wanted at 'tier=1', which means 2 data centres: East, South"),
        ("quality=bad", 2, "which means 0 data centres"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_changes(world: World, at: str, copies: int, told: str):
    with pytest.raises(Invalid) as caught:
        apply(world, at, copies)
    assert told in caught.value.message
