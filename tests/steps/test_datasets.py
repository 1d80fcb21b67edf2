"""Datasets: named queries whose numbers are always right, and lists that never change."""

import random
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from tests.conftest import World
from tests.steps.test_files import found, line, listed, reasons

from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound
from lightkeeper.steps import catalogue, datasets, files
from lightkeeper.steps.catalogue import Wanted
from lightkeeper.steps.datasets import Dataset, NewDataset
from lightkeeper.store import invariants

A, B, C, D = (f"/ctao/a/{name}.fits" for name in ("one", "two", "three", "zero"))


def create(world: World, name: str, query: str | dict[str, Any], **more: Any) -> int:
    return datasets.create(world.ctx, NewDataset(name, query), **more).files


def sizes(world: World) -> dict[str, int]:
    return {d.name: d.files for d in datasets.find(world.ctx)}


def names(world: World, name: str) -> list[str]:
    return b"".join(datasets.names(world.ctx, name)).decode().splitlines()


def virtual(world: World, n: int, prefix: str = "/ctao/v/f", **meta: Any) -> list[str]:
    """Names without data: many files at no cost."""
    lfns = [f"{prefix}{i:04}" for i in range(n)]
    said = ", ".join(f'"{key}": {value}' for key, value in meta.items())
    listed(world, *(f'{{"lfn": "{lfn}", "meta": {{{said}}}}}' for lfn in lfns), virtual=True)
    return lfns


def with_split(world: World) -> None:
    catalogue.define_key(world.ctx, MetaKey("split", KeyType.STRING, KeyLevel.FILE))


# --- creating ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-071", "S3-072", "S0-106")
def test_a_dataset_is_checked_made_once_and_counted(world: World):
    world.register(A, B)
    world.register(C, level=1)
    assert create(world, "raw", "level = 0") == 2
    with pytest.raises(Conflict, match="there is a dataset 'raw' already"):
        create(world, "raw", "level = 1")
    with pytest.raises(Invalid, match="levle"):
        create(world, "slip", "levle = 0")
    with pytest.raises(Invalid, match="is of type int"):
        create(world, "slip", {"level": "three"})
    assert [d.name for d in datasets.find(world.ctx)] == ["raw"]
    told = datasets.show(world.ctx, "raw")
    assert (told.status, told.files, told.text) == ("Dynamic", 2, "level = 0")
    assert told.bytes == sum(file.size for file in world.files() if file.lfn in (A, B))


def test_a_dry_run_says_what_a_dataset_would_hold_and_makes_none(world: World):
    world.register(A, B)
    assert create(world, "raw", "level = 0", dry_run=True) == 2
    assert datasets.find(world.ctx) == []


@pytest.mark.parametrize("name", ["", "with blank", "-minus", "a//b", "/", "x" * 251, "a\n", "ä", "a/../b", "*"])
def test_a_name_that_cannot_be_is_refused(world: World, name: str):
    with pytest.raises(Invalid, match="is not a name for a dataset"):
        create(world, name, "level = 0")


@pytest.mark.parametrize("query", ["", "  ", {}])
def test_a_dataset_of_everything_is_refused(world: World, query: str | dict[str, Any]):
    with pytest.raises(Invalid, match="needs a condition"):
        create(world, "all", query)


def test_a_description_is_kept_changed_and_bounded(world: World):
    datasets.create(world.ctx, NewDataset("raw", "level = 0", "for the 'paper' [1]"))
    assert datasets.show(world.ctx, "raw").description == "for the 'paper' [1]"
    assert datasets.describe(world.ctx, "raw", "").description == ""
    with pytest.raises(Invalid, match="2000 characters"):
        datasets.describe(world.ctx, "raw", "x" * 2001)
    with pytest.raises(Invalid, match="2000 characters"):
        datasets.create(world.ctx, NewDataset("other", "level = 0", "x" * 2001))


def test_a_short_name_is_enough_while_only_one_dataset_has_it(world: World):
    for name in ("/vo/prod6/gamma", "/vo/prod5/gamma", "/vo/prod5/pro_on", "/vo/prod5/proton"):
        create(world, name, "level = 0")
    assert datasets.show(world.ctx, "proton").name == "/vo/prod5/proton"
    assert datasets.show(world.ctx, "pro_on").name == "/vo/prod5/pro_on"
    assert datasets.show(world.ctx, "prod6/gamma").name == "/vo/prod6/gamma"
    with pytest.raises(Conflict, match="may be any of 2 datasets: /vo/prod5/gamma, /vo/prod6/gamma"):
        datasets.show(world.ctx, "gamma")
    with pytest.raises(Conflict, match="may be any of 2"):
        found(world, "dataset = gamma")
    with pytest.raises(NotFound, match="no dataset 'amma'"):
        datasets.show(world.ctx, "amma")
    create(world, "gamma", "level = 0")
    assert datasets.show(world.ctx, "gamma").name == "gamma"
    assert [d.name for d in datasets.find(world.ctx, "pro?on")] == ["/vo/prod5/pro_on", "/vo/prod5/proton"]
    assert [d.name for d in datasets.find(world.ctx, "/vo/prod6/*")] == ["/vo/prod6/gamma"]
    assert [d.name for d in datasets.find(world.ctx, "pro_on")] == ["/vo/prod5/pro_on"]


# --- counting ------------------------------------------------------------------------------------------------
QUERIES = {
    "of-sets": "level = 0",
    "of-files": "number = 7",
    "of-both": "level = 0 and number = 7",
    "of-either": "level = 0 or number = 7",
    "of-others": "level = 0 and size > 10B",
    "of-copies": "not (copies >= 1)",
}


def test_counts_follow_whatever_happens_to_files(world: World):
    for name, query in QUERIES.items():
        create(world, name, query)
    assert set(sizes(world).values()) == {0}
    world.register(A, B, number=7)
    world.register(C, level=1, number=7)
    world.register(D)
    assert sizes(world) == {
        "of-sets": 3, "of-files": 3, "of-both": 2, "of-either": 4, "of-others": 3, "of-copies": 0,
    }  # fmt: skip
    files.set_metadata(world.ctx, [A], {"number": 8})
    files.set_metadata(world.ctx, [D], {"level": 1})
    assert sizes(world) == {
        "of-sets": 2, "of-files": 2, "of-both": 1, "of-either": 3, "of-others": 2, "of-copies": 0,
    }  # fmt: skip
    files.supersede(world.ctx, [(B, A)], "better")
    files.mark_corrupted(world.ctx, [C], "bad")
    assert sizes(world) == {
        "of-sets": 1, "of-files": 0, "of-both": 0, "of-either": 1, "of-others": 1, "of-copies": 0,
    }  # fmt: skip
    files.restore(world.ctx, [B, C], "both are right")
    files.remove(world.ctx, [B], "not needed")
    assert sizes(world)["of-either"] == 2
    world.settle()
    assert sizes(world)["of-sets"] == 1
    world.register(B, number=7)  # the same content comes back
    assert sizes(world)["of-both"] == 1
    for name in QUERIES:
        recount = datasets.update(world.ctx, name)
        assert recount.said == recount.counted


def test_a_file_without_a_value_is_counted_as_the_language_says(world: World):
    world.register(A, B)
    world.register(C, zenith=60)
    for name, query, n in (
        ("not", "not (zenith < 40)", 3),
        ("missing", "missing(zenith)", 2),
        ("unequal", "zenith != 20", 1),
        ("no-number", "missing(number)", 3),
        ("neither", "level = 0 and not (number = 7)", 3),
    ):
        assert create(world, name, query) == n
    world.register(D, number=7)
    assert sizes(world) == {"not": 4, "missing": 3, "unequal": 1, "no-number": 3, "neither": 3}


def test_a_key_that_changes_its_level_takes_its_datasets_along(world: World):
    """While no file uses a key it may change; a dataset that waits for its values must not miss them."""
    key = MetaKey("wind", KeyType.FLOAT, KeyLevel.FILE)
    catalogue.define_key(world.ctx, key)
    create(world, "windy", "wind > 10")
    with pytest.raises(Conflict, match="windy"):
        catalogue.define_key(world.ctx, MetaKey("wind", KeyType.FLOAT, KeyLevel.SET))
    datasets.remove(world.ctx, "windy")
    assert catalogue.define_key(world.ctx, MetaKey("wind", KeyType.FLOAT, KeyLevel.SET)) == "changed"
    create(world, "windy", "wind > 10")
    world.register(A, wind=20)
    assert sizes(world) == {"windy": 1}


def test_counters_that_a_fault_falsified_are_mended(world: World):
    world.register(A, B)
    create(world, "dynamic", "level = 0")
    create(world, "frozen", "level = 0")
    digest = datasets.freeze(world.ctx, "frozen").digest
    world.value("UPDATE dataset_count SET n_files = n_files + 5, n_bytes = 3")
    assert [violation.split()[0] for violation in world.violations()] == ["I10", "I10"]
    for name in ("dynamic", "frozen"):
        recount = datasets.update(world.ctx, name)
        assert (recount.said.files, recount.counted.files) == (7, 2)
        assert datasets.update(world.ctx, name).said == recount.counted
    assert world.violations() == []
    assert datasets.show(world.ctx, "frozen").digest == digest
    world.value("DELETE FROM dataset_count")
    assert datasets.update(world.ctx, "dynamic").said.files == 0
    datasets.update(world.ctx, "frozen")


# --- freezing ------------------------------------------------------------------------------------------------
def test_a_frozen_dataset_is_exact_for_ever(world: World):
    world.register(A, B, C)
    create(world, "paper", "level = 0")
    frozen = datasets.freeze(world.ctx, "paper")
    assert frozen.status == "Frozen"
    assert frozen.digest == sha256(f"{A}\n{C}\n{B}\n".encode()).hexdigest()
    world.register(D)
    files.set_metadata(world.ctx, [A], {"level": 1})
    files.supersede(world.ctx, [(B, D)], "better")
    files.mark_corrupted(world.ctx, [C], "bad")

    def as_it_was() -> bool:
        now = datasets.show(world.ctx, "paper")
        return (now.files, now.bytes, now.digest) == (frozen.files, frozen.bytes, frozen.digest)

    assert as_it_was()
    assert names(world, "paper") == [A, C, B]
    assert found(world, "dataset = paper") == [A, C, B]
    assert datasets.freeze(world.ctx, "paper").digest == frozen.digest
    recount = datasets.update(world.ctx, "paper")
    assert recount.said == recount.counted
    assert as_it_was()
    assert "frozen dataset paper" in reasons(files.remove(world.ctx, [A], "x"))[A]
    released = datasets.release(world.ctx, "paper")
    assert (released.status, released.files, released.digest) == ("Dynamic", 1, None)
    assert names(world, "paper") == [D]
    assert datasets.release(world.ctx, "paper").files == 1
    world.register("/ctao/a/new")
    assert datasets.show(world.ctx, "paper").files == 2


@pytest.mark.parametrize("query", QUERIES.values())
def test_every_kind_of_dataset_can_be_frozen_and_released(world: World, query: str):
    world.register(A, B, number=7)
    world.register(C, level=1)
    listed(world, '{"lfn": "/ctao/v/nothing"}', virtual=True)
    held = create(world, "x", query)
    assert datasets.freeze(world.ctx, "x").files == held == len(names(world, "x"))
    world.register(D, number=7)
    assert datasets.show(world.ctx, "x").files == held
    assert world.violations() == []
    assert datasets.release(world.ctx, "x").files == len(found(world, query))
    assert world.violations() == []


def test_an_empty_dataset_can_be_frozen(world: World):
    create(world, "none", "level = 9")
    assert datasets.freeze(world.ctx, "none").digest == sha256().hexdigest()
    world.register(A, level=9)
    assert found(world, "dataset = none") == names(world, "none") == []


def test_a_freeze_that_was_cut_short_is_completed_by_the_next(world: World):
    world.register(A)
    create(world, "x", "level = 0")
    digest = datasets.freeze(world.ctx, "x").digest
    world.value("UPDATE dataset SET digest = NULL")  # as if the program had died before it noted the digest
    assert datasets.freeze(world.ctx, "x").digest == digest


# --- in queries ----------------------------------------------------------------------------------------------
def test_datasets_stand_in_queries_like_their_conditions(world: World):
    world.register(A, number=1)
    world.register(B, number=2)
    world.register(C, level=1, number=3)
    create(world, "low", "number < 3")
    create(world, "raw", "level = 0")
    datasets.freeze(world.ctx, "raw")
    assert found(world, "dataset = low") == found(world, "dataset = raw") == [A, B]
    assert found(world, "dataset = low and number = 2") == [B]
    assert found(world, "not dataset = low") == found(world, "dataset != low") == [C]
    assert found(world, "not dataset = raw") == found(world, "dataset not in (raw, low)") == [C]
    assert found(world, "dataset = low or level = 1") == found(world, "dataset in (raw) or level = 1") == [A, C, B]
    assert found(world, "not (dataset = raw and number = 1)") == [C, B]
    assert found(world, "dataset = raw and dataset = low and number = 1") == [A]
    assert found(world, "dataset in (low, raw)", sort="-name") == [A, B]
    assert found(world, "dataset = raw", at="north", limit=1) == [A]
    assert catalogue.count(world.ctx, Wanted("dataset = raw")).files == 2
    assert catalogue.count(world.ctx, Wanted("dataset = low or level = 1")).files == 3
    with pytest.raises(NotFound, match="no dataset 'rwa'"):
        found(world, "dataset = rwa")


def test_a_frozen_list_means_all_its_files_wherever_it_stands_in_a_query(world: World):
    world.register(A, B, C, D)
    create(world, "p", "name in (one.fits, two.fits)")
    create(world, "q", "name = three.fits")
    for name in ("p", "q"):
        datasets.freeze(world.ctx, name)
    files.mark_corrupted(world.ctx, [A, C, D], "bad")
    assert found(world, "dataset = p") == [A, B]
    assert found(world, "dataset in (p, q)") == [A, C, B]
    assert found(world, "dataset = p or dataset = q") == [A, C, B]
    assert found(world, "dataset = q or name = two.fits") == [C, B]
    assert found(world, "dataset = p or level = 0") == [A, B]  # but not zero.fits, which is on no list
    assert found(world, "not dataset = p") == []
    assert found(world, "not (not dataset = p)") == [A, B]
    assert found(world, "dataset = p and file_state = Current") == [B]
    assert catalogue.count(world.ctx, Wanted("dataset in (p, q)")).files == 3


def test_a_dataset_made_from_another_takes_its_conditions_over(world: World):
    world.register(A, number=1)
    world.register(B, number=2)
    create(world, "raw", "level = 0")
    assert create(world, "second", "dataset = raw and number = 2") == 1
    assert create(world, "rest", "level = 0 and not dataset = second") == 1
    datasets.remove(world.ctx, "raw")
    world.register(C, number=2)
    assert sizes(world) == {"rest": 1, "second": 2}
    datasets.freeze(world.ctx, "second")
    with pytest.raises(Invalid, match="not of frozen datasets"):
        create(world, "third", "dataset = second")


def test_datasets_are_found_by_what_they_fix_and_what_they_hold(world: World):
    world.register(A, number=7)
    create(world, "raw", "level = 0 and zenith < 40")
    create(world, "seven", "number = 7")
    create(world, "both", "level = 0 and number = 7")
    create(world, "either", "level = 0 or number = 7")
    datasets.freeze(world.ctx, "seven")
    files.mark_corrupted(world.ctx, [A], "bad")

    def told(datasets: list[Dataset]) -> list[str]:
        return [one.name for one in datasets]

    assert told(datasets.that_fix(world.ctx, {"level": "0"})) == ["both", "raw"]
    assert told(datasets.that_fix(world.ctx, {"level": "0", "number": "7"})) == ["both"]
    assert told(datasets.that_hold(world.ctx, A)) == ["seven"]
    files.restore(world.ctx, [A], "fine")
    assert told(datasets.that_hold(world.ctx, A)) == ["both", "either", "seven"]
    with pytest.raises(Invalid, match="levle"):
        datasets.that_fix(world.ctx, {"levle": "0"})
    with pytest.raises(NotFound):
        datasets.that_hold(world.ctx, B)


# --- dump and usage ------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-073")
def test_a_dump_is_complete_sorted_and_the_same_on_repeat(world: World):
    lfns = virtual(world, 1500, "/ctao/v/z", level=0) + virtual(world, 1500, "/ctao/a-b/z", level=0)
    create(world, "all", "level = 0")
    first = b"".join(datasets.names(world.ctx, "all"))
    assert first.decode().splitlines() == sorted(lfns)
    assert len(first.splitlines()) == datasets.show(world.ctx, "all").files
    assert b"".join(datasets.names(world.ctx, "all")) == first


def test_a_slow_reader_of_a_dump_holds_nothing_up(world: World):
    virtual(world, 10, level=0)
    create(world, "all", "level = 0")
    blocks = datasets.names(world.ctx, "all")
    assert world.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == 0
    virtual(world, 10, "/ctao/v/later", level=0)
    datasets.freeze(world.ctx, "all")
    datasets.remove(world.ctx, "all")
    assert len(b"".join(blocks).splitlines()) == 10
    with pytest.raises(NotFound):
        datasets.names(world.ctx, "all")


@pytest.mark.feature("S0-074")
def test_usage_is_the_sum_over_the_replicas(world: World):
    world.register(A, B)
    world.register(A, storage="east")
    world.register(C, level=1, storage="east")
    create(world, "raw", "level = 0")
    world.settle()  # both policies want two copies
    expected: dict[str, list[int]] = {}
    for file in world.files():
        for storage in world.copies(file.lfn) if file.meta["level"] == 0 else ():
            expected.setdefault(storage, []).append(file.size)
    told = {u.storage: (u.files, u.bytes) for u in datasets.usage(world.ctx, "raw")}
    assert told == {storage: (len(all_), sum(all_)) for storage, all_ in expected.items()}
    assert sum(files for files, _ in told.values()) == 4
    datasets.freeze(world.ctx, "raw")
    assert {u.storage: (u.files, u.bytes) for u in datasets.usage(world.ctx, "raw")} == told


# --- splitting -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "fractions", "parts"),
    [
        (10, "0.1,0.2,0.7", [1, 2, 7]),
        (10, "0.5,0.25,0.25", [5, 3, 2]),
        (7, "0.5,0.5", [4, 3]),
        (3, "0.1,0.2,0.7", [0, 1, 2]),
        (1, "0.3,0.3,0.4", [0, 1, 0]),
        (0, "0.5,0.5", [0, 0]),
        (4, "1", [4]),
    ],
)
def test_a_dataset_is_split_exactly(world: World, n: int, fractions: str, parts: list[int]):
    with_split(world)
    lfns = virtual(world, n, level=0)
    create(world, "all", "level = 0")
    told = datasets.split(world.ctx, "all", fractions)
    assert [abs(part.files - expected) <= 1 for part, expected in zip(told, parts, strict=True)] == [True] * len(parts)
    assert [name for part in told for name in names(world, part.dataset)] == lfns
    assert [datasets.show(world.ctx, part.dataset).files for part in told] == [part.files for part in told]
    if fractions == "0.1,0.2,0.7" and n == 10:
        assert [(part.value, part.dataset, part.files) for part in told] == [
            ("train_en", "all_train_en", 1),
            ("train_cl", "all_train_cl", 2),
            ("test", "all_test", 7),
        ]


def test_a_split_may_be_repeated_and_is_done_anew_only_when_asked(world: World):
    with_split(world)
    virtual(world, 10, level=0)
    create(world, "all", "level = 0")
    assert [p.files for p in datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"], dry_run=True)] == [5, 5]
    assert sizes(world) == {"all": 10}
    first = datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"])
    assert datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"]) == first
    assert sizes(world) == {"all": 10, "all_a": 5, "all_b": 5}
    with pytest.raises(Conflict, match="10 files of all are split already"):
        datasets.split(world.ctx, "all", "0.5,0.5", ["c", "d"])
    assert sizes(world) == {"all": 10, "all_a": 5, "all_b": 5}
    datasets.split(world.ctx, "all", "0.2,0.8", ["b", "c"], again=True)
    assert sizes(world) == {"all": 10, "all_a": 0, "all_b": 2, "all_c": 8}


@pytest.mark.parametrize("kept", [6, 4])
def test_other_fractions_for_the_same_parts_are_a_split_anew(world: World, kept: int):
    with_split(world)
    virtual(world, 10, level=0)
    create(world, "all", "level = 0")
    datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"])
    fractions = f"0.{kept},0.{10 - kept}"
    with pytest.raises(Conflict, match="split already"):
        datasets.split(world.ctx, "all", fractions, ["a", "b"])
    assert sizes(world) == {"all": 10, "all_a": 5, "all_b": 5}
    datasets.split(world.ctx, "all", fractions, ["a", "b"], again=True)
    assert sizes(world) == {"all": 10, "all_a": kept, "all_b": 10 - kept}


def test_a_frozen_dataset_is_split_into_frozen_parts(world: World):
    with_split(world)
    lfns = virtual(world, 4, level=0)
    create(world, "all", "level = 0")
    datasets.freeze(world.ctx, "all")
    virtual(world, 4, "/ctao/v/later", level=0)
    parts = datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"])
    assert [datasets.show(world.ctx, part.dataset).status for part in parts] == ["Frozen", "Frozen"]
    assert names(world, "all_a") + names(world, "all_b") == lfns
    assert datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"]) == parts


def test_parts_of_a_frozen_dataset_hold_what_its_list_holds(world: World):
    """Also files that are not Current any more, or have other metadata by now."""
    with_split(world)
    lfns = virtual(world, 6, level=0)
    create(world, "all", "level = 0")
    datasets.freeze(world.ctx, "all")
    files.mark_corrupted(world.ctx, [lfns[0]], "bad")
    files.set_metadata(world.ctx, [lfns[1]], {"level": 1})
    datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"])
    assert (names(world, "all_a"), names(world, "all_b")) == (lfns[:3], lfns[3:])
    with pytest.raises(Conflict, match="all_a is frozen, so its files stay"):
        datasets.split(world.ctx, "all", "0.4,0.6", ["a", "b"], again=True)


def test_a_part_whose_name_is_taken_stops_the_split_before_it_begins(world: World):
    with_split(world)
    virtual(world, 4, level=0)
    create(world, "all", "level = 0")
    create(world, "all_b", "level = 7")
    with pytest.raises(Conflict, match="there is a dataset 'all_b' already"):
        datasets.split(world.ctx, "all", "0.5,0.5", ["a", "b"])
    assert found(world, "exists(split)") == []
    assert sizes(world) == {"all": 4, "all_b": 0}


@pytest.mark.parametrize(
    ("fractions", "labels", "message"),
    [
        ("0.1,0.2", [], "sum to 0.3, not to 1"),
        ("0.5,0.6,-0.1", [], "more than 0"),
        ("a,b", [], "are no fractions"),
        ("nan,1", [], "more than 0"),
        ("", [], "are no fractions"),
        ("0.5,0.5", ["a"], "need 2 different names"),
        ("0.5,0.5", ["a", "a"], "need 2 different names"),
        ("0.25,0.25,0.25,0.25", [], "need 4 different names"),
        ("0.5,0.5", ["a b", "c"], "not a name for a dataset"),
    ],
)
def test_fractions_and_names_of_parts_must_be_right(world: World, fractions: str, labels: list[str], message: str):
    with_split(world)
    virtual(world, 4, level=0)
    create(world, "all", "level = 0")
    with pytest.raises(Invalid, match=message):
        datasets.split(world.ctx, "all", fractions, labels)
    assert found(world, "exists(split)") == []


# --- removing ------------------------------------------------------------------------------------------------
def test_a_removed_dataset_leaves_its_files(world: World):
    world.register(A)
    create(world, "raw", "level = 0")
    assert datasets.remove(world.ctx, "raw", dry_run=True) == "raw"
    assert sizes(world) == {"raw": 1}
    datasets.freeze(world.ctx, "raw")
    assert datasets.remove(world.ctx, "raw") == "raw"
    assert found(world) == [A]
    left = "SELECT count(*) FROM dataset_set NATURAL FULL JOIN dataset_file NATURAL FULL JOIN dataset_count"
    assert world.value(left) == 0
    with pytest.raises(NotFound):
        datasets.remove(world.ctx, "raw")
    assert create(world, "raw", "level = 0") == 1


def test_a_dataset_whose_list_a_transformation_works_on_stays(world: World):
    import json

    from lightkeeper.steps import produce

    world.register(A)
    create(world, "raw", "level = 0")
    datasets.freeze(world.ctx, "raw")
    produce.submit(world.ctx, "p", json.dumps({"steps": [{"query": {"level": 0}, "group_size": 1}]}), {})
    world.value("UPDATE transformation SET dataset_id = (SELECT dataset_id FROM dataset)")
    for change in (datasets.remove, datasets.release):
        with pytest.raises(Conflict, match="takes its files from the list of raw"):
            change(world.ctx, "raw")
    assert datasets.show(world.ctx, "raw").status == "Frozen"
    world.value("DELETE FROM pending_input")
    world.value("UPDATE transformation SET state = 'Completed'")
    assert datasets.remove(world.ctx, "raw") == "raw"
    assert world.value("SELECT count(*) FROM transformation WHERE dataset_id IS NULL") == 1


# --- many ----------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-044", "S0-072")
def test_650_datasets_are_listed_with_their_numbers(world: World):
    from time import monotonic

    virtual(world, 650, level=0)
    for number in range(650):
        create(world, f"/vo/prod{number % 5}/set{number:03}", f"level = 0 and zenith < {number}")
    files.set_metadata(world.ctx, found(world, "name like 'f000*'"), {"zenith": 600})
    begin = monotonic()
    told = datasets.find(world.ctx)
    took = monotonic() - begin
    assert [d.files for d in told] == [10 if int(d.name[-3:]) > 600 else 0 for d in told]
    assert len(told) == 650
    assert took < 5
    assert len(datasets.find(world.ctx, "set64?")) == 10
    assert len(datasets.find(world.ctx, "/vo/prod3/*")) == 130


# --- whatever happens ----------------------------------------------------------------------------------------
Meant = Callable[[dict[str, Any]], bool]
KINDS: dict[str, Meant] = {
    "level = 1": lambda m: m.get("level") == 1,
    "number = 1": lambda m: m.get("number") == 1,
    "level = 1 and number = 1": lambda m: m.get("level") == 1 and m.get("number") == 1,
    "level = 1 or number = 1": lambda m: m.get("level") == 1 or m.get("number") == 1,
    "not (level = 1)": lambda m: m.get("level") != 1,
    "level != 1 and missing(number)": lambda m: m.get("level") not in (1, None) and "number" not in m,
    "name like 'n1*'": lambda m: m["name"].startswith("n1"),
}


@pytest.mark.parametrize("seed", range(4))
def test_counters_equal_a_recount_after_anything(world: World, seed: int):
    """A random history, beside a model of it in a few lines."""
    chance = random.Random(seed)
    model: dict[str, dict[str, Any]] = {}
    state: dict[str, str] = {}
    frozen: dict[str, list[str]] = {}
    known: dict[str, str] = {}

    def some() -> list[str]:
        return chance.sample(sorted(model), min(len(model), chance.randint(1, 5)))

    for step in range(120):
        match chance.choice(["add", "add", "meta", "meta", "state", "create", "freeze", "release", "remove", "forget"]):
            case "add":
                lfns = [f"/ctao/r/n{chance.randint(0, 40)}" for _ in range(4)]
                meta = chance.choice([{}, {"level": 0}, {"level": 1}, {"level": 1, "number": 1}, {"number": 1}])
                listed(world, *(line(lfn, lfn.encode() * 3).replace('{"level": 0}', str(meta).replace("'", '"'))
                                for lfn in lfns), at="north")  # fmt: skip
                for lfn in lfns:
                    if lfn not in model or state[lfn] == "Removed":
                        model.setdefault(lfn, {"name": lfn.rpartition("/")[2]} | meta)
                        state[lfn] = "Current"
            case "meta" if model:
                lfns, number = some(), chance.randint(0, 2)
                if chance.random() < 0.3:
                    files.set_metadata(world.ctx, lfns, {}, ["level", "number"])
                    for lfn in lfns:
                        model[lfn] = {"name": model[lfn]["name"]}
                else:
                    values = {"level": number, "number": number} if chance.random() < 0.5 else {"level": number}
                    files.set_metadata(world.ctx, lfns, values)
                    for lfn in lfns:
                        model[lfn] |= values
            case "state" if model:
                lfns = some()
                match chance.choice(["corrupted", "restore", "supersede", "remove"]):
                    case "corrupted":
                        for lfn in files.mark_corrupted(world.ctx, lfns, "test").done:
                            state[lfn] = "Corrupted"
                    case "restore":
                        for lfn in files.restore(world.ctx, lfns, "test").done:
                            state[lfn] = "Current"
                    case "supersede":
                        new = chance.choice(sorted(model))
                        for lfn in files.supersede(world.ctx, [(lfn, new) for lfn in lfns], "test").done:
                            state[lfn] = "Superseded"
                    case _:
                        for lfn in files.remove(world.ctx, lfns, "test").done:
                            state[lfn] = "Removed"
            case "create":
                query = chance.choice(sorted(KINDS))
                name = f"d{step}"
                create(world, name, query)
                known[name] = query
            case "freeze" if known:
                name = chance.choice(sorted(known))
                if name not in frozen:
                    frozen[name] = [
                        lfn for lfn, s in state.items() if s == "Current" and KINDS[known[name]](model[lfn])
                    ]
                datasets.freeze(world.ctx, name)
            case "release" if known:
                name = chance.choice(sorted(known))
                frozen.pop(name, None)
                datasets.release(world.ctx, name)
            case "remove" if len(known) > 5:
                name = chance.choice(sorted(known))
                datasets.remove(world.ctx, name)
                frozen.pop(name, None)
                del known[name]
            case "forget" if model:
                for lfn in files.unregister(world.ctx, some(), "test").done:
                    del model[lfn], state[lfn]
            case _:
                pass
        expected = {
            name: sorted(frozen[name]) if name in frozen
            else sorted(lfn for lfn, s in state.items() if s == "Current" and KINDS[query](model[lfn]))
            for name, query in known.items()
        }  # fmt: skip
        assert sizes(world) == {name: len(lfns) for name, lfns in expected.items()}
        for name in sorted(expected)[-2:]:
            assert names(world, name) == expected[name]
        with world.ctx.db.transaction() as conn:
            assert [v for v in invariants.violations(conn) if v.id != "I13"] == []
    for name in known:
        recount = datasets.update(world.ctx, name)
        assert recount.said == recount.counted
        datasets.remove(world.ctx, name)
    done = files.unregister(world.ctx, sorted(model), "end").done  # their bytes never were
    world.settle()
    assert set(done) | {lfn for lfn, s in state.items() if s == "Removed"} == set(model)


def test_errors_of_datasets_tell_what_to_do(world: World):
    create(world, "raw", "level = 0")
    for attempt in (
        lambda: create(world, "raw", "level = 0"),
        lambda: datasets.show(world.ctx, "rwa"),
        lambda: create(world, "", "level = 0"),
        lambda: create(world, "x", ""),
        lambda: datasets.split(world.ctx, "raw", "0.5"),
    ):
        with pytest.raises(LightkeeperError) as told:
            attempt()
        assert told.value.hint


def test_a_dry_run_of_a_release_tells_what_it_would_hold_and_keeps_the_list(world: World):
    world.register("/ctao/a/one.fits")
    datasets.create(world.ctx, NewDataset("paper", "level = 0"))
    datasets.freeze(world.ctx, "paper")
    world.register("/ctao/a/two.fits")
    assert datasets.release(world.ctx, "paper", dry_run=True).files == 2
    kept = datasets.show(world.ctx, "paper")
    assert (kept.status, kept.files) == ("Frozen", 1)
