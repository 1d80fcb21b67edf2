"""Production documents as they lie on the user's disk."""

from collections.abc import Sequence
from pathlib import Path

from lightkeeper.domain.errors import Invalid

MAX_SIZE = 1_000_000
AS_JOB = '"lightkeeper:as": job'


def read(file: Path) -> tuple[str, dict[str, str]]:
    """A document, and the small text files beside it that it names, or that these name."""
    document = _text(file)
    sandbox: dict[str, str] = {}
    around = [one for one in sorted(file.absolute().parent.iterdir()) if one.is_file() and one.name != file.name]
    texts = [document]
    while texts:
        text = texts.pop()
        for beside in around:
            if beside.name not in sandbox and beside.name in text and beside.stat().st_size <= MAX_SIZE:
                sandbox[beside.name] = beside.read_text(errors="replace")
                texts.append(sandbox[beside.name])
    return document, sandbox


def with_inputs(document: str, inputs: Sequence[Path], *, as_jobs: bool = False) -> str:
    """A CWL document followed by objects of inputs, each for one run of it; `as_jobs`: it is not split into steps."""
    objects = [_text(file) for file in inputs]
    if as_jobs:
        objects = [f"{text.rstrip()}\n{AS_JOB}" for text in objects] or [AS_JOB]
    return "\n---\n".join([document.rstrip(), *objects]) + "\n"


def _text(file: Path) -> str:
    if file.stat().st_size > MAX_SIZE:
        raise Invalid(f"{file} has {file.stat().st_size} bytes; a production document has at most {MAX_SIZE}")
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} is not a text file: {error}") from error
