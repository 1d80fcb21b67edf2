"""Names of products: from the names of what they are made from to logical file names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import MAX_LFN, Lfn, parse_lfn, split_lfn
from lightkeeper.domain.work import JobInput

_EXTENSIONS = re.compile(r"(\.(simtel|corsika|eventio|merged|dl[0-6]|fits|fz|zst|gz|h5|hdf5))+\Z", re.IGNORECASE)
_TASK = re.compile(r"_task\d+(_\d+)?\Z")
_RUN = re.compile(r"(?<![A-Za-z0-9])(?:run|tid)(\d{1,18})(?!\d)", re.IGNORECASE)
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]+")
MIN_STEM = 12


def run_number(name: str) -> int | None:
    """The run number that a file name tells: run<digits> or tid<digits>."""
    found = _RUN.search(name)
    return int(found[1]) if found else None


def run_of(source: JobInput) -> int | None:
    """The run number of an input: its metadata first, then its name."""
    known = source.meta.get("runNumber")
    if known is None:
        return run_number(split_lfn(source.lfn)[1])
    if not isinstance(known, str) or not known.isascii() or not known.isdigit():
        raise Invalid(f"{source.lfn} has runNumber {known!r}", hint="a run number is text of digits, like '00000012'")
    return int(known)


def obs_id_of(source: JobInput) -> int | None:
    """The observation id of an input, when its metadata tell one."""
    known = source.meta.get("obs_id")
    return known if isinstance(known, int) and not isinstance(known, bool) else None


def number_of(source: JobInput) -> int | None:
    """What an input is counted by: its run, else its observation."""
    run = run_of(source)
    return obs_id_of(source) if run is None else run


def block(number: int | None) -> str:
    """The directory that holds a thousand runs: 12345 is in 012xxx, an unknown run in none."""
    return "none" if number is None else f"{number // 1000:03d}xxx"


def stem_of(lfn: Lfn) -> str:
    """The name without the extensions of known formats and without the task that made it."""
    name = split_lfn(lfn)[1]
    return _TASK.sub("", _EXTENSIONS.sub("", name)) or name


def directory(
    body: Mapping[str, Any], meta: Mapping[str, MetaValue], transformation_id: int, number: int | None
) -> str:
    """Where a product lies in the catalogue; parts that are not known, such as a particle, are left out."""
    parts = [
        meta.get("MCCampaign"),
        meta.get("site"),
        meta.get("particle"),
        body["program"],
        str(transformation_id),
        meta.get("outputType"),
        block(number),
    ]
    return "/".join([body["base_path"], *(part for part in map(_part, parts) if part)])


def _part(value: object) -> str:
    """A value as part of a path: numbers with one decimal, anything a path cannot hold as '_'."""
    match value:
        case int() | float() if not isinstance(value, bool):
            text = f"{value:.1f}"
        case str():
            text = value
        case _:
            return ""
    return _NOT_ALLOWED.sub("_", text).lstrip("._-")


class Names:
    """Names for the products of one task: each only once, the same for every attempt, none too long.

    They carry the id of the task, because two tasks may be given files of one name from two directories.
    """

    def __init__(self, task_id: int, extension: str) -> None:
        self._task_id = task_id
        self._extension = extension
        self._given: set[str] = set()

    def give(self, folder: str, stem: str) -> Lfn:
        """A name in `folder` that begins with `stem`, cut when it would be too long."""
        for n in range(1, 1_000_000):
            end = f"_task{self._task_id}{'' if n == 1 else f'_{n}'}.{self._extension}"
            room = MAX_LFN - len(folder) - 1 - len(end)
            if room < MIN_STEM:
                raise Invalid(f"no room for a file name below {folder}", hint="take a shorter base_path")
            name = stem[:room] + end
            if name not in self._given:
                self._given.add(name)
                return parse_lfn(f"{folder}/{name}")
        raise Invalid(f"too many files named {stem} in one task")


def span(sources: Iterable[JobInput]) -> str:
    """What a merged file is called: its first and last run, else observation, else just 'merged'."""
    inputs = list(sources)
    for word, tell, width in (("run", run_of, 6), ("obs", obs_id_of, 1)):
        numbers = [number for number in map(tell, inputs) if number is not None]
        if len(numbers) == len(inputs):
            ends = dict.fromkeys([min(numbers), max(numbers)])
            return "-".join(f"{word}{number:0{width}d}" for number in ends)
    return "merged"
