"""What every job type of ctapipe does alike: metadata of products, their names, files in the job's folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.names import Lfn, parse_lfn
from lightkeeper.domain.work import ExpectedOutput, FoundOutput, JobInput, JobOrder
from lightkeeper_ctao.job_types import names

CARRIED = (
    "data_level",
    "array_layout",
    "site",
    "particle",
    "sct",
    "phiP",
    "thetaP",
    "view_cone",
    "systematics",
    "nsb",
    "div_ang",
    "split",
    "runNumber",
    "observatory",
    "observing_night",
    "sb_id",
    "obs_id",
    "subarray_id",
    "start_time",
    "end_time",
)
"""Keys that a product has from its inputs, unless the production says otherwise."""


def product_meta(body: Mapping[str, Any], inputs: Sequence[JobInput]) -> dict[str, MetaValue]:
    """Metadata of a product: what all `inputs` agree on, overruled by what the production says."""
    carried = {key: inputs[0].meta[key] for key in CARRIED if key in inputs[0].meta and _agree(key, inputs)}
    meta: dict[str, MetaValue] = {**carried, **body["output_meta"]}
    if isinstance(run := meta.get("runNumber"), str) and run.isdigit():
        meta["runNumber"] = f"{int(run):08d}"
    if "particle" in meta:
        meta.setdefault("sct", "False")  # simulations without dual-mirror telescopes do not always say so
    return meta


def _agree(key: str, inputs: Sequence[JobInput]) -> bool:
    return all(key in other.meta and other.meta[key] == inputs[0].meta[key] for other in inputs)


def cwl_file(path: str) -> dict[str, Any]:
    """A CWL File at `path` in the job's folder."""
    return {"class": "File", "location": path}


def cwl_input(lfn: Lfn) -> dict[str, Any]:
    """The CWL File of an input, where the pilot lays it."""
    return cwl_file(f"inputs{lfn}")


def sandbox_files(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sandbox as CWL Files."""
    return [cwl_file(name) for name in body["sandbox"]]


def provenance_name(output: str) -> str:
    """Name of the provenance log beside an output."""
    return f"{output}.provenance.log"


def log_name(output: str) -> str:
    """Name of the program's log beside an output."""
    return f"{output}.log"


def cwl_text(name: str) -> str:
    """A CWL document of this package."""
    return (files("lightkeeper_ctao.job_types") / name).read_text()


def needs(body: Mapping[str, Any], package: str = "ctapipe") -> str:
    """Name and version of the software that a step runs, as it may be declared."""
    return f"{body.get('software', {}).get('package', package)} {body['version']}"


def as_text(document: Mapping[str, Any]) -> str:
    """A CWL document as one text."""
    return json.dumps(document)


def found(
    order: JobOrder, output: FoundOutput, meta: Mapping[str, MetaValue], run: int | None, sources: Iterable[JobInput]
) -> ExpectedOutput:
    """An output that its program named itself, where it belongs."""
    folder = names.directory(order.body, meta, order.transformation_id, run)
    lfn = parse_lfn(f"{folder}/{output.name.rpartition('/')[2]}")
    return ExpectedOutput(output.name, lfn, meta, (*lfns(sources), *lfns(order.companions.values())))


def lfns(inputs: Iterable[JobInput]) -> tuple[Lfn, ...]:
    """Names of the inputs."""
    return tuple(source.lfn for source in inputs)
