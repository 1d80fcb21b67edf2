"""Trained models that a step needs: which they are, and which step of the document makes them.

Options of the program name them, like `--reconstructor energy_model.pkl`. A model belongs to what it is applied to: it
has the metadata of the step's own products, without particle and sample, made by the program that trains it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightkeeper.domain.work import Companion
from lightkeeper_ctao.job_types import TOOLS

NOT_OF_MODELS = ("particle", "split", "merged", "outputType", "analysis_prog", "analysis_prog_version", "data_level")
"""Keys of products that say nothing of the model which made them."""
PROGRAM = "analysis_prog"


@dataclass(frozen=True, slots=True)
class Trained:
    """An earlier step of the document that trains a model, and what its products are."""

    number: int
    program: str
    made: Mapping[str, Any]


def named(job_type: str, options: list[str]) -> dict[str, str]:
    """The models that the options name: by their names the programs that train them."""
    known = TOOLS[job_type].hint.models if job_type in TOOLS else {}
    return {name: program for name, program in known.items() if any(name in word for word in options)}


def companions(
    models: Mapping[str, str], made: Mapping[str, Any], trained: list[Trained]
) -> tuple[tuple[Companion, ...], list[str]]:
    """The models of a step whose products are `made`: from the one step before that trains such a model, else from the
    catalogue. Told too are models that several steps train, of which none can be chosen."""
    found: list[Companion] = []
    unclear: list[str] = []
    for name, program in models.items():
        steps = [step for step in trained if step.program == program and _fits(step.made, made)]
        if len(steps) > 1:
            unclear.append(f"{name} is trained by the steps {', '.join(str(step.number) for step in steps)}")
        elif steps:
            found.append(Companion(name, {"outputType": "Model", PROGRAM: program}, steps[0].number))
        else:
            of_model = {key: value for key, value in made.items() if key not in NOT_OF_MODELS}
            found.append(Companion(name, of_model | {"outputType": "Model", PROGRAM: program}))
    return tuple(found), unclear


def _fits(model: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether nothing that both are known to be differs."""
    return all(model[key] == made[key] for key in model.keys() & made.keys() - set(NOT_OF_MODELS))
