"""Rules: said once, they hold for the files that are there and for those that come."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.conftest import World

from lightkeeper.domain.catalog import Media
from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.steps import audit, datasets, replicate, rules
from lightkeeper.steps import topology as topology_step
from lightkeeper.steps.datasets import NewDataset
from lightkeeper.steps.rules import NewRule
from lightkeeper.store import changes, topology
from lightkeeper.store.sets import share_policies

A, B = "/ctao/a/one.h5", "/ctao/a/two.h5"


def gammas(world: World) -> None:
    """Files under no policy of the topology."""
    world.register(A, level=-1)


@pytest.mark.feature("S3-059", "S0-024", "S3-058")
def test_a_rule_makes_copies_of_what_is_there_and_of_what_comes(world: World):
    gammas(world)
    missing = rules.add(world.ctx, NewRule("mine", "level = -1", copies=2, at="north|east"))
    assert missing.files == 1
    world.settle()
    assert set(world.copies(A)) == {"north", "east"}
    world.register(B, level=-1)
    world.settle()
    assert set(world.copies(B)) == {"north", "east"}
    rule = next(r for r in rules.find(world.ctx) if r.name == "mine")
    assert (rule.progress.files, rule.progress.fulfilled, rule.percent) == (2, 2, 100)


def test_a_rule_is_on_a_dataset_and_on_tape(world: World):
    gammas(world)
    datasets.create(world.ctx, NewDataset("mine", "level = -1"))
    rules.add(world.ctx, NewRule("kept", "dataset = mine", copies=1, media=Media.TAPE))
    world.settle()
    assert set(world.copies(A)) == {"north", "vault"}


def test_a_dry_run_tells_what_would_be_made(world: World):
    gammas(world)
    missing = rules.add(world.ctx, NewRule("mine", "level = -1", copies=3), dry_run=True)
    assert missing.files == 2
    assert "mine" not in {r.name for r in rules.find(world.ctx)}
    assert world.value("SELECT count(*) FROM unsettled") == 0 or replicate.settle(world.ctx)
    assert set(world.copies(A)) == {"north"}


def test_a_rule_that_is_withdrawn_gives_up_what_did_not_begin_and_keeps_what_was_made(world: World):
    gammas(world)
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=3))
    replicate.settle(world.ctx)
    assert rules.remove(world.ctx, "mine", dry_run=True) == 2
    assert rules.remove(world.ctx, "mine") == 2
    world.settle()
    assert set(world.copies(A)) == {"north"}
    with pytest.raises(NotFound, match="no rule 'mine'"):
        rules.remove(world.ctx, "mine")


@pytest.mark.feature("S3-063")
def test_a_rule_whose_time_is_over_is_withdrawn_by_itself(world: World):
    gammas(world)
    rules.add(world.ctx, NewRule("brief", "level = -1", copies=2, lifetime=1))
    assert rules.withdraw_expired(world.ctx) == 0
    world.value("UPDATE policy SET expires = now() - interval '1 s' WHERE name = 'brief'")
    assert rules.withdraw_expired(world.ctx) == 1
    assert "brief" not in {r.name for r in rules.find(world.ctx)}


def test_what_another_rule_asks_for_too_is_made_all_the_same(world: World):
    gammas(world)
    rules.add(world.ctx, NewRule("first", "level = -1", copies=2, at="north|east"))
    rules.add(world.ctx, NewRule("second", "level < 0", copies=2, at="north|east"))
    replicate.settle(world.ctx)
    rules.remove(world.ctx, "first")
    world.settle()
    assert set(world.copies(A)) == {"north", "east"}


def test_a_rule_says_why_a_copy_is_missing(world: World):
    gammas(world)
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=2, at="north|east"))
    assert rules.explain(world.ctx, "mine").reasons == [("a transfer is planned in a moment", 1)]
    replicate.settle(world.ctx)
    told = rules.explain(world.ctx, "mine")
    assert told.reasons == [("the copy to east waits for its turn", 1)]
    assert [(line["state"], line["transfers"]) for line in told.transfers] == [("Waiting", 1)]
    world.value("UPDATE storage SET enabled = false WHERE name = 'east'")
    world.value("DELETE FROM transfer")
    (reason,) = rules.explain(world.ctx, "mine").reasons
    assert "only 1 can hold one" in reason[0]
    world.value("UPDATE storage SET enabled = true WHERE name = 'east'")


def test_a_copy_that_was_only_reported_fulfils_no_rule(world: World):
    gammas(world)
    world.value("UPDATE replica SET verified_at = 'epoch'")
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=1, at="north"))
    told = rules.explain(world.ctx, "mine")
    assert told.rule.progress.fulfilled == 0
    assert told.reasons == [("the copy at north was reported and is still to be read", 1)]
    audit.recheck(world.ctx)
    assert rules.explain(world.ctx, "mine").rule.progress.fulfilled == 1


def test_what_is_being_planned_for_a_rule_is_given_up_with_it(world: World):
    gammas(world)
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=2))
    with ThreadPoolExecutor() as threads:
        with world.ctx.db.transaction() as conn:  # as a worker that is slow
            share_policies(conn)
            removed = threads.submit(rules.remove, world.ctx, "mine")
            with pytest.raises(TimeoutError):
                removed.result(0.3)
            conn.execute(
                """
                INSERT INTO transfer (file_id, target_id, policy_id)
                SELECT file_id, storage_id, policy_id
                  FROM file, storage, policy
                 WHERE storage.name = 'east' AND policy.name = 'mine'
                """
            )
        assert removed.result(10) == 1
    world.settle()
    assert set(world.copies(A)) == {"north"}


@pytest.mark.parametrize(
    ("rule", "kind", "told"),
    [
        (NewRule("raw", "level = 0", 2), Conflict, "there is a rule 'raw' already"),
        (NewRule("x", "levle = 0", 2), Invalid, "unknown metadata key 'levle'"),
        (NewRule("x", "", 2), Invalid, "a rule needs a condition"),
        (NewRule("x", "level = 0 or number = 3", 2), Invalid, "may not join set-level and file-level keys"),
        (NewRule("x", "scope = nobody", 2), Invalid, "scope 'nobody' does not exist"),
        (NewRule("x", 'not scope like "a*"', 2), Invalid, "a condition on 'scope' cannot be used here"),
        (NewRule("x", "", 2, files=["/ctao/none.h5"]), NotFound, "/ctao/none.h5 is not in the catalogue"),
        (NewRule("x", "", 2, files=["../x"]), Invalid, "it must be absolute"),
        (NewRule("x", "size > 3", 2), Invalid, "a condition on 'size' cannot be used here"),
        (NewRule("x", "level = 0", 9), Invalid, "which means 3 data centres: East, North, South"),
        (NewRule("x", "level = 0", 1, at="teir=2"), Invalid, "no storage has an attribute 'teir'"),
        (NewRule("x", "level = 0", 0), Invalid, "positive number of copies"),
        (NewRule("x", "level = 0", 2, min_distance=100), Invalid, "no 2 of the data centres East, North, South are"),
        (NewRule("x", "level = 0", 1, lifetime=1e300), Invalid, "a lifetime is at most"),
        (NewRule("a b", "level = 0", 1), Invalid, "is not a name for a rule"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(world: World, rule: NewRule, kind: type[Exception], told: str):
    with pytest.raises(kind) as caught:
        rules.add(world.ctx, rule)
    assert told in str(caught.value)


@pytest.mark.feature("S3-014")
def test_a_rule_on_file_level_keys_takes_those_files_of_a_set_and_late_ones(world: World):
    world.register("/ctao/a/1.h5", level=-1, number=1)
    world.register("/ctao/a/2.h5", level=-1, number=2)
    rules.add(world.ctx, NewRule("ones", "level = -1 and number = 1", copies=2, at="north|east"))
    world.register("/ctao/a/3.h5", level=-1, number=1)
    world.register("/ctao/a/4.h5", level=-1, number=4)
    world.settle()
    where = {name: set(world.copies(f"/ctao/a/{name}.h5")) for name in "1234"}
    assert where == {"1": {"north", "east"}, "2": {"north"}, "3": {"north", "east"}, "4": {"north"}}
    assert rules.show(world.ctx, "ones").progress.files == 2


def test_a_file_whose_own_keys_change_falls_under_other_rules(world: World):
    ids = world.register(A, level=-1, number=1)
    rules.add(world.ctx, NewRule("twos", "number = 2", copies=2, at="north|east"))
    world.settle()
    assert set(world.copies(A)) == {"north"}
    with world.ctx.db.transaction() as conn:
        changes.set_metadata(conn, list(ids.values()), {"number": 2}, (), topology.vocabulary(conn))
    world.settle()
    assert set(world.copies(A)) == {"north", "east"}


def test_a_rule_on_a_scope_takes_files_of_that_scope_and_late_ones(world: World):
    world.register("/ctao/user/maria/a.h5", "/ctao/user/mario/a.h5", level=-1)
    rules.add(world.ctx, NewRule("marias", "scope = user.maria", copies=2, at="north|east"))
    rules.add(world.ctx, NewRule("users", 'scope like "user.*" and level = -1', copies=1, media=Media.TAPE))
    world.register("/ctao/user/maria/b.h5", "/ctao/user/paul/b.h5", level=-1)
    world.settle()
    assert set(world.copies("/ctao/user/maria/a.h5")) == {"north", "east", "vault"}
    assert set(world.copies("/ctao/user/maria/b.h5")) == {"north", "east", "vault"}
    assert set(world.copies("/ctao/user/mario/a.h5")) == {"north", "vault"}
    assert set(world.copies("/ctao/user/paul/b.h5")) == {"north", "vault"}


def test_a_rule_on_a_night_takes_its_files(world: World):
    world.register(A, level=-1, night="2030-01-02")
    world.register(B, level=-1, night="2030-01-03")
    rules.add(world.ctx, NewRule("night", "night = 2030-01-02", copies=2, at="north|east"))
    world.settle()
    assert (set(world.copies(A)), set(world.copies(B))) == ({"north", "east"}, {"north"})


def test_a_rule_on_a_frozen_dataset_takes_what_it_lists(world: World):
    gammas(world)
    datasets.create(world.ctx, NewDataset("mine", "level = -1"))
    datasets.freeze(world.ctx, "mine")
    assert rules.add(world.ctx, NewRule("kept", "dataset = mine", copies=2, at="north|east")).files == 1
    world.register(B, level=-1)
    world.settle()
    assert (set(world.copies(A)), set(world.copies(B))) == ({"north", "east"}, {"north"})
    assert rules.remove(world.ctx, "kept") == 0
    assert world.value("SELECT count(*) FROM file_policy") == 0


def test_a_rule_on_named_files_takes_those(world: World):
    world.register(A, B, level=-1)
    rules.add(world.ctx, NewRule("one", "", copies=2, at="north|east", files=[A]))
    world.settle()
    assert (set(world.copies(A)), set(world.copies(B))) == ({"north", "east"}, {"north"})
    assert rules.show(world.ctx, "one").query == "a list of files"
    topology_step.apply(world.ctx, "storages: {east: {site: East, root: '%s', enabled: false}}" % (world.root / "east"))
    world.settle()
    assert "only 1 can hold one" in rules.explain(world.ctx, "one").reasons[0][0]
