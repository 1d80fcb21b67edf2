"""What a class of files is owed, and when the on-site replica may go."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.catalog import Media, Replica, SiteKind, StorageElement
from lightkeeper.domain.policy import MAX_VERIFY_AGE, FileCopies, Policy, distance, may_free, plan_copies, plan_file
from lightkeeper.domain.states import Replica as State

NOW = datetime(2030, 1, 2, 3, tzinfo=UTC)
ON_SITE, PIC, DESY, CSCS, TAPE = 1, 2, 3, 4, 5
STORAGES = {
    ON_SITE: StorageElement(ON_SITE, "onsite", "Mountain", SiteKind.OBSERVATORY, Media.DISK, "posix", "/a"),
    PIC: StorageElement(PIC, "pic", "PIC", SiteKind.DATA_CENTRE, Media.DISK, "posix", "/b"),
    DESY: StorageElement(DESY, "desy", "DESY", SiteKind.DATA_CENTRE, Media.DISK, "posix", "/c"),
    CSCS: StorageElement(CSCS, "cscs", "CSCS", SiteKind.DATA_CENTRE, Media.DISK, "posix", "/d"),
    TAPE: StorageElement(TAPE, "tape", "PIC", SiteKind.DATA_CENTRE, Media.TAPE, "posix", "/e"),
}
RAW = Policy(1, "raw", {}, copies=2, free_on_site=True)


def replica(storage_id: int, state: State = State.AVAILABLE, age: timedelta = timedelta(0)) -> Replica:
    return Replica(storage_id, state, NOW - age, NOW - age)


def file(*replicas: Replica, arriving: tuple[int, ...] = (), set_id: int = 0) -> FileCopies:
    return FileCopies(1, set_id, replicas, arriving)


def test_the_first_copy_goes_to_one_data_centre_only_so_that_the_sites_line_is_used_once():
    plan = plan_copies(RAW, file(replica(ON_SITE)), STORAGES, NOW)
    assert len(plan.copy_to) == 1
    assert plan.free == ()


def test_nothing_more_is_planned_while_the_first_copy_is_under_way():
    assert plan_copies(RAW, file(replica(ON_SITE), arriving=(PIC,)), STORAGES, NOW).copy_to == ()


def test_the_second_copy_goes_to_another_centre():
    plan = plan_copies(RAW, file(replica(ON_SITE), replica(PIC)), STORAGES, NOW)
    assert len(plan.copy_to) == 1
    assert plan.copy_to[0] in (DESY, CSCS)


def test_two_storages_of_one_centre_count_once():
    both_at_pic = file(replica(PIC), replica(TAPE))
    assert len(plan_copies(RAW, both_at_pic, STORAGES, NOW).copy_to) == 1


@pytest.mark.parametrize("state", [State.SUSPECT, State.LOST, State.DELETING])
def test_a_copy_that_is_not_available_does_not_count(state: State):
    plan = plan_copies(RAW, file(replica(PIC), replica(DESY, state)), STORAGES, NOW)
    assert len(plan.copy_to) == 1


def test_a_lost_copy_may_be_made_again_where_it_was_when_there_is_no_other_place():
    two_centres = {k: v for k, v in STORAGES.items() if k in (PIC, DESY)}
    assert plan_copies(RAW, file(replica(PIC), replica(DESY, State.LOST)), two_centres, NOW).copy_to == (DESY,)


def test_the_on_site_replica_goes_when_two_centres_have_verified_copies():
    assert plan_copies(RAW, file(replica(ON_SITE), replica(PIC), replica(DESY)), STORAGES, NOW).free == (ON_SITE,)


def test_the_on_site_replica_stays_while_a_copy_is_suspect():
    plan = plan_copies(RAW, file(replica(ON_SITE), replica(PIC), replica(DESY, State.SUSPECT)), STORAGES, NOW)
    assert plan.free == ()


def test_a_policy_with_one_copy_still_frees_only_with_two():
    one = Policy(1, "one", {}, copies=1, free_on_site=True)
    plan = plan_copies(one, file(replica(ON_SITE), replica(PIC)), STORAGES, NOW)
    assert plan.free == ()
    assert plan.look_again is not None


def test_the_on_site_replica_stays_for_its_minimum_age_and_is_looked_at_again_then():
    patient = Policy(1, "patient", {}, copies=2, free_on_site=True, min_age=timedelta(hours=48))
    copies = file(replica(ON_SITE, age=timedelta(hours=1)), replica(PIC), replica(DESY))
    plan = plan_copies(patient, copies, STORAGES, NOW)
    assert plan.free == ()
    assert plan.look_again == NOW + timedelta(hours=47)


def test_a_verification_of_last_month_is_no_evidence_for_a_deletion():
    old = file(replica(ON_SITE), replica(PIC), replica(DESY, age=MAX_VERIFY_AGE + timedelta(seconds=1)))
    assert "1 of 2 data centres" in may_free(old, ON_SITE, 2, STORAGES, NOW)
    plan = plan_copies(RAW, old, STORAGES, NOW)
    assert plan.free == ()
    assert plan.verify == (DESY,), "so that copy is read again, and then the site is freed"
    assert plan.look_again is not None


def test_a_copy_at_a_data_centre_is_never_freed_by_policy():
    assert "not at an observatory" in may_free(file(replica(PIC), replica(DESY), replica(CSCS)), PIC, 2, STORAGES, NOW)


def test_files_of_one_set_lie_together_and_sets_spread_evenly():
    first = [plan_copies(RAW, file(replica(ON_SITE), set_id=n), STORAGES, NOW).copy_to[0] for n in range(300)]
    assert {first.count(target) for target in (PIC, DESY, CSCS)} == {100}
    assert len({plan_copies(RAW, file(replica(ON_SITE), set_id=7), STORAGES, NOW).copy_to for _ in range(5)}) == 1


def test_when_there_are_not_enough_centres_the_reason_is_told():
    one_centre = {k: v for k, v in STORAGES.items() if k in (ON_SITE, PIC)}
    plan = plan_copies(RAW, file(replica(ON_SITE), replica(PIC)), one_centre, NOW)
    assert "wants 2 copies on disk" in plan.blocked


def test_without_any_good_copy_nothing_can_be_copied_and_that_is_told():
    plan = plan_copies(RAW, file(replica(PIC, State.SUSPECT)), STORAGES, NOW)
    assert plan.copy_to == ()
    assert "no verified copy is left" in plan.blocked


replicas = st.lists(
    st.builds(
        replica,
        st.sampled_from(list(STORAGES)),
        st.sampled_from(list(State)),
        st.timedeltas(timedelta(0), timedelta(days=14)),
    ),
    unique_by=lambda r: r.storage_id,
)
policies = st.builds(
    Policy,
    st.just(1),
    st.just("any"),
    st.just({}),
    copies=st.integers(1, 4),
    media=st.sampled_from(Media),
    free_on_site=st.booleans(),
    min_age=st.timedeltas(timedelta(0), timedelta(days=3)),
)


@given(policies, replicas, st.sets(st.sampled_from([PIC, DESY, CSCS, TAPE])), st.integers(0, 1000))
def test_whatever_is_there_no_plan_endangers_a_file(
    policy: Policy, have: list[Replica], arriving: set[int], set_id: int
):
    copies = FileCopies(1, set_id, tuple(have), tuple(arriving))
    plan = plan_copies(policy, copies, STORAGES, NOW)
    good = {r.storage_id for r in have if r.state is State.AVAILABLE}
    for storage_id in plan.free:
        left = {STORAGES[s].site for s in good - {storage_id} if STORAGES[s].site_kind is SiteKind.DATA_CENTRE}
        assert len(left) >= 2, "a deletion must leave verified copies at two data centres"
        assert STORAGES[storage_id].site_kind is SiteKind.OBSERVATORY
        assert not plan.copy_to, "what is still to be copied is not deleted"
    for target in plan.copy_to:
        assert target not in good | arriving, "a copy that exists or is coming is not made again"
        assert STORAGES[target].media is policy.media
        assert good, "there must be something to copy from"
    assert len({STORAGES[t].site for t in plan.copy_to}) == len(plan.copy_to)


# --- where copies go -------------------------------------------------------------------------------------------
def at(storage_id: int, name: str, site: str, latitude: float | None = None, longitude: float | None = None, **more):
    media = more.pop("media", Media.DISK)
    return StorageElement(
        storage_id, name, site, SiteKind.DATA_CENTRE, media, "posix", "/x", country=more.pop("country", ""),
        latitude=latitude, longitude=longitude, attributes={k: str(v) for k, v in more.items()},
    )  # fmt: skip


FOUR = {
    ON_SITE: STORAGES[ON_SITE],
    2: at(2, "pic", "PIC", 41.5, 2.11, country="ES", tier=1),
    3: at(3, "ifae", "IFAE", 41.5, 2.1, country="ES", tier=2),
    4: at(4, "desy", "DESY", 52.3, 13.3, country="DE", tier=2),
    5: at(5, "cscs", "CSCS", 46.0, 8.95, country="CH", tier=1),
    6: at(6, "vault", "DESY", 52.3, 13.3, country="DE", tier=1, media=Media.TAPE),
}


@pytest.mark.parametrize("set_id", range(6))
def test_copies_of_a_policy_lie_as_far_apart_as_it_asks(set_id: int):
    far = Policy(1, "far", {}, copies=3, min_distance=300)
    plan = plan_copies(far, file(replica(2), set_id=set_id), FOUR, NOW)
    assert set(plan.copy_to) == {4, 5}, "the institute next door is never chosen"


def test_too_few_places_far_enough_are_told():
    plan = plan_copies(Policy(1, "far", {}, copies=3, min_distance=900), file(replica(2)), FOUR, NOW)
    assert plan.copy_to == (4,)
    assert "3 copies on disk at distinct data centres, 900 km apart" in plan.blocked


def test_a_site_whose_place_is_not_known_is_never_far_away():
    there = FOUR | {7: at(7, "new", "NEW")}
    plan = plan_copies(Policy(1, "far", {}, copies=4, min_distance=100), file(replica(2)), there, NOW)
    assert 7 not in plan.copy_to


def test_the_distance_of_two_cities_is_known():
    between = distance(FOUR[2], FOUR[4])
    assert between is not None
    assert 1450 < between < 1550, "Barcelona to Zeuthen"


def test_a_policy_says_by_an_expression_where():
    tier1 = Policy(1, "tier1", {}, copies=2, at="tier=1")
    assert plan_copies(tier1, file(replica(4)), FOUR, NOW).copy_to[0] in (2, 5)
    have = file(replica(4), replica(3))
    assert set(plan_copies(tier1, have, FOUR, NOW).copy_to) == {2, 5}, "copies elsewhere do not count"


@pytest.mark.feature("S3-053")
def test_policies_add_up_and_one_copy_may_count_for_several():
    disks = Policy(1, "disks", {}, copies=2)
    tape = Policy(2, "tape", {}, copies=1, media=Media.TAPE, free_on_site=True)
    first = plan_file([disks, tape], file(replica(ON_SITE)), FOUR, NOW)
    assert len(first.copy_to) == 1, "the site's line is used once"
    second = plan_file([disks, tape], file(replica(ON_SITE), replica(2)), FOUR, NOW)
    assert {policy.name for _, policy in second.copy_to} == {"disks", "tape"}
    almost = file(replica(ON_SITE), replica(2), replica(5))
    assert plan_file([disks, tape], almost, FOUR, NOW).free == (), "not before every policy is fulfilled"
    whole = file(replica(ON_SITE), replica(2), replica(5), replica(6))
    assert plan_file([disks, tape], whole, FOUR, NOW).free == (ON_SITE,)
    assert plan_file([disks], whole, FOUR, NOW).free == (), "nobody asked for it"
