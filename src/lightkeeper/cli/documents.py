"""Production documents as they lie on the user's disk."""

import re
from collections.abc import Sequence
from pathlib import Path

from lightkeeper.domain.errors import Invalid

MAX_SANDBOX = 1_000_000
_NAMED = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)*")
MAX_NAMED = 5_000
"""Words of a document that are looked for as files beside it."""
AS_JOB = '"lightkeeper:as": job'


def read(file: Path, inputs: Sequence[Path] = (), *, as_jobs: bool = False) -> tuple[str, dict[str, str]]:
    """A production document, and the small text files beside it, or in folders beside it, that it or one of these may
    name.

    A CWL document is followed by objects of `inputs`, each for one run of it; `as_jobs`: it is not split into steps.
    """
    document = _text(file)
    objects = [_text(one) for one in inputs]
    sandbox: dict[str, str] = {}
    texts = [document, *objects]
    while texts:
        for name in sorted(set(_NAMED.findall(texts.pop())))[:MAX_NAMED]:
            beside = file.parent / name
            known = name in sandbox or ".." in beside.parts or beside == file
            if not known and beside.is_file() and beside.stat().st_size <= MAX_SANDBOX:
                sandbox[name] = beside.read_text(errors="replace")
                texts.append(sandbox[name])
    if as_jobs:
        objects = [f"{text.rstrip()}\n{AS_JOB}" for text in objects] or [AS_JOB]
    if objects:
        document = "\n---\n".join([document.rstrip(), *objects]) + "\n"
    return document, sandbox


def _text(file: Path) -> str:
    if file.stat().st_size > MAX_SANDBOX:
        raise Invalid(f"{file} has {file.stat().st_size} bytes; a production document has at most {MAX_SANDBOX}")
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} is not a text file: {error}") from error
