"""Job types by the names that productions use.

A new one is a file `<name>.cwl` with the hint that `tool.py` explains, and a test. Those whose inputs are more than one
file or all files of a task have a class of their own, and a line here.
"""

from collections.abc import Mapping
from typing import Final

from lightkeeper.ports import JobType
from lightkeeper_ctao.job_types.ctapipe_processing import CtapipeProcessing
from lightkeeper_ctao.job_types.merging import Merging
from lightkeeper_ctao.job_types.simulation import MCSimulation, SimPipe, SimTelProcessing
from lightkeeper_ctao.job_types.tool import Tool, tools
from lightkeeper_ctao.job_types.train_classifier import TrainClassifier

TOOLS: Final[Mapping[str, Tool]] = tools()
JOB_TYPES: Final[Mapping[str, JobType]] = {
    "CtapipeProcessing": CtapipeProcessing(),
    "Merging": Merging(),
    "CtapipeTrainClassifier": TrainClassifier(),
    "MCSimulation": MCSimulation(),
    "SimPipe": SimPipe(),
    "SimTelProcessing": SimTelProcessing(),
    **TOOLS,
}
