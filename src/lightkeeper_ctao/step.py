"""A step of a production document with every value read; only its place among the others is open."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightkeeper_ctao.dialect import Field, text
from lightkeeper_ctao.step_types import StepType
from lightkeeper_ctao.written import WrittenStep


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the step's own, and where it is written."""

    field: Field
    value: Any


@dataclass(frozen=True, slots=True)
class Step:
    """`config` are its settings as written, `values` as read. `sandbox`: texts that are laid beside the job, `places`
    where those that options name are laid, `missing` what must still be handed in."""

    written: WrittenStep
    kind: StepType
    config: Mapping[str, Field]
    values: Mapping[str, Any]
    conditions: Mapping[str, Condition]
    of_dataset: Mapping[str, Any]
    sandbox: Mapping[str, str]
    places: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def number(self) -> int:
        """Its ID."""
        return self.written.number

    @property
    def dataset(self) -> str | None:
        """The dataset it takes, by name."""
        if self.written.dataset is None or self.kind.without_input:
            return None
        return text(self.written.dataset)
