"""Files are put into tasks: every file once, none forgotten, smaller groups only at a flush."""

from importlib.metadata import entry_points

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.grouping import GROUPINGS, WaitingFile, refuse_wrong, site_of
from lightkeeper.testing.grouping_conformance import check_grouping, waiting

KEYS = {"keys": 2, "broadcast": 1, "sliced": 2}


@pytest.mark.parametrize("name", GROUPINGS)
@given(st.data(), st.integers(1, 30), st.integers(0, 40))
def test_every_file_is_in_one_task_and_smaller_ones_come_at_the_flush(
    name: str, data: st.DataObject, size: int, cut: int
):
    check_grouping(GROUPINGS[name], data.draw(waiting(KEYS.get(name, 0))), cut, size)


def files(*sizes: int, site: int = 1) -> list[WaitingFile]:
    return [WaitingFile(n, size, site, (site,), (str(n % 2),)) for n, size in enumerate(sizes, start=1)]


def numbers(name: str, given: list[WaitingFile], size: int, flush: bool = False) -> list[list[int]]:
    return [[file.file_id for file in group] for group in GROUPINGS[name].groups(given, size, flush=flush)]


@pytest.mark.feature("S1-039")
def test_103_files_in_groups_of_10_are_11_tasks():
    given = files(*[1] * 103)
    assert [len(group) for group in numbers("number", given, 10)] == [10] * 10
    assert [len(group) for group in numbers("number", given, 10, flush=True)] == [*[10] * 10, 3]


def test_a_group_by_size_is_whole_when_its_bytes_reach_the_size():
    assert numbers("size", files(40, 70, 10, 200, 5), 100) == [[1, 2], [3, 4]]


def test_a_task_never_mixes_sites_sets_of_storages_or_values():
    given = [WaitingFile(n, 1, n % 2, (n % 2, 5), (str(n % 3),)) for n in range(12)]
    for name, kin in (("site", lambda f: f.site_id), ("storage", lambda f: f.storages), ("keys", lambda f: f.values)):
        for group in GROUPINGS[name].groups(given, 2, flush=True):
            assert len({kin(file) for file in group}) == 1


def test_all_files_of_a_value_go_together_however_many_once_no_more_will_come():
    given = [WaitingFile(n, 1, 1, (1,), (str(n % 2),)) for n in range(10)]
    assert numbers("broadcast", given, 3) == []
    assert numbers("broadcast", given, 3, flush=True) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_slices_are_ranges_of_the_first_key_as_wide_as_the_size():
    given = [WaitingFile(n, 1, 1, (1,), (str(run),)) for n, run in enumerate((5, 99, 100, 150, 250), start=1)]
    assert numbers("sliced", given, 100, flush=True) == [[1, 2], [3, 4], [5]]


def test_keys_are_given_where_they_are_needed_and_nowhere_else():
    with pytest.raises(Invalid, match="needs the metadata keys"):
        GROUPINGS["keys"].check(5, [])
    with pytest.raises(Invalid, match="takes no metadata keys"):
        GROUPINGS["size"].check(5, ["run"])


def test_a_plug_in_that_takes_a_file_twice_or_forgets_one_is_found_out():
    given = files(1, 1, 1)
    with pytest.raises(Invalid, match="two tasks"):
        refuse_wrong([given[:2], given[1:]], given, flush=False)
    with pytest.raises(Invalid, match="left 1 files out"):
        refuse_wrong([given[:2]], given, flush=True)
    with pytest.raises(Invalid, match="two tasks"):
        refuse_wrong([[WaitingFile(99, 1, 1)]], given, flush=False)


def test_a_task_is_done_best_where_most_of_its_files_are():
    assert site_of([*files(1, 1, site=2), *files(1, site=3)]) == 2


def test_every_grouping_of_ours_is_installed_as_a_plug_in():
    installed = {entry.name: entry.load() for entry in entry_points(group="lightkeeper.grouping")}
    assert {name: installed.get(name) for name in GROUPINGS} == dict(GROUPINGS)
