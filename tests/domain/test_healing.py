"""What a transformation needs to end on its own."""

from dataclasses import replace

import pytest

from lightkeeper.domain.healing import ParentFacts, Remedy, TransformationFacts, decide
from lightkeeper.domain.states import Transformation

FACTS = TransformationFacts(1, "t", tasks=4, done=4)


def parent(state: Transformation) -> dict[str, object]:
    return {"parents": (ParentFacts(7, state),)}


@pytest.mark.parametrize(
    ("changes", "what", "why"),
    [
        ({}, Remedy.COMPLETE, "all 4 tasks are done"),
        ({"done": 3}, Remedy.WAIT, "1 of 4 tasks"),
        ({"waiting": 2, "ready": 2}, Remedy.FLUSH, "2 files wait below the group size"),
        ({"waiting": 2, "ready": 1}, Remedy.WAIT, "1 file waits for a verified copy"),
        ({"open": True, "waiting": 2, "ready": 2}, Remedy.WAIT, "files that arrive later"),
        (parent(Transformation.ACTIVE), Remedy.WAIT, "its parent is not complete"),
        (parent(Transformation.STOPPED), Remedy.WAIT, "its parent is not complete"),
        (parent(Transformation.COMPLETED), Remedy.COMPLETE, "no more input will come"),
        (
            parent(Transformation.COMPLETED) | {"waiting": 3, "ready": 3},
            Remedy.FLUSH,
            "parent is complete",
        ),
        ({"done": 2, "failed": 2}, Remedy.DECIDE, "2 of 4 tasks failed in every attempt"),
        ({"tasks": 0, "done": 0}, Remedy.COMPLETE, "it has no task"),
        ({"waiting": 3, "ready": 2, "lost": 1}, Remedy.FLUSH, "2 files wait below the group size"),
        ({"waiting": 1, "lost": 1}, Remedy.DECIDE, "1 of its input files has no copy left"),
        ({"waiting": 2, "lost": 1}, Remedy.WAIT, "1 file waits for a verified copy"),
    ],
)
@pytest.mark.feature("S1-039", "S1-044", "S1-045")
def test_the_remedy_follows_from_the_facts(changes: dict[str, object], what: Remedy, why: str):
    decided = decide(replace(FACTS, **changes))
    assert decided.what is what
    assert why in decided.why
