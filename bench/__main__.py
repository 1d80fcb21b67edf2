"""Benchmarks: `make bench-NAME [SCALE=small|full] [JSON=FILE]`, or `make bench` for all.

Each prints a table of measures with their targets and, from the same run, the physical limit or the peer they are
compared with; JSON is a list of {measure, value, unit, target, met, peer, ratio}. They measure; they assert nothing.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. `peer` is the limit or the other system, measured in the same run; `ratio` is value / peer."""

    measure: str
    value: float
    unit: str
    target: float | None = None
    more_is_better: bool = True
    peer: str = ""
    peer_value: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.more_is_better else self.value <= self.target

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer_value if self.peer_value else None


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


GROUPS = {"transfers": ("bookkeeping", "deletions", "copy", "tpc", "link")}
"""Benchmarks that are run together under one name."""


def names() -> list[str]:
    return sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*names(), *GROUPS], help="all, when not given")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--peer", choices=("rucio",), help="measure this system in the same run, where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    results: list[Measure] = []
    for name in GROUPS.get(given.name, [given.name]) if given.name else names():
        module = importlib.import_module(f"bench.{name}")
        peer = {"peer": given.peer} if given.peer in getattr(module, "PEERS", ()) else {}
        results += module.run(given.scale, **peer)
    show(results)
    if given.json:
        keys = ("measure", "value", "unit", "target", "peer")
        lines = [{k: asdict(m)[k] for k in keys} | {"met": m.met, "ratio": m.ratio} for m in results]
        given.json.write_text(json.dumps(lines, indent=1))


def show(results: list[Measure]) -> None:
    table = Table("measure", "value", "unit", "target", "met", "compared with", "ratio", box=None)
    for m in results:
        met = {True: "yes", False: "NO", None: ""}[m.met]
        peer = f"{m.peer}: {m.peer_value:,.4g}" if m.peer_value else ""
        target = f"{m.target:,.4g}" if m.target is not None else ""
        table.add_row(m.measure, f"{m.value:,.4g}", m.unit, target, met, peer, f"{m.ratio:.2f}" if m.ratio else "")
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
