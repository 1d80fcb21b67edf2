"""What is accepted in a production document but looks like a slip of the pen: warnings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from lightkeeper.domain.errors import nearest
from lightkeeper.domain.names import printable
from lightkeeper_ctao.dialect import Field, fields, is_read_otherwise
from lightkeeper_ctao.options import unknown_options
from lightkeeper_ctao.outputs import single, values_of
from lightkeeper_ctao.step import Step
from lightkeeper_ctao.step_types import PROGRAMS, SIMPIPE_CONFIG

NEARLY = 0.7
"""Names that are alike to this part are a slip of one for the other."""


def slips(common: Mapping[str, Field], steps: Sequence[Step]) -> list[str]:
    """Every warning, each once."""
    told = [
        *_for_no_step(common, steps),
        *_versions(steps),
        *_odd_angles(steps),
        *_programs(steps),
        *_options(steps),
        *_campaigns(steps),
        *_simulations(steps),
    ]
    return list(dict.fromkeys(told))


def _place(found: Field) -> str:
    return f"line {found.node.line}, key '{printable(found.key)}' of {found.place}"


def _for_no_step(common: Mapping[str, Field], steps: Iterable[Step]) -> Iterator[str]:
    used = {key for step in steps for key in step.kind.keys}
    for key, found in common.items():
        if key not in used:
            yield f"{_place(found)}: no step of this document has such a key"


def _versions(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        found = step.config.get("version")
        if found is not None and (kind := is_read_otherwise(found)):
            text = found.node.text.strip()
            yield f'{_place(found)}: {text} is taken as a text; without quotes others read a {kind} (write "{text}")'


def _odd_angles(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        for key in ("phiP", "thetaP"):
            condition = step.conditions.get(key)
            if condition is not None and isinstance(condition.value, float) and 0 < abs(condition.value) < 1:
                yield f"{_place(condition.field)}: {condition.value} degrees; was the point meant?"


def _programs(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        for key, condition in step.conditions.items():
            if key.endswith("_prog"):
                for name in values_of(condition.value) or ():
                    if name not in PROGRAMS:
                        yield (
                            f"{_place(condition.field)}: no program '{printable(str(name))}' is known here; "
                            f"{nearest(str(name), PROGRAMS)}"
                        )


def _options(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        for name, near in unknown_options(step.kind.program, step.values.get("options", ())):
            hint = near if near.startswith("did you mean") else "check it against the version that is asked for"
            yield f"{_place(step.config['options'])}: {step.kind.program} has no option {printable(name)}; {hint}"


def _campaigns(steps: Iterable[Step]) -> Iterator[str]:
    """Files of another campaign may well be wanted; of one with nearly the same name they seldom are."""
    for step in steps:
        condition, own = step.conditions.get("MCCampaign"), str(step.values.get("MCCampaign"))
        asked = str(single(condition.value)) if condition is not None else own
        alike = SequenceMatcher(None, asked.lower(), own.lower()).ratio() > NEARLY
        if condition is not None and asked != own and alike:
            told = f"files of {printable(asked)} are taken, and products will be of {printable(own)}"
            yield f"{_place(condition.field)}: {told}; is one campaign meant?"


def _simulations(steps: Iterable[Step]) -> Iterator[str]:
    for step in steps:
        if not step.kind.without_input:
            continue
        for found in (step.written.parent, step.written.dataset, *step.written.query.values()):
            if found is not None and found.node.value is not None:
                yield f"{_place(found)}: is ignored; {step.kind.name} has no input"
        if "n_tasks" not in step.values:
            yield (
                f"line {step.written.line}, step {step.number}: nothing is simulated until n_tasks says how many jobs, "
                "here or with 'production extend'"
            )
        config = step.config.get("simpipe_config")
        if config is not None:
            for key, found in fields(config.node, f"simpipe_config of {config.place}").items():
                if key not in SIMPIPE_CONFIG:
                    yield f"{_place(found)}: is not known here, and handed to simpipe as it is"
