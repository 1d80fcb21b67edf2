"""What a batch did: one bad file does not stop the others."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Outcome(Generic[T]):
    """What was done, and what was not with the reason."""

    done: list[T] = field(default_factory=list[T])
    failed: list[tuple[T, str]] = field(default_factory=list[tuple[T, str]])
