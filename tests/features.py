"""Which rows of the acceptance list have a test that proves them: `make coverage-of-features`.

The list is `features.csv`, looked for in the folder of real files beside the project; without it only the marked rows
are shown.
"""

import csv
import re
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

LIST = Path(__file__).parents[1].parent / "shared" / "domain" / "features.csv"


class Marks:
    """Collects the marks of every test without running any."""

    def __init__(self) -> None:
        self.tests: defaultdict[str, list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("feature"):
                for row in mark.args:
                    self.tests[row].append(re.sub(r"\[.*", "", item.nodeid))


def main() -> int:
    marks = Marks()
    with redirect_stdout(StringIO()):
        pytest.main(["--collect-only", str(Path(__file__).parent)], plugins=[marks])
    known: dict[str, str] = {}
    if LIST.exists():
        with LIST.open() as file:
            known = {row["id"]: row["feature"] for row in csv.DictReader(file)}
    for row in sorted(marks.tests):
        names = sorted(set(marks.tests[row]))
        print(f"{row:9} {known.get(row, ''):60.60} {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}")
    unknown = set(marks.tests) - set(known) if known else set()
    if known:
        print(f"\n{len(marks.tests)} of {len(known)} rows have tests")
    if unknown:
        print(f"not in the list: {', '.join(sorted(unknown))}", file=sys.stderr)
    return bool(unknown)


if __name__ == "__main__":
    sys.exit(main())
