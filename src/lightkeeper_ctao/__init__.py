"""The rules of the Cherenkov Telescope Array Observatory, as a plug-in: names, formats, keys, productions, jobs."""

from collections.abc import Mapping, Sequence

from lightkeeper.domain.catalog import MetaKey
from lightkeeper.domain.quality import Figure
from lightkeeper.ports import CampaignWriter, JobType, ProductionReader, ProductReader


class CTAO:
    """The observatory, as `lightkeeper.ports.Observatory` asks for it. Its parts are loaded when they are needed."""

    name = "ctao"

    def metadata_keys(self) -> Sequence[MetaKey]:
        """Keys of raw files, simulations and products."""
        from lightkeeper_ctao.keys import KEYS

        return KEYS

    def night_of(self, path: str) -> str:
        """The date folders above the file."""
        from lightkeeper_ctao.layout import night_of_path

        return night_of_path(path)

    def quality_figures(self) -> Sequence[Figure]:
        """Rows of raw files and their rate."""
        from lightkeeper_ctao.keys import FIGURES

        return FIGURES

    def product_readers(self) -> Sequence[ProductReader]:
        """DL0 from the array control, R1 from simulations, then any other product in FITS."""
        from lightkeeper_ctao.dl0 import Dl0Reader
        from lightkeeper_ctao.products import FitsReader
        from lightkeeper_ctao.simtel import SimtelReader

        return [Dl0Reader(), SimtelReader(), FitsReader()]

    def campaigns(self) -> CampaignWriter:
        """Campaigns of ctapipe and evndisp."""
        from lightkeeper_ctao.campaigns import Campaigns

        return Campaigns()

    def production_reader(self) -> ProductionReader:
        """The YAML dialect of productions."""
        from lightkeeper_ctao.keys import KEYS
        from lightkeeper_ctao.production import ProductionYaml

        return ProductionYaml(KEYS)

    def job_types(self) -> Mapping[str, JobType]:
        """Tools of the pipeline."""
        from lightkeeper_ctao.job_types import JOB_TYPES

        return JOB_TYPES
