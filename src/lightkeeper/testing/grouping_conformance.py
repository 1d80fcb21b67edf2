"""What every grouping plug-in must hold, for its tests:

@given(st.data(), st.integers(1, 30))
def test_mine(data, size):
    check_grouping(MINE, data.draw(waiting(n_keys=1)), data.draw(st.integers(0, 40)), size)
"""

from collections.abc import Sequence

from hypothesis import strategies as st

from lightkeeper.domain.grouping import Grouping, WaitingFile

VALUES = st.sampled_from(["a", "b", "17", "18.5", "-3", "", "nan", "1e999", None])


@st.composite
def waiting(draw: st.DrawFn, n_keys: int) -> list[WaitingFile]:
    """Files in the order of their ids, as they would wait."""
    ids = sorted(draw(st.sets(st.integers(1, 200), max_size=40)))
    return [
        WaitingFile(
            file_id,
            draw(st.integers(0, 50)),
            draw(st.integers(1, 3)),
            tuple(sorted(draw(st.sets(st.integers(1, 4), min_size=1)))),
            tuple(draw(VALUES) for _ in range(n_keys)),
        )
        for file_id in ids
    ]


def check_grouping(grouping: Grouping, files: Sequence[WaitingFile], cut: int, size: int) -> None:
    """Every file at most once, none forgotten, smaller groups only at a flush; the same files, the same groups."""
    ids = [file.file_id for file in files]

    def made(given: Sequence[WaitingFile], *, flush: bool) -> list[list[int]]:
        return [[file.file_id for file in group] for group in grouping.groups(given, size, flush=flush)]

    flushed, whole = made(files, flush=True), made(files, flush=False)
    assert sorted(i for group in flushed for i in group) == ids, "a flush takes every file once"
    assert all(flushed), "no task is empty"
    assert [group for group in flushed if group in whole] == whole, "a flush adds groups and changes none"
    assert made(files, flush=True) == flushed, "nothing but the files decides"

    left, taken = list[WaitingFile](), list[int]()
    for part in (files[:cut], files[cut:]):  # they come in parts, and whole groups go away
        known = sorted([*left, *part], key=lambda file: file.file_id)
        gone = [i for group in made(known, flush=False) for i in group]
        left = [file for file in known if file.file_id not in set(gone)]
        taken += gone
    taken += [i for group in made(left, flush=True) for i in group]
    assert sorted(taken) == ids, "what is left out is there the next time, and is in one task in the end"
