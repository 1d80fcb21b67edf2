"""CtapipeTrainClassifier: from a file of gammas and one of other particles, by ctapipe-train-particle-classifier.

A task has exactly these two, merged before: `group_size: 2` and nothing else that could match.
"""

from collections.abc import Sequence

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import split_lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.work import ExpectedOutput, JobInput, JobOrder, JobRecipe
from lightkeeper_ctao.job_types import names, product, provenance

SIGNAL = ("gamma", "gamma-diffuse")
NOT_OF_MODELS = ("particle", "split", "runNumber", "obs_id")


class TrainClassifier:
    """One model per task."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """ctapipe-train-particle-classifier on gammas against the others."""
        body = order.body
        signal = _only(order, [one for one in order.inputs if one.meta.get("particle") in SIGNAL], "gammas")
        background = _only(order, [one for one in order.inputs if one not in (signal,)], "other particles")
        meta = product.product_meta(body, order.inputs)
        meta = {key: value for key, value in meta.items() if key not in NOT_OF_MODELS}
        folder = names.directory(body, meta, order.transformation_id, names.number_of(signal))
        giver = names.Names(order.task_id, body["output_extension"] or "classifier.pkl")
        lfn = giver.give(folder, names.stem_of(signal.lfn))
        name = split_lfn(lfn)[1]
        return JobRecipe(
            cwl=product.cwl_text("train_classifier.cwl"),
            inputs={
                "signal": product.cwl_input(signal.lfn),
                "background": product.cwl_input(background.lfn),
                "output_name": name,
                "provenance_name": product.provenance_name(name),
                "log_name": product.log_name(name),
                "options": list(body["options"]),
                "sandbox": product.sandbox_files(body),
            },
            outputs=(ExpectedOutput(name, lfn, meta, product.lfns(order.inputs)),),
            sandbox=dict(body["sandbox"]),
            needs=product.needs(body),
            provenance_logs=(product.provenance_name(name),),
        )

    def activities(self, log: str) -> Sequence[RanActivity]:
        """What the program logged."""
        return provenance.read_log(log)


def _only(order: JobOrder, inputs: Sequence[JobInput], what: str) -> JobInput:
    if len(inputs) != 1:
        raise Invalid(
            f"a classifier learns from one file of gammas and one of other particles; task {order.task_id} has "
            f"{len(inputs)} of {what} among its {len(order.inputs)} inputs",
            hint="merge each particle to one file before, and give the step group_size: 2",
        )
    return inputs[0]
