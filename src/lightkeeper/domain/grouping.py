"""How files that wait are put into tasks. Each way is a plug-in (entry points `lightkeeper.grouping`); these are ours.

What every one of them must hold, and `testing/grouping_conformance.py` checks: a file is in one group at the most; with
`flush` none is left out, and without it only whole groups are made; the same files give the same groups.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lightkeeper.domain.errors import Invalid


class WaitingFile(NamedTuple):
    """A file that a data centre holds. `site_id`: where a task on it is done best; `storages`: all that hold it, in
    order; `values`: of the keys that it is grouped by, None for one that it does not have."""

    file_id: int
    size: int
    site_id: int
    storages: tuple[int, ...] = ()
    values: tuple[str | None, ...] = ()


class Grouping(Protocol):
    """One way to put files into tasks."""

    def check(self, size: int, keys: Sequence[str]) -> None:
        """Raises Invalid when it cannot be asked for so."""
        ...

    def groups(self, files: Sequence[WaitingFile], size: int, *, flush: bool) -> Iterable[Sequence[WaitingFile]]:
        """The groups that become tasks, of files in the order of their ids. What is left out waits for more, and is
        there again the next time; with `flush` nothing may be left out."""
        ...


def _one(_file: WaitingFile) -> int:
    return 1


@dataclass(frozen=True, slots=True)
class Kin:
    """Files of the same kin go together until their weight reaches the group's size: `whole` then. With `all_of_a_kin`
    there is no such size: a group is whole when no more will come."""

    kin: Callable[[WaitingFile, int], Hashable]
    weight: Callable[[WaitingFile], int] = _one
    takes_keys: bool = False
    all_of_a_kin: bool = False

    @property
    def only_counts(self) -> bool:
        """Whether files of one kin are all the same to it, so that their number tells the number of groups."""
        return self.weight is _one

    def check(self, size: int, keys: Sequence[str]) -> None:
        """Keys are given where they are needed, and nowhere else."""
        if self.takes_keys and not keys:
            raise Invalid("this grouping needs the metadata keys that it groups by", hint="group_by: KEY, KEY")
        if keys and not self.takes_keys:
            raise Invalid("this grouping takes no metadata keys", hint="grouping: keys, broadcast or sliced does")
        if size < 1:
            raise Invalid(f"a group of {size} cannot be")

    def groups(self, files: Sequence[WaitingFile], size: int, *, flush: bool) -> Iterator[Sequence[WaitingFile]]:
        """Kin by kin, in the order in which they first appear."""
        of_kin: defaultdict[Hashable, list[WaitingFile]] = defaultdict(list)
        for file in files:
            of_kin[self.kin(file, size)].append(file)
        for together in of_kin.values():
            if self.all_of_a_kin:
                if flush:
                    yield together
            else:
                yield from self._cut(together, size, flush)

    def _cut(self, files: Sequence[WaitingFile], size: int, flush: bool) -> Iterator[Sequence[WaitingFile]]:
        begin = weight = 0
        for end, file in enumerate(files, start=1):
            weight += self.weight(file)
            if weight >= size:
                yield files[begin:end]
                begin, weight = end, 0
        if flush and begin < len(files):
            yield files[begin:]


def _slice(file: WaitingFile, size: int) -> Hashable:
    """Which slice of its first key's values a file is in; what is no number makes a slice of its own."""
    value, *others = file.values
    try:
        return (float(value or "") // size, *others)
    except (ValueError, OverflowError):
        return (value, *others)


GROUPINGS: Mapping[str, Grouping] = {
    "number": Kin(lambda _file, _size: None),
    "size": Kin(lambda _file, _size: None, weight=lambda file: file.size),
    "site": Kin(lambda file, _size: file.site_id),
    "storage": Kin(lambda file, _size: file.storages),
    "keys": Kin(lambda file, _size: file.values, takes_keys=True),
    "broadcast": Kin(lambda file, _size: file.values, takes_keys=True, all_of_a_kin=True),
    "sliced": Kin(_slice, takes_keys=True, all_of_a_kin=True),
}
"""By number; by bytes; by number, never mixing sites; or sets of storages; or values of keys; all files of the same
values in one task; all files whose first key lies in the same slice, as wide as the group's size."""

NUMBER, SIZE, SITE, STORAGE, KEYS, BROADCAST, SLICED = GROUPINGS.values()
"""The same for entry points, which name one object each."""


def site_of(group: Sequence[WaitingFile]) -> int:
    """Where a task on these files is done best: where most of them are."""
    return Counter(file.site_id for file in group).most_common(1)[0][0]


def refuse_wrong(groups: Iterable[Sequence[WaitingFile]], files: Sequence[WaitingFile], *, flush: bool) -> None:
    """Raises Invalid when a plug-in took a file twice or not at all, or one that was not there."""
    taken = [file.file_id for group in groups for file in group]
    given = {file.file_id for file in files}
    if len(taken) != len(set(taken)) or not given.issuperset(taken):
        raise Invalid("the grouping put a file into two tasks, or one that does not wait: the plug-in is wrong")
    if flush and len(taken) != len(given):
        raise Invalid(f"the grouping left {len(given) - len(taken)} files out at a flush: the plug-in is wrong")
