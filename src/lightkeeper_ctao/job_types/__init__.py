"""Job types by the names that productions use. A new tool is a CWL document, a class, and a line here."""

from collections.abc import Mapping
from typing import Final

from lightkeeper.ports import JobType
from lightkeeper_ctao.job_types.ctapipe_processing import CtapipeProcessing
from lightkeeper_ctao.job_types.merging import Merging

JOB_TYPES: Final[Mapping[str, JobType]] = {
    "CtapipeProcessing": CtapipeProcessing(),
    "Merging": Merging(),
}
