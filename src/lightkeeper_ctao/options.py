"""The options of a program: split as a shell would, but no shell sees them."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lightkeeper.domain.errors import nearest
from lightkeeper.domain.names import printable
from lightkeeper_ctao.dialect import Field

SET_BY_US: Final = {
    "i", "input", "o", "output", "l", "log-file", "provenance-log", "p", "pattern", "input-dir",
    "input_url", "input_files", "input_dir", "file_pattern", "output_path", "log_file", "provenance_log",
    "override_obs_id", "rng_seed",
}  # fmt: skip

_EVERY_TOOL: Final = "c config log-level log-file-level q quiet v verbose debug show-config show-config-json overwrite"
_EVERY_READER: Final = (
    "dl1-images dl1-parameters no-dl1-images no-dl1-parameters no-true-images no-true-parameters true-images "
    "true-parameters chunk-size n-jobs progress no-progress"
)
FLAGS: Final[Mapping[str, frozenset[str]]] = {
    program: frozenset(f"{_EVERY_TOOL} {own}".split())
    for program, own in {
        "ctapipe-process": "camera-frame image-cleaner-type m max-events monitoring-source no-recompute-dl1 progress "
        "no-progress no-recompute-dl2 no-write-images no-write-muon-parameters no-write-parameters no-write-showers "
        "recompute-dl1 recompute-dl2 reconstructor t allowed-tels write-images write-muon-parameters "
        "write-parameters write-showers",
        "ctapipe-merge": f"{_EVERY_READER} append dl2-subarray dl2-telescope monitoring no-dl2-subarray "
        "no-dl2-telescope no-monitoring no-r0-waveforms no-r1-waveforms no-telescope-events r0-waveforms r1-waveforms "
        "single-ob telescope-events",
        "ctapipe-apply-models": f"{_EVERY_READER} r reconstructor",
        "ctapipe-train-energy-regressor": "chunk-size cv-output n-events n-jobs",
        "ctapipe-train-particle-classifier": "background chunk-size cv-output n-events n-jobs signal signal-fraction",
    }.items()
}
"""Options of each program, as version 0.28 of ctapipe has them; besides these any `--Part.setting=` is one."""


def options(field: Field) -> list[str]:
    """The program's options as a list. Those that say what is read and written are the system's."""
    try:
        found = shlex.split(field.node.text) if field.node.value is not None else []
    except ValueError as error:
        raise field.wrong(f"cannot be split into words: {error}", "is a quote missing?") from None
    for word in found:
        name = word.partition("=")[0]
        short = name[:2] if word.startswith("-") and not word.startswith("--") else name
        if short.startswith("-") and {short.lstrip("-"), name.rpartition(".")[2].lstrip("-")} & SET_BY_US:
            raise field.wrong(f"option {printable(word)} is set by Lightkeeper", "leave it out")
    return found


def unknown_options(program: str, arguments: Iterable[str]) -> list[tuple[str, str]]:
    """Options that the program does not have, each with the nearest that it has; none for programs we know no
    options of."""
    known = FLAGS.get(program)
    if known is None:
        return []
    names = (word.partition("=")[0] for word in arguments if word.startswith("--") and "." not in word)
    return [(name, nearest(name, [f"--{flag}" for flag in known])) for name in names if name[2:] not in known]


def config_files(arguments: Sequence[str]) -> list[str]:
    """The configuration files that options name, as far as they would lie beside the job."""
    named: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before in ("-c", "--config"):
            named.append(word)
        elif word.startswith("--config="):
            named.append(word.partition("=")[2])
    return [name for name in named if not name.startswith("/")]


def with_files_at(arguments: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """The options with each configuration file named as it lies beside the job."""
    told: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before in ("-c", "--config"):
            told.append(places.get(word, word))
        elif word.startswith("--config="):
            named = word.partition("=")[2]
            told.append(f"--config={places.get(named, named)}")
        else:
            told.append(word)
    return told
