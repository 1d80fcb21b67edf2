"""Commands of the earlier workload system under their old names, for whoever has them in scripts.

cta-prod-submit NAME FILE [ps|wms|local|dry-run]      lightkeeper production submit NAME FILE …
cta-prod-get-all                                      lightkeeper production list
cta-prod-create-workflow-config TEMPLATE              lightkeeper production generate TEMPLATE
cta-prod-create-workflow-evndisp-config TEMPLATE      … --kind evndisp
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from lightkeeper.domain.errors import Invalid, nearest

MODES: Mapping[str, tuple[str, ...]] = {
    "ps": ("submit",),
    "wms": ("submit", "--single-jobs"),
    "local": ("run", "--single-jobs"),
    "dry-run": ("submit", "--dry-run"),
}
"""Modes of cta-prod-submit; `ps` when none is given."""


def submit() -> None:
    """cta-prod-submit."""
    given = _arguments("cta-prod-submit NAME FILE [ps|wms|local|dry-run]", 2, 3)
    name, file, mode = (*given, "ps")[:3]
    if mode not in MODES:
        _refuse(f"there is no mode '{mode}'", nearest(mode, MODES))
    command, *options = MODES[mode]
    _run("production", command, name, file, *options)


def get_all() -> None:
    """cta-prod-get-all."""
    _arguments("cta-prod-get-all [--long]", 0, 0, flags=("--long",))
    _run("production", "list")


def workflow_config() -> None:
    """cta-prod-create-workflow-config."""
    (template,) = _arguments("cta-prod-create-workflow-config TEMPLATE", 1, 1)
    _run("production", "generate", template)


def evndisp_config() -> None:
    """cta-prod-create-workflow-evndisp-config."""
    (template,) = _arguments("cta-prod-create-workflow-evndisp-config TEMPLATE", 1, 1)
    _run("production", "generate", template, "--kind", "evndisp")


def _arguments(usage: str, least: int, most: int, flags: Sequence[str] = ()) -> list[str]:
    """What was given besides `flags`, as many as there may be."""
    given = [word for word in sys.argv[1:] if word not in flags]
    if "--help" in given or "-h" in given:
        print(f"Usage: {usage}")
        sys.exit(0)
    if not least <= len(given) <= most:
        _refuse("too many or too few words", usage)
    return given


def _refuse(what: str, hint: str) -> NoReturn:
    print(f"{Invalid.code}: {what}\n→ {hint}", file=sys.stderr)
    sys.exit(Invalid.exit_status)


def _run(*words: str) -> NoReturn:
    """Go on as the command of today."""
    os.execv(sys.executable, [sys.executable, "-m", "lightkeeper", *words])  # noqa: S606  # no shell is wanted
