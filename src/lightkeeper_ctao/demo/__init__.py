"""What the observatory shows of itself in `lightkeeper demo`."""

import json
import shutil
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path

from lightkeeper.domain.errors import Invalid
from lightkeeper.ports import DemoInput
from lightkeeper_ctao.simtel import SimtelReader
from lightkeeper_ctao.simulate import hand_in, hand_in_runs, simulate_night

NIGHT = date(2026, 3, 14)
CAMPAIGN = "DemoSimulation"
BAD = 5
OBSERVATIONS_BESIDE_RUNS = 3
"""Of the simulated night, when the events to process come from elsewhere: the night is then only preserved."""

_HERE = files(__name__)


class CtaoDemonstration:
    """`lightkeeper.ports.Demonstration` of the observatory: one northern night, four data centres."""

    def topology(self, home: Path) -> tuple[str, Sequence[Path]]:
        """The northern site and four data centres below `home`."""
        names = ["LaPalma-onsite", "PIC-disk", "DESY-disk", "CSCS-disk", "Frascati-disk", "PIC-tape"]
        document = (_HERE / "topology.yaml").read_text().replace("{home}", json.dumps(str(home))[1:-1])
        return document, [home / "storage" / name for name in names]

    def hand_in(self, home: Path, night: Path | None, events: Path | None, scale: int) -> DemoInput:
        """Hand in the night and the events; remembers in `home` that it was done."""
        done = home / "handed-in.json"
        if done.exists():
            known = json.loads(done.read_text())
            return DemoInput(known["files"], known["production"], known["sandbox"], tuple(known["told"]))
        onsite = home / "storage" / "LaPalma-onsite"
        told: list[str] = []
        n, production, sandbox = 0, "", {}
        if events is not None:
            _exists(events, "--events")
            n, production, sandbox = _hand_in_events(onsite, events, scale, told)
        if night is not None:
            _exists(night, "--night")
            copied = hand_in(night, onsite)
            n += len(copied)
            told.append(f"{len(copied)} files of {night.name}")
        if night is None or events is None:
            observations = scale if events is None else min(scale, OBSERVATIONS_BESIDE_RUNS)
            bad = BAD if night is None else 0
            made = simulate_night(onsite, night=NIGHT, observations=observations, events=24, bad=bad)
            n += len(made.files)
            told.append(f"{len(made.good)} simulated DL0 files of {observations} observations")
            told += [f"{len(made.bad)} damaged deliveries among them"] if made.bad else []
            if events is None:
                production, sandbox = _dl0_production(list(made.observations)), {}
        result = DemoInput(n, production, sandbox, tuple(told))
        temporary = done.with_suffix(".new")
        temporary.write_text(
            json.dumps({"files": n, "production": production, "sandbox": sandbox, "told": list(result.told)})
        )
        temporary.rename(done)
        return result


def _hand_in_events(onsite: Path, events: Path, scale: int, told: list[str]) -> tuple[int, str, dict[str, str]]:
    """Simulated runs when there are any below `events`, else observations in the layout of DL0."""
    if events.is_file():
        alone = onsite.parent.parent / "events"
        alone.mkdir(exist_ok=True)
        shutil.copy(events, alone)
        events = alone
    runs = [path for path in events.rglob("*") if SimtelReader().recognises("/" + path.name)]
    if runs:
        handed = hand_in_runs(events, onsite, runs=scale, campaign=CAMPAIGN)
        if not handed.files:
            raise Invalid(
                f"--events {events}: no file has the name of a simulated run",
                hint="like gamma_run000010_….simtel.zst",
            )
        told.append(f"{len(handed.files)} runs of {len(handed.files) // scale} files of real simulated events")
        if handed.skipped:
            told.append(f"{len(handed.skipped)} files left out, whose names tell no run")
        document = (_HERE / "simulated.yaml").read_text()
        return len(handed.files), document, {"process.yaml": (_HERE / "process.yaml").read_text()}
    copied = hand_in(events, onsite)
    if not copied:
        raise Invalid(f"--events {events}: it holds neither simulated runs (*.simtel.zst) nor DL0 files")
    told.append(f"{len(copied)} DL0 files of {events.name}")
    return len(copied), _dl0_production([]), {}


def _dl0_production(obs_ids: list[int]) -> str:
    """The production on observations; all that are registered when none is named."""
    document = (_HERE / "dl0.yaml").read_text()
    if not obs_ids:
        return document
    return document.replace("data_level: 0\n", f"data_level: 0\n      obs_id: {{in: {obs_ids}}}\n", 1)


def _exists(path: Path, option: str) -> None:
    if not path.exists():
        raise Invalid(f"{option}: there is no folder {path}")
