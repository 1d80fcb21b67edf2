"""Merging: all files of a task become one, by ctapipe-merge.

Which files may be merged is decided before, by the query and by `group_by` of the step: ctapipe refuses files
of different subarrays, but merges different particles without a word.
"""

from collections.abc import Sequence

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import split_lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.work import ExpectedOutput, JobOrder, JobRecipe
from lightkeeper_ctao.job_types import names, product, provenance


class Merging:
    """One output per task."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """ctapipe-merge over all inputs, in order of their names."""
        if not order.inputs:
            raise Invalid(f"job {order.job_id} has no input to merge")
        body = order.body
        meta = product.product_meta(body, order.inputs)
        folder = names.directory(body, meta, order.transformation_id, names.number_of(order.inputs[0]))
        lfn = names.Names(order.task_id, body["output_extension"]).give(folder, names.span(order.inputs))
        name = split_lfn(lfn)[1]
        return JobRecipe(
            cwl=product.cwl_text("merging.cwl"),
            inputs={
                "parts": [product.cwl_input(source.lfn) for source in order.inputs],
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
        """What ctapipe-merge logged."""
        return provenance.read_log(log)
