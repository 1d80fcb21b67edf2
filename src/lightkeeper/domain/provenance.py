"""Where a file came from: activities, what they used and made (W3C PROV, IVOA Provenance Data Model 1.0)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class RanActivity:
    """One run of one tool as the tool itself logged it. `used` and `generated` are plain file names.

    `software` maps names to versions: the program, then its language, then every package. `uuid` is the tool's own
    identifier of the run.
    """

    name: str
    uuid: str
    started: datetime
    ended: datetime | None
    status: str
    software: Mapping[str, str]
    used: tuple[str, ...]
    generated: tuple[str, ...]
    configuration: Mapping[str, Any] = field(default_factory=dict[str, Any])
