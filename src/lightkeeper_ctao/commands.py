"""lightkeeper simulate: nights of a toy observatory, for tests, benchmarks and rehearsals."""

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.units import parse_bytes, readable_bytes

_err = Console(stderr=True)

simulate = typer.Typer(
    help="Nights of a toy observatory, valid in form, for tests and rehearsals.", no_args_is_help=True
)


@simulate.command("night")
def night(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Interface directory to write below.")],
    night: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The evening; today's, if not given.")] = None,
    site: Annotated[str, typer.Option(help="north, south or both: every telescope of the site.")] = "north",
    telescopes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these, like LSTN-01,MSTS-03; instead of --site.")
    ] = None,
    files: Annotated[int, typer.Option(min=0, help="Good deliveries.")] = 1000,
    size: Annotated[str, typer.Option(help="Size of each, like 11 MB; as small as can be, if not given.")] = "0",
    bad: Annotated[int, typer.Option(min=0, help="Damaged deliveries among them, of thirteen kinds in turn.")] = 0,
    observations: Annotated[int, typer.Option(min=1, help="Observations in the night.")] = 20,
    hours: Annotated[float, typer.Option(help="How long the night is.")] = 10.0,
    showers: Annotated[
        int,
        typer.Option(min=0, help="Events in each observation: showers that ctapipe reconstructs; --files is not used."),
    ] = 0,
    chunk: Annotated[int, typer.Option(min=1, help="With --showers: events in a file of a telescope at most.")] = 100,
    seed: Annotated[int, typer.Option(help="With --showers: another number gives other showers.")] = 1,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Each file appears when a night that begins now would write it.")
    ] = False,
    pace: Annotated[
        float | None, typer.Option(metavar="TIMES", help="So many times faster than a night goes; 3600: 1 h in 1 s.")
    ] = None,
    triggers: Annotated[bool, typer.Option("--triggers/--no-triggers", help="Announce each file.")] = True,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that write.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value.")] = False,
) -> None:
    """Write a night of DL0 files with their triggers, as the array control hands them over."""
    evening = _evening(night)
    names = _telescopes(site, telescopes)
    told: dict[str, Any] = {
        "directory": str(directory),
        "night": evening.isoformat(),
        "telescopes": names,
        "observations": observations,
    }
    if showers:
        told |= _showers(directory, evening, names, observations, showers, chunk, seed, bad, dry_run)
    else:
        told |= _stamped(
            directory,
            evening,
            names,
            files=files,
            size=parse_bytes(size) if size != "0" else 0,
            bad=bad,
            observations=observations,
            hours=hours,
            pace=pace if pace is not None else 1.0 if real_time else None,
            triggers=triggers,
            processes=processes,
            dry_run=dry_run,
        )
    if as_json:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    would = "would be written" if dry_run else f"written in {told['seconds']} s, {readable_bytes(told['bytes'])}"
    print(f"{told['files']} files and {told['bad']} damaged deliveries of {evening} {would}, below {directory}")


def _evening(text: str | None) -> Any:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise Invalid(f"'{text}' is no date", hint="--night 2026-03-14") from None


def _telescopes(site: str, names: str | None) -> list[str]:
    from lightkeeper_ctao.layout import ELEMENTS, NORTH, SOUTH

    if names is not None:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        for name in wanted:
            if name not in ELEMENTS or not ELEMENTS[name].is_telescope:
                raise Invalid(f"'{name}' is not a telescope of the observatory", hint=nearest(name, ELEMENTS))
        return wanted
    sites = {"north": (NORTH,), "south": (SOUTH,), "both": (NORTH, SOUTH)}
    if site not in sites:
        raise Invalid(f"'{site}' is not a site", hint="--site north, south or both")
    return [name for name, element in ELEMENTS.items() if element.is_telescope and element.site in sites[site]]


def _showers(
    directory: Path,
    evening: Any,
    names: list[str],
    observations: int,
    events: int,
    chunk: int,
    seed: int,
    bad: int,
    dry_run: bool,
) -> dict[str, Any]:
    from lightkeeper_ctao.simulate import simulate_night

    if dry_run:
        per = 2 + len(names) * -(-events // chunk)
        return {"files": observations * per, "bad": bad, "bytes": None, "seconds": None, "refused": []}
    begun = datetime.now(UTC)
    made = simulate_night(
        directory,
        night=evening,
        telescopes=names,
        observations=observations,
        events=events,
        chunk=chunk,
        seed=seed,
        bad=bad,
    )
    return {
        "files": len(made.good),
        "bad": len(made.bad),
        "bytes": sum(file.size for file in made.files),
        "seconds": round((datetime.now(UTC) - begun).total_seconds(), 1),
        "refused": [{"path": file.path, "fault": file.fault, "problem": file.problem} for file in made.bad],
    }


def _stamped(
    directory: Path, evening: Any, names: list[str], *, processes: int, dry_run: bool, **plan: Any
) -> dict[str, Any]:
    from lightkeeper_ctao.layout import ELEMENTS
    from lightkeeper_ctao.simulate import NightPlan, stamp_night

    wanted = NightPlan(directory, evening, tuple(ELEMENTS[name] for name in names), **plan)
    if dry_run:
        return {"files": wanted.files, "bad": wanted.bad, "bytes": None, "seconds": None, "refused": []}
    with _bar(wanted.files + wanted.bad) as tell:
        made = stamp_night(wanted, processes=processes, progress=tell)
    return {
        "files": made.files,
        "bad": len(made.bad),
        "bytes": made.size,
        "seconds": round(made.seconds, 1),
        "refused": [{"path": one.path, "fault": one.fault, "problem": one.problem} for one in made.bad],
    }


@contextmanager
def _bar(total: int) -> Any:
    columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as shown:
        task = shown.add_task("", total=total)

        def tell(n: int) -> None:
            shown.update(task, completed=n)

        told: Callable[[int], None] = tell
        yield told


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(simulate, name="simulate")
