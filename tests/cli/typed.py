"""Commands as they are typed, without a new process for each: `run(home, status, "dataset", "list")`."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

from lightkeeper.cli import main


def run(home: Path, status: int, *arguments: str, stdin: str = "") -> str:
    """Run a command; the exit status it must end with comes first. Answers of a success, else all that was said."""
    ended, said, complained = 0, StringIO(), StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["lightkeeper", "--home", str(home), *arguments], TextIOWrapper(BytesIO(stdin.encode()))
    try:
        with redirect_stdout(said), redirect_stderr(complained):
            main()
    except SystemExit as end:
        ended = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv, sys.stdin = before
    assert ended == status, said.getvalue() + complained.getvalue()
    assert bool(complained.getvalue()) is bool(status and "--json" not in arguments), complained.getvalue()
    return said.getvalue() + complained.getvalue() if status else said.getvalue()
