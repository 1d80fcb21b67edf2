"""Whatever is asked for and whatever happens to copies: the planner, played to the end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeeper.domain.catalog import Media, Replica, SiteKind, StorageElement
from lightkeeper.domain.policy import FileCopies, Planner, Policy, distance, may_delete, plan_copies, plan_file
from lightkeeper.domain.states import Replica as State

NOW = datetime(2030, 1, 2, 3, tzinfo=UTC)
ON_SITE = 1
PLACES = [(28.8, -17.9), (41.5, 2.1), (52.4, 13.6), (46.0, 9.0), (41.8, 12.7)]
STORAGES = {ON_SITE: StorageElement(ON_SITE, "onsite", "Mountain", SiteKind.OBSERVATORY, Media.DISK, "posix", "/")} | {
    n: StorageElement(
        n,
        f"s{n}",
        f"Site{n % 4}",  # two storages share a site
        SiteKind.DATA_CENTRE,
        Media.TAPE if n == 7 else Media.DISK,
        "posix",
        "/",
        latitude=PLACES[n % 4][0],
        longitude=PLACES[n % 4][1],
        attributes={"tier": str(n % 2)},
    )
    for n in range(2, 8)
}

policies = st.builds(
    Policy,
    st.just(0),
    st.just(""),
    st.just({}),
    copies=st.integers(1, 3),
    media=st.sampled_from([Media.DISK, Media.DISK, Media.TAPE]),
    free_on_site=st.booleans(),
    at=st.sampled_from(["", "", "tier=1", "kind=data-centre\\s3"]),
    min_distance=st.sampled_from([0, 0, 300]),
    source=st.sampled_from(["", "", "kind=data-centre"]),
)
asked = st.lists(policies, min_size=1, max_size=4).map(
    lambda found: [replace(p, policy_id=n, name=f"p{n}") for n, p in enumerate(found)]
)
START = FileCopies(1, 0, (Replica(ON_SITE, State.AVAILABLE, NOW, NOW),))


def is_there(file: FileCopies, storage_id: int) -> bool:
    return any(r.storage_id == storage_id and r.state is State.AVAILABLE for r in file.replicas)


def arrive(file: FileCopies, storage_id: int) -> FileCopies:
    """A transfer comes to its end: the copy was read back."""
    others = tuple(r for r in file.replicas if r.storage_id != storage_id)
    arriving = tuple(s for s in file.arriving if s != storage_id)
    return replace(file, replicas=(*others, Replica(storage_id, State.AVAILABLE, NOW, NOW)), arriving=arriving)


def played(policies: list[Policy], file: FileCopies) -> FileCopies:
    """The file when nothing is planned any more, everything having arrived; checked at every step."""
    for _ in range(30):
        plan = plan_file(policies, file, STORAGES, NOW)
        for storage_id in plan.free:
            assert may_delete(file, storage_id, policies, STORAGES, NOW) == "", "freed without evidence"
        targets = [storage_id for storage_id, _ in plan.copy_to]
        assert len(set(targets)) == len(targets), "one copy is planned twice"
        assert not set(targets) & set(file.arriving), "a copy that is under way is planned again"
        assert not any(is_there(file, storage_id) for storage_id in targets), "a copy that is there is planned again"
        if not targets and not file.arriving:
            return replace(file, replicas=tuple(r for r in file.replicas if r.storage_id not in plan.free))
        file = replace(file, arriving=(*file.arriving, *targets))
        file = arrive(file, file.arriving[0])
    raise AssertionError("it comes to no end")


def sites_of(policy: Policy, file: FileCopies) -> set[str]:
    return {
        STORAGES[r.storage_id].site
        for r in file.replicas
        if r.state is State.AVAILABLE and policy.takes(STORAGES[r.storage_id])
    }


@given(policies)
@settings(max_examples=200, deadline=None)
def test_one_policy_gets_as_many_copies_as_it_asks_for_at_distinct_sites_and_never_more(policy: Policy):
    end = played([policy], START)
    made = [r for r in end.replicas if r.storage_id != ON_SITE]
    assert len(made) <= policy.copies
    assert len(sites_of(policy, end)) == len(made), "each at another site, where the policy takes it"
    assert len(made) == policy.copies or plan_copies(policy, end, STORAGES, NOW).blocked
    if policy.min_distance:
        centres = [STORAGES[r.storage_id] for r in made]
        pairs = [(a, b) for a in centres for b in centres if a is not b]
        assert all((distance(a, b) or 0) >= policy.min_distance for a, b in pairs)


@given(asked)
@settings(max_examples=200, deadline=None)
def test_policies_together_end_fulfilled_or_say_why_not(policies: list[Policy]):
    end = played(policies, START)
    assert len([r for r in end.replicas if r.storage_id != ON_SITE]) <= sum(policy.copies for policy in policies)
    for policy in policies:
        plan = plan_copies(policy, end, STORAGES, NOW)
        assert plan.fulfilled or plan.blocked
    if not is_there(end, ON_SITE):
        assert all(len(sites_of(policy, end)) >= policy.copies for policy in policies), "freed before all is fulfilled"


@given(asked, st.randoms())
@settings(max_examples=200, deadline=None)
def test_the_order_of_policies_changes_nothing_of_what_is_fulfilled(policies: list[Policy], random):
    policies = [replace(policy, min_distance=0) for policy in policies]
    turned = policies.copy()
    random.shuffle(turned)
    one, other = played(policies, START), played(turned, START)
    for policy in policies:
        assert plan_copies(policy, one, STORAGES, NOW).fulfilled == plan_copies(policy, other, STORAGES, NOW).fulfilled


@given(asked, st.lists(st.tuples(st.sampled_from(sorted(STORAGES)), st.sampled_from([State.SUSPECT, State.LOST]))))
@settings(max_examples=200, deadline=None)
def test_copies_that_are_lost_are_made_again_while_one_is_left(policies: list[Policy], losses: list[tuple[int, State]]):
    policies = [replace(policy, min_distance=0, source="", at="") for policy in policies]
    file = played(policies, START)
    for storage_id, state in losses:
        good = [r for r in file.replicas if r.state is State.AVAILABLE]
        if len(good) > 1:
            file = replace(
                file,
                replicas=tuple(replace(r, state=state) if r.storage_id == storage_id else r for r in file.replicas),
            )
    end = played(policies, file)
    for policy in policies:
        assert plan_copies(policy, end, STORAGES, NOW).fulfilled or plan_copies(policy, end, STORAGES, NOW).blocked


@given(asked, st.lists(st.sets(st.sampled_from(sorted(STORAGES)), min_size=1), min_size=1, max_size=5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_files_that_are_planned_together_are_planned_as_each_alone(
    policies: list[Policy], where: list[set[int]], old: bool
):
    then = NOW - timedelta(days=30 if old else 0)
    files = [
        FileCopies(
            n,
            n % 2,
            tuple(Replica(s, State.AVAILABLE, then, NOW) for s in sorted(storages)),
            policies=tuple(policy.policy_id for policy in policies),
        )
        for n, storages in enumerate(where)
    ]
    planner = Planner(policies, STORAGES, NOW)
    assert [planner.plan(file) for file in files] == [plan_file(policies, file, STORAGES, NOW) for file in files]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(1, 300))
def test_what_is_planned_never_exceeds_the_quota(sizes: list[int], quota: int):
    policy = Policy(1, "small", {}, copies=2, quota=quota)
    planner = Planner([policy], STORAGES, NOW)
    planned = 0
    for n, size in enumerate(sizes):
        file = replace(arrive(START, 2), file_id=n, size=size, policies=(1,))
        planned += size * len(planner.plan(file).copy_to)
    assert planned <= quota
    assert planner.policies[1].used == planned
