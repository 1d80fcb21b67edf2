"""Simulations: MCSimulation, SimPipe and SimTelProcessing. The programs are the observatory's wrappers around CORSIKA
and sim_telarray, which the software environment brings; they give names to their outputs themselves.

A run is numbered by its task, so every attempt of it makes the same showers and the same names.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.work import ExpectedOutput, FoundOutput, JobInput, JobOrder, JobRecipe
from lightkeeper_ctao.job_types import names, product

MOON: Final = {"dark": 1, "moon": 5, "fullmoon": 19}
"""Light of the night sky by the word that names of outputs have for it."""
MOON_OPTION: Final = {"half": "--with-half-moon", "full": "--with-full-moon"}
SCT_OPTION: Final = {"non-alpha": "--with-sct", "all": "--with-all-scts"}
OUTPUT_TYPES: Final = {"logs": "Log", "reduced_event_lists": "reduced_event_lists"}
LEDGER: Final = "simulate_prod_job_metadata.yml"
LEDGER_KEYS: Final = ("runNumber", "model_version", "phiP", "thetaP", "array_layout", "sct", "view_cone", "dec", "ha")

_MOON = re.compile(r"(?<![a-z])(fullmoon|moon|dark)(?![a-z])")
_DIVERGENT = re.compile(r"(?<![a-z])div(\d+(?:\.\d+)?)(?![\d.]*\d)")


class MCSimulation:
    """One run of showers, and of the telescopes that see them: `dirac_prod_run`."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """The run of the order's task."""
        told = order.body["settings"]
        run = run_of_task(order)
        words = [
            *("--start_run", str(told.get("start_run_number", 0)), "--run-number", f"{run:06d}"),
            *([f"--{told['layout']}"] if told.get("layout") else []),
            *(["--without-multipipe"] if told.get("only_corsika") else []),
            *_common_words(told),
            *(["--sequential"] if told.get("sequential") else []),
            *(["--with-magic"] if told.get("magic") else []),
            *(_needed(told, key) for key in ("site", "particle", "pointing_dir")),
            _degrees(_needed(told, "zenith_angle")),
        ]
        inputs = {
            "words": words,
            "n_shower": str(_needed(told, "n_shower")),
            "sandbox": product.sandbox_files(order.body),
        }
        return _recipe("mc_simulation.cwl", order, inputs)

    def collect(
        self,
        order: JobOrder,
        found: Sequence[FoundOutput],
        logs: Sequence[str],  # noqa: ARG002
    ) -> Sequence[ExpectedOutput]:
        """One file for each brightness of the sky and each divergence, and the logs."""
        _check_made(order, found)
        return [_output(order, one, names.run_number(one.name) or run_of_task(order), ()) for one in found]

    def activities(self, log: str) -> Sequence[RanActivity]:  # noqa: ARG002
        """These programs keep no log of provenance."""
        return ()


class SimTelProcessing:
    """The telescopes once more, on showers that were simulated before: `dirac_sim_telarray_process`."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """All showers of the task at once."""
        if not order.inputs:
            raise Invalid(f"job {order.job_id} has no showers to work on")
        told = order.body["settings"]
        words = [*order.body["options"], *_common_words(told)]
        if told.get("systematic_uncertainty_to_test"):
            words.append(told["systematic_uncertainty_to_test"])
        inputs = {
            "sources": [product.cwl_input(one.lfn) for one in order.inputs],
            "words": words,
            "sandbox": product.sandbox_files(order.body),
        }
        return _recipe("simtel_processing.cwl", order, inputs)

    def collect(
        self,
        order: JobOrder,
        found: Sequence[FoundOutput],
        logs: Sequence[str],  # noqa: ARG002
    ) -> Sequence[ExpectedOutput]:
        """Each file comes from the showers of its run."""
        _check_made(order, found)
        return [_output(order, one, names.run_number(one.name), order.inputs) for one in found]

    def activities(self, log: str) -> Sequence[RanActivity]:  # noqa: ARG002
        """These programs keep no log of provenance."""
        return ()


class SimPipe:
    """One run of the simulation pipeline: `dirac_simpipe_simulate_prod_wrapper`. With a `job_grid_file` the pipeline
    chooses what is simulated from its ledger, and tells it in a file of metadata."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """The run of the order's task, or its entry of the ledger."""
        configuration: Mapping[str, Any] = _needed(order.body["settings"], "simpipe_config")["given"]
        text, run = json.dumps(configuration, sort_keys=True), run_of_task(order)
        words = [text, str(run)] if configuration.get("job_grid_file") else ["0", str(run), text]
        ledger = (LEDGER,) if configuration.get("job_grid_file") else ()
        inputs = {"words": words, "sandbox": product.sandbox_files(order.body)}
        return _recipe("simpipe.cwl", order, inputs, ledger)

    def collect(self, order: JobOrder, found: Sequence[FoundOutput], logs: Sequence[str]) -> Sequence[ExpectedOutput]:
        """Events, reduced lists of events and logs; with a ledger what its metadata say of them."""
        _check_made(order, found)
        ledger = _ledger(logs[0]) if logs else {}
        run = int(ledger["runNumber"]) if "runNumber" in ledger else run_of_task(order)
        return [_output(order, one, run, (), ledger) for one in found if one.parameter != "metadata"]

    def activities(self, log: str) -> Sequence[RanActivity]:  # noqa: ARG002
        """The pipeline's metadata tell of no activity."""
        return ()


def run_of_task(order: JobOrder) -> int:
    """The number of the run that a task simulates."""
    return order.number or order.task_id


# --- words of the command line ---------------------------------------------------------------------------------
def _common_words(told: Mapping[str, Any]) -> list[str]:
    """Options that all wrappers of the telescopes' simulation have."""
    said = told.get("moon", "dark")
    moon = [said] if isinstance(said, str) else said
    brightest = next((MOON_OPTION[word] for word in ("full", "half") if word in moon), None)
    sct = SCT_OPTION.get(str(told.get("sct")))
    probability = told.get("random_mono_probability")
    return [
        *([brightest] if brightest else []),
        *([sct] if sct else []),
        *(["--random-mono-probability", str(probability)] if probability is not None else []),
        *(["--instrument-random-seeds"] if told.get("instrument_random_seeds") else []),
        *(["--divergent"] if told.get("div_ang") else []),
    ]


def _needed(told: Mapping[str, Any], key: str) -> Any:
    if told.get(key) is None:
        raise Invalid(f"nothing says what is to be simulated: {key} is missing in job_config")
    return told[key]


def _degrees(angle: float) -> str:
    return f"{angle:g}"


# --- outputs ---------------------------------------------------------------------------------------------------
def _recipe(
    document: str, order: JobOrder, inputs: Mapping[str, Any], provenance_logs: tuple[str, ...] = ()
) -> JobRecipe:
    text = product.cwl_text(document)
    collected = [name for name in ("data", "reduced_event_lists", "logs") if f"\n  {name}: " in text]
    return JobRecipe(
        cwl=text,
        inputs=inputs,
        outputs=(),
        sandbox=dict(order.body["sandbox"]),
        provenance_logs=provenance_logs,
        collected=tuple(collected),
        software={str(order.body["program"]): str(order.body["version"])},
        needs=product.needs(order.body, str(order.body["program"])),
    )


def _check_made(order: JobOrder, found: Sequence[FoundOutput]) -> None:
    if not any(one.parameter == "data" for one in found):
        raise Invalid(f"the program ended well and left no events in Data (task {order.task_id})")


def _output(
    order: JobOrder,
    found: FoundOutput,
    run: int | None,
    inputs: Sequence[JobInput],
    told: Mapping[str, Any] | None = None,
) -> ExpectedOutput:
    """What an output is: what the production says, overruled by what its name tells."""
    name = found.name.rpartition("/")[2]
    sources = [one for one in inputs if run is not None and names.run_of(one) == run] or list(inputs)
    meta = {**product.product_meta(order.body, sources), **(told or {})} if sources else dict(order.body["output_meta"])
    meta |= told or {}
    meta["outputType"] = OUTPUT_TYPES.get(found.parameter, "Data")
    if run is not None:
        meta["runNumber"] = f"{run:08d}"
    if sky := _MOON.search(name):
        meta["nsb"] = MOON[sky[1]]
    if divergent := _DIVERGENT.search(name):
        meta["div_ang"] = divergent[1]
    return product.found(order, found, meta, run, sources)


def _ledger(text: str) -> dict[str, Any]:
    """Metadata that the pipeline tells of a run."""
    try:
        told: Any = YAML(typ="safe", pure=True).load(text[:100_000])
    except (YAMLError, ValueError, RecursionError) as error:
        raise Invalid(f"{LEDGER} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(told, dict):
        raise Invalid(f"{LEDGER} tells no metadata")
    return {key: told[key] for key in LEDGER_KEYS if key in told}
