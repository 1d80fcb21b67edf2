"""Nights and simulated runs that lie somewhere are handed in, as their writers would."""

import re
from dataclasses import dataclass
from pathlib import Path

from lightkeeper_ctao.simtel import parse_run
from lightkeeper_ctao.simulate.places import (
    DELIVERY,
    MANIFEST,
    TRIGGER,
    copy,
    make_triggers,
    sync_folders,
    trigger_of,
)


@dataclass(frozen=True, slots=True)
class HandedIn:
    """Simulated runs that were handed in, and files whose names are not those of runs."""

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]


def hand_in(source: Path, root: Path) -> list[Path]:
    """Copy the night folder `source` below `<root>/ctao/acada`, make the triggers, return what was copied.

    A file that is there already with the same bytes is left alone, and so is its trigger, present or not.
    When the source has triggers of its own, only those are made.
    """
    found = sorted(path for path in source.rglob("*") if not path.name.startswith("."))
    own = {path.relative_to(source) for path in found if path.name.endswith(TRIGGER)}
    data = [path for path in found if path.is_file() and path.name != MANIFEST and not path.name.endswith(TRIGGER)]
    copied = [
        target for path in data if copy(path, target := root / DELIVERY / path.relative_to(source))
    ]  # fmt: skip
    sync_folders(copied)
    base = root / DELIVERY
    wanted = [target for target in copied if not own or trigger_of(target).relative_to(base) in own]
    for orphan in sorted(own - {trigger_of(path).relative_to(source) for path in data}):
        target = base / orphan
        target.parent.mkdir(parents=True, exist_ok=True)
        wanted.append(target.with_name(target.name.removesuffix(TRIGGER)))
    make_triggers(wanted)
    return copied


def hand_in_runs(source: Path, root: Path, *, runs: int, campaign: str) -> HandedIn:
    """Copy every simulated run below `source` to `<root>/ctao/simulation/<campaign>`, `runs` times each.

    Copies get run numbers of their own (10, 110, 210…), different for all files together, and triggers.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    copied: list[Path] = []
    used: set[int] = set()
    for path in sorted(path for path in source.rglob("*") if path.name.endswith((".simtel.zst", ".simtel.gz"))):
        meta, problems = parse_run(path.name)
        if problems:
            skipped.append(path)
            continue
        first = int(str(meta["runNumber"]))
        for number in range(runs):
            run = first + 100 * number
            while run in used:
                run += 1
            used.add(run)
            name = re.sub(r"run(\d+)", lambda old, run=run: f"run{run:0{len(old[1])}d}", path.name, count=1)
            target = root / "ctao" / "simulation" / campaign / name
            if copy(path, target):
                copied.append(target)
            files.append(target)
    sync_folders(copied)
    make_triggers(copied)
    return HandedIn(tuple(files), tuple(skipped))
