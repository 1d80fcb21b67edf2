"""What a rule says besides copies: where they come from, how long they stay, what they may take up, when wanted."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.conftest import World

from lightkeeper.domain.errors import Conflict, Invalid, Refused
from lightkeeper.steps import delete, files, replicate, report, rules, topology, transfer
from lightkeeper.steps.rules import NewRule

A, B = "/ctao/a/one.h5", "/ctao/a/two.h5"
TWO_STEPS = [
    NewRule("first", "level = -1", copies=1),
    NewRule("second", "level = -1", copies=2, source="kind=data-centre"),
]


def on_site(world: World, *names: str) -> None:
    """Files on the mountain only, under no policy of the topology."""
    world.register(*names, storage="mountain", level=-1)


def ways(world: World) -> list[tuple[str, str]]:
    """Every copy that was made, as (from, to), in order."""
    with world.ctx.db.transaction() as conn:
        return conn.execute("""
            SELECT s.name, t.name FROM transfer x
              JOIN storage s ON s.storage_id = x.source_id JOIN storage t ON t.storage_id = x.target_id
             WHERE state = 'Done' ORDER BY x.transfer_id
        """).fetchall()


# --- source ----------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3-022", "S3-023", "S0-026", "S0-028")
@pytest.mark.parametrize("order", [TWO_STEPS, TWO_STEPS[::-1]])
def test_two_rules_take_a_file_to_one_centre_and_from_there_to_the_second(world: World, order: list[NewRule]):
    on_site(world, A)
    for rule in order:
        rules.add(world.ctx, rule)
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM transfer") == 1, "the second copy waits for the first"
    world.settle()
    (first, second) = ways(world)
    assert first[0] == "mountain" and second[0] == first[1], "so the site's line is used once"


def test_a_copy_that_may_come_only_from_elsewhere_is_not_made_from_what_is_there(world: World):
    on_site(world, A)
    rules.add(world.ctx, NewRule("second", "level = -1", copies=2, source="kind=data-centre"))
    world.settle()
    assert set(world.copies(A)) == {"mountain"}
    told = rules.explain(world.ctx, "second").reasons
    assert told == [("policy second copies only from kind=data-centre, where no verified copy is", 1)]


def test_a_transfer_whose_source_is_gone_waits_for_one_that_its_rule_allows(world: World):
    world.register(A, storage="mountain", level=-1)
    world.register(A, storage="north", level=-1)
    rules.add(world.ctx, NewRule("second", "level = -1", copies=2, at="north|east", source="north"))
    replicate.settle(world.ctx)
    world.value(
        "UPDATE replica SET state = 'Suspect' WHERE storage_id = (SELECT storage_id FROM storage WHERE name = 'north')"
    )
    assert transfer.carry_out(world.ctx) == 0
    (reason,) = [why for why, _ in rules.explain(world.ctx, "second", A).reasons if "east" in why]
    assert reason == "the copy to east waits: the copy at north is Suspect"
    world.value("UPDATE replica SET state = 'Available'")
    world.settle()
    assert ways(world) == [("north", "east")]


# --- retention and protection ----------------------------------------------------------------------------------
def test_copies_stay_for_their_retention_even_when_the_rule_is_withdrawn(world: World):
    world.register(A, level=-1)
    rules.add(world.ctx, NewRule("kept", "level = -1", copies=1, at="north", retention=24))
    rules.remove(world.ctx, "kept")
    refused = files.remove(world.ctx, [A], "not needed")
    assert "rule kept keeps it until" in refused.failed[0].error
    world.settle()
    with world.ctx.db.transaction() as conn:
        told = delete.approve(conn, [(world.files()[0].file_id, kept_at(world, "north"))], "maria", "not needed")
    assert "rule kept keeps it until" in next(iter(told.values()))
    assert rules.show(world.ctx, "kept").withdrawn is not None
    with pytest.raises(Conflict, match="withdrawn already"):
        rules.remove(world.ctx, "kept")
    with pytest.raises(Conflict, match="keeps its copies for its retention"):
        rules.add(world.ctx, NewRule("kept", "level = -1", copies=1))
    assert rules.withdraw_expired(world.ctx) == 0
    world.value("UPDATE policy SET created = created - interval '25 h', withdrawn = withdrawn - interval '25 h'")
    world.value("UPDATE replica SET written_at = written_at - interval '25 h'")
    assert rules.withdraw_expired(world.ctx) == 1
    assert "kept" not in {rule.name for rule in rules.find(world.ctx)}
    assert files.remove(world.ctx, [A], "not needed").done == [A]
    world.settle()


def kept_at(world: World, name: str) -> int:
    return next(storage.storage_id for storage in world.storages if storage.name == name)


def test_a_withdrawn_rule_with_retention_makes_no_copies(world: World):
    world.register(A, level=-1)
    rules.add(world.ctx, NewRule("kept", "level = -1", copies=2, retention=24))
    rules.remove(world.ctx, "kept")
    world.settle()
    assert set(world.copies(A)) == {"north"}


def test_protected_copies_go_only_when_two_people_agree(world: World):
    world.register(A, level=-1)
    rules.add(world.ctx, NewRule("dear", "level = -1", copies=1, at="north", protect=True))
    with pytest.raises(Refused, match="protects its copies"):
        rules.remove(world.ctx, "dear")
    assert files.remove(world.ctx, [A], "not needed").failed[0].error == "rule dear protects it"
    assert not rules.release(world.ctx, "dear", "maria").released
    assert not rules.release(world.ctx, "dear", "maria").released, "the same person twice is one"
    assert rules.release(world.ctx, "dear", "paul", dry_run=True).released
    assert files.remove(world.ctx, [A], "not needed").failed
    assert rules.release(world.ctx, "dear", "paul").by == ["maria", "paul"]
    rules.remove(world.ctx, "dear")
    assert files.remove(world.ctx, [A], "not needed").done == [A]
    world.settle()
    with pytest.raises(Invalid, match="is not a name for a person"):
        rules.release(world.ctx, "dear", "")


def test_the_topology_takes_no_protection_away(world: World):
    policy = "policies: {raw: {files: {level: %s}, copies: 2, free_on_site: true, protect: %s}}"
    topology.apply(world.ctx, policy % (0, "true"))
    with pytest.raises(Refused, match=r"policies\.raw protects its copies"):
        topology.apply(world.ctx, policy % (0, "false"))
    with pytest.raises(Refused, match=r"policies\.raw protects its copies"):
        topology.apply(world.ctx, policy % (2, "true"))
    for who in ("maria", "paul"):
        rules.release(world.ctx, "raw", who)
    assert topology.apply(world.ctx, policy % (0, "false")) == []


# --- quota -----------------------------------------------------------------------------------------------------
def test_beyond_its_quota_a_rule_makes_no_copies_and_says_so(world: World):
    world.register(A, B, level=-1)
    size = len(f"content of {A}")
    rules.add(world.ctx, NewRule("small", "level = -1", copies=1, at="east", quota=str(size + 5)))
    world.settle()
    assert ("east" in world.copies(A)) + ("east" in world.copies(B)) == 1
    (reason,) = [why for why, _ in rules.explain(world.ctx, "small").reasons]
    assert "the quota of policy small, 30 B, is used up" in reason
    told = rules.show(world.ctx, "small")
    assert (told.quota, told.used) == (size + 5, size)


# --- deadline --------------------------------------------------------------------------------------------------
@pytest.mark.feature("S2-021")
def test_after_a_tenth_of_the_files_the_estimate_warns_that_a_rule_will_be_late(world: World):
    names = [f"/ctao/a/{n}.h5" for n in range(10, 60)]
    world.register(*names, level=-1)
    rules.add(world.ctx, NewRule("soon", "level = -1", copies=1, at="east", deadline="1 h"))
    assert rules.late(world.ctx) == [], "nothing arrived yet: nobody knows"
    replicate.settle(world.ctx)
    carried(world, 5)
    spaced(world, seconds=120)
    (rule,) = rules.late(world.ctx)
    assert rule.seconds == pytest.approx(45 * 120, rel=0.01)
    assert rule.late.startswith("it will be 30 minutes late: it is wanted by")
    rules.watch_deadlines(world.ctx)
    assert ("rule will be late", "soon") in [(event, facts.get("rule")) for event, facts in world.ctx.log.lines]
    world.settle()
    assert rules.late(world.ctx) == []


@pytest.mark.feature("S2-018")
def test_the_predicted_end_is_within_a_tenth_of_what_it_takes(world: World):
    """Files of one storage arrive 20 s apart; after 30 of 50 the end is predicted, also for larger files."""
    names = [f"/ctao/a/{n}.h5" for n in range(10, 60)]
    world.register(*names, level=-1)
    rules.add(world.ctx, NewRule("all", "level = -1", copies=1, at="east"))
    replicate.settle(world.ctx)
    carried(world, 30)
    spaced(world, seconds=20)
    assert rules.show(world.ctx, "all").seconds == pytest.approx(20 * 20, rel=0.1)
    world.settle()


def carried(world: World, n: int) -> None:
    """So many of the transfers that wait are made."""
    world.value(
        """
        UPDATE transfer SET not_before = 'infinity'
         WHERE transfer_id IN (SELECT transfer_id FROM transfer ORDER BY transfer_id OFFSET %s)
        """,
        n,
    )
    while transfer.carry_out(world.ctx):
        pass
    world.value("UPDATE transfer SET not_before = now()")


def spaced(world: World, seconds: float) -> None:
    """As if the copies that arrived had come so far apart, the last of them now."""
    world.value(
        """
        UPDATE transfer t SET state_since = now() - n * %s * interval '1 s'
          FROM (SELECT transfer_id, row_number() OVER (ORDER BY state_since DESC) - 1 AS n
                  FROM transfer WHERE state = 'Done') d
         WHERE t.transfer_id = d.transfer_id
        """,
        seconds,
    )


def test_a_deadline_that_was_missed_is_told(world: World):
    world.register(A, level=-1)
    rules.add(world.ctx, NewRule("soon", "level = -1", copies=1, at="east", deadline="1 h"))
    world.value("UPDATE policy SET deadline = '2020-01-01' WHERE name = 'soon'")
    assert rules.show(world.ctx, "soon").late == "it was wanted by 2020-01-01 00:00 UTC"
    world.settle()
    assert rules.show(world.ctx, "soon").late == ""


# --- why -------------------------------------------------------------------------------------------------------
def test_a_file_tells_the_same_reasons_as_its_rule(world: World):
    world.register(A, level=-1)
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=2, at="north|east"))
    replicate.settle(world.ctx)
    (world.root / "north" / A[1:]).unlink()
    transfer.carry_out(world.ctx)
    told = rules.explain(world.ctx, "mine", A).reasons
    assert [why for why, _ in told] == report.why_file(world.ctx, A).waits
    assert "the copy to east waits: the copy at north is Suspect" in report.why_file(world.ctx, A).waits
    world.register(A, level=-1)
    world.value("UPDATE transfer SET not_before = now()")
    world.settle()


def test_a_failed_attempt_is_told_with_its_error_and_the_next(world: World):
    world.register(A, level=-1)
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=2, at="north|east"))
    replicate.settle(world.ctx)
    world.value(
        "UPDATE transfer SET attempts = 2, error = 'the disk is full', not_before = %s",
        datetime(2099, 1, 1, tzinfo=UTC),
    )
    ((why, _),) = rules.explain(world.ctx, "mine").reasons
    assert why == (
        f"the copy to east failed in attempt 2 of {world.ctx.settings.transfer_attempts}: the disk is full; "
        "the next is at 2099-01-01 00:00 UTC"
    )
    world.value("UPDATE transfer SET not_before = now()")
    world.settle()


def test_a_link_that_carries_all_it_may_is_told(world: World):
    world.register(A, B, level=-1)
    topology.apply(world.ctx, "links: [{from: North, to: East, max_transfers: 1}]")
    rules.add(world.ctx, NewRule("mine", "level = -1", copies=2, at="north|east"))
    replicate.settle(world.ctx)
    world.value(
        """
        UPDATE transfer SET state = 'Running', attempts = 1, lease_until = now(), stream = transfer_id,
               source_id = (SELECT storage_id FROM storage WHERE name = 'north')
         WHERE transfer_id = (SELECT min(transfer_id) FROM transfer)
        """
    )
    assert {why for why, _ in rules.explain(world.ctx, "mine").reasons} == {
        "it is being copied from north to east",
        "the copy to east waits for its turn: the link from North to East carries 1 of 1 transfers",
    }
    world.value("UPDATE transfer SET state = 'Waiting', attempts = 0 WHERE state = 'Running'")
    world.settle()


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (NewRule("x", "level = 0", 1, source="teir=1"), "no storage has an attribute 'teir'"),
        (NewRule("x", "level = 0", 1, source="country=XX"), "no storage is meant by --source"),
        (NewRule("x", "level = 0", 1, retention=2e6), "a retention is at most 1000000 hours"),
        (NewRule("x", "level = 0", 1, quota="much"), "'much' is not an amount of data"),
        (NewRule("x", "level = 0", 1, deadline="soon"), "'soon' is no deadline"),
        (NewRule("x", "level = 0", 1, deadline="2001-01-01"), "is over already"),
        (NewRule("x", "level = 0", 1, activity="a b"), "there is no activity 'a b'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(world: World, rule: NewRule, told: str):
    with pytest.raises(Invalid) as caught:
        rules.add(world.ctx, rule)
    assert told in str(caught.value)


def test_a_deadline_is_read_in_any_zone():
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert rules.read_deadline("2030-01-02 12:00", now) == datetime(2030, 1, 2, 12, tzinfo=UTC)
    assert rules.read_deadline("2030-01-02T12:00+02:00", now) == datetime(2030, 1, 2, 10, tzinfo=UTC)
    assert rules.read_deadline("48 h", now) == now + timedelta(hours=48)
