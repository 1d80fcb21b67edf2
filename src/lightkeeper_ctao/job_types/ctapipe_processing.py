"""CtapipeProcessing: each run or observation of a task is processed by its own ctapipe-process.

A file of the simulation, or of a higher data level, is a source by itself. Files of DL0 belong together by
observation: the program is given the subarray's trigger file and finds the telescopes' files by ACADA's
directory convention, so each observation is laid out as a directory that holds its files and no others. (The
reader searches by the last digits of ids; it could take another observation's files for its own.)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import Lfn, split_lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.work import ExpectedOutput, JobInput, JobOrder, JobRecipe
from lightkeeper_ctao.job_types import names, product, provenance

DL0 = 0
SIMULATED = -1
# <base>/ARRAY/<user>/acada-adh/triggers/<YYYY>/<MM>/<DD>/<file>, and the same with <telescope> and events
DEPTH_BELOW_BASE = 8


@dataclass(frozen=True, slots=True)
class Source:
    """What one run of the program reads: a CWL File or Directory, the path below it, options for this one.
    `lead` is the input that names the product and gives its metadata."""

    cwl: Mapping[str, Any]
    below: str
    options: tuple[str, ...]
    lead: JobInput
    inputs: tuple[JobInput, ...]


class CtapipeProcessing:
    """One output per source."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """ctapipe-process for each source of the task."""
        if not order.inputs:
            raise Invalid(f"job {order.job_id} has no input to process")
        body = order.body
        sources = sources_of(order.inputs)
        giver = names.Names(order.task_id, body["output_extension"])
        outputs = [_output(source, order, giver) for source in sources]
        plain = [output.name for output in outputs]
        return JobRecipe(
            cwl=product.cwl_text("ctapipe_processing.cwl"),
            inputs={
                "sources": [source.cwl for source in sources],
                "below": [source.below for source in sources],
                "own_options": [list(source.options) for source in sources],
                "output_names": plain,
                "provenance_names": [product.provenance_name(name) for name in plain],
                "log_names": [product.log_name(name) for name in plain],
                "options": list(body["options"]),
                "sandbox": product.sandbox_files(body),
            },
            outputs=tuple(outputs),
            sandbox=dict(body["sandbox"]),
            needs=product.needs(body),
            provenance_logs=tuple(product.provenance_name(name) for name in plain),
        )

    def activities(self, log: str) -> Sequence[RanActivity]:
        """What ctapipe-process logged."""
        return provenance.read_log(log)


def sources_of(inputs: Iterable[JobInput]) -> list[Source]:
    """What the program is run on: every file, and of DL0 every observation."""
    single: list[Source] = []
    observations: dict[tuple[object, int], list[JobInput]] = {}
    for source in inputs:
        if source.meta.get("data_level") != DL0:
            single.append(_single(source))
            continue
        obs_id = names.obs_id_of(source)
        if obs_id is None:
            raise Invalid(f"{source.lfn} is of DL0 and has no obs_id, so it belongs to no observation")
        observations.setdefault((source.meta.get("sb_id"), obs_id), []).append(source)
    return single + [_observation(obs_id, own) for (_, obs_id), own in observations.items()]


def _single(source: JobInput) -> Source:
    options: tuple[str, ...] = ()
    run = names.run_of(source)
    if source.meta.get("data_level") == SIMULATED and run is not None:
        # The number in the name is the one that is catalogued; copies of a run differ in nothing else.
        options = (f"--EventSource.override_obs_id={run}", f"--ImageModifier.rng_seed={run}")
    return Source(product.cwl_input(source.lfn), "", options, source, (source,))


def _observation(obs_id: int, inputs: Sequence[JobInput]) -> Source:
    leads = [source for source in inputs if source.meta.get("stream") == "Subarray"]
    if not leads:
        raise Invalid(
            f"observation {obs_id} cannot be processed: its subarray trigger file (…_SUBARRAY_CHUNK….fz) "
            f"is not among the {len(inputs)} files of this task",
            hint="group_by: obs_id keeps an observation together; group_size must be the number of its files",
        )
    if len(leads) > 1:
        # It reads telescopes from their first event on, so the triggers of a later chunk would find no event.
        raise Invalid(
            f"observation {obs_id} has {len(leads)} subarray trigger files; ctapipe can read an observation of one",
            hint="process it with a version of ctapipe_io_zfits that joins chunks of triggers",
        )
    return _led_by(leads[0], inputs)


def _led_by(lead: JobInput, inputs: Sequence[JobInput]) -> Source:
    base, below = _base(lead.lfn)
    _, user, _, _, *date, _ = below.split("/")
    for source in inputs:
        if source.meta.get("stream") != "Telescope":
            continue
        directory = split_lfn(source.lfn)[0].removeprefix(f"{base}/").partition("/")[2]
        if not source.lfn.startswith(f"{base}/") or directory != "/".join([user, "acada-adh", "events", *date]):
            raise Invalid(
                f"{source.lfn} would not be read: ctapipe looks for telescopes' files of this observation in "
                f"{base}/<telescope>/{user}/acada-adh/events/{'/'.join(date)}"
            )
    tree = _directory(base.rpartition("/")[2], [s for s in inputs if s.lfn.startswith(f"{base}/")], len(base) + 1)
    return Source(tree, f"/{below}", ("--MultiFiles.all_chunks=True",), lead, tuple(inputs))


def _base(lfn: Lfn) -> tuple[str, str]:
    """Directory of all array elements, and the path of the trigger file below it."""
    parts = lfn.split("/")
    if len(parts) <= DEPTH_BELOW_BASE + 1 or parts[-6:-4] != ["acada-adh", "triggers"]:
        raise Invalid(
            f"{lfn} does not lie where ACADA puts it, so ctapipe would not find the telescopes' files",
            hint="…/DL0/ARRAY/<user>/acada-adh/triggers/<YYYY>/<MM>/<DD>/<file>",
        )
    return "/".join(parts[:-DEPTH_BELOW_BASE]), "/".join(parts[-DEPTH_BELOW_BASE:])


def _directory(name: str, inputs: Iterable[JobInput], skip: int) -> dict[str, Any]:
    """`inputs` as a CWL Directory; their paths begin after `skip` characters of their names."""
    root: dict[str, Any] = {"class": "Directory", "basename": name, "listing": []}
    directories = {"": root}
    for source in inputs:
        *parents, _ = source.lfn[skip:].split("/")
        for depth in range(1, len(parents) + 1):
            path = "/".join(parents[:depth])
            if path not in directories:
                directories[path] = {"class": "Directory", "basename": parents[depth - 1], "listing": []}
                directories["/".join(parents[: depth - 1])]["listing"].append(directories[path])
        directories["/".join(parents)]["listing"].append(product.cwl_input(source.lfn))
    return root


def _output(source: Source, order: JobOrder, giver: names.Names) -> ExpectedOutput:
    meta = product.product_meta(order.body, [source.lead])
    run = names.run_of(source.lead) if meta.get("obs_id") is None else None
    if run is not None:
        meta["runNumber"] = f"{run:08d}"
    folder = names.directory(order.body, meta, order.transformation_id, names.number_of(source.lead))
    lfn = giver.give(folder, names.stem_of(source.lead.lfn))
    return ExpectedOutput(split_lfn(lfn)[1], lfn, meta, product.lfns(source.inputs))
