"""Files that lie beside a production document and are laid beside its jobs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lightkeeper.domain.errors import NotFound
from lightkeeper.domain.names import printable
from lightkeeper_ctao.dialect import PLAIN, Field
from lightkeeper_ctao.options import config_files

MAX_SANDBOX_FILE: Final = 1_000_000
OF_THE_JOB: Final = ("tool.cwl", "inputs.json", "inputs", "out")
"""Names in a job's folder that are not the author's."""


@dataclass(frozen=True, slots=True)
class Files:
    """Texts by the names that they have beside the job, the places of those that options name, and what is missing."""

    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    missing: tuple[str, ...] = ()


def beside(config: Mapping[str, Field], values: Mapping[str, Any], fetch: Callable[[str], bytes]) -> Files:
    """What a step's input_sandbox and options name. A configuration file need not be named twice; where it lies in
    folders, those become part of its name, for beside a job there are none."""
    wanted = [(config["input_sandbox"], name) for name in values.get("input_sandbox", ())]
    wanted += [(config["options"], name) for name in config_files(values.get("options", []))]
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    missing: list[str] = []
    for found, name in wanted:
        if name in places:
            continue
        parts = name.removeprefix("./").split("/")
        flat = "_".join(parts)
        if not all(PLAIN.match(part) for part in parts) or flat in OF_THE_JOB:
            raise found.wrong(f"'{printable(name)}' is not a plain file name", "files lie beside the document or below")
        if flat in texts:
            raise found.wrong(f"'{name}' and another file would both be {flat} beside the job", "rename one of them")
        try:
            texts[flat] = _text(found, name, fetch)
        except NotFound:
            missing.append(found.wrong(f"there is no file '{name}' beside the document").message)
        places[name] = flat
    return Files(texts, places, tuple(missing))


def _text(found: Field, name: str, fetch: Callable[[str], bytes]) -> str:
    content = fetch(name)
    if len(content) > MAX_SANDBOX_FILE:
        raise found.wrong(f"'{name}' has {len(content)} bytes; at most {MAX_SANDBOX_FILE} are taken")
    try:
        read = content.decode()
    except UnicodeDecodeError:
        raise found.wrong(f"'{name}' is not a text in UTF-8") from None
    if "\0" in read:
        raise found.wrong(f"'{name}' is not a text")
    return read
