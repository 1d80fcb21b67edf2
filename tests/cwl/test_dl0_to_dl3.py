"""Raw data of two sites to science files, level by level, in one production with small programs; what is damaged stays
out."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.conftest import SilentLog
from tests.cwl.documents import HEAD

from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings

pytestmark = pytest.mark.nightly

TOPOLOGY = """
version: 1
sites:
  North: {computing: {executor: local, pilots: 1}}
  South: {computing: {executor: local, pilots: 1}}
storages:
  north: {site: North, root: "ROOT/north"}
  south: {site: South, root: "ROOT/south"}
policies:
  products: {files: {data_level: {">=": 1}}, copies: 2}
keeper: {max_reassign: 0}
"""
SITES = {"LaPalma": "north", "Paranal": "south"}
NEXT = HEAD + (
    "class: CommandLineTool\nbaseCommand: sed\narguments: ['s/DL[0-9]/LEVEL/']\n"
    "inputs: {file: {type: File, inputBinding: {position: 2}}}\n"
    "outputs: {out: stdout}\nstdout: $(inputs.file.nameroot.split('.')[0]).LEVEL\n"
    "requirements: {InlineJavascriptRequirement: {}}\n"
)
DL3 = HEAD + (
    """class: CommandLineTool
requirements:
  InitialWorkDirRequirement:
    listing:
      - entryname: dl3.py
        entry: |
          import sys
          from astropy.io import fits
          import numpy as np
          damage, *files = sys.argv[1:]
          lines = [line for name in files for line in open(name)]
          assert all(line.startswith("DL2 of ") for line in lines), lines
          site = {line.split()[2] for line in lines}
          assert len(site) == 1, site
          table = fits.BinTableHDU.from_columns([fits.Column("ENERGY", "E", array=np.ones(100))], name="EVENTS")
          fits.HDUList([fits.PrimaryHDU(), table]).writeto("events.fits", checksum=True)
          if damage == "yes":
              with open("events.fits", "r+b") as file:
                  file.seek(-2880, 2)
                  file.write(b"x")
baseCommand: [python, dl3.py]
inputs:
  damage: {type: string, default: "no", inputBinding: {position: 1}}
  files: {type: "File[]", inputBinding: {position: 2}}
outputs: {events: {type: File, outputBinding: {glob: events.fits}}}
"""
)
BESIDE = {"dl1.cwl": NEXT.replace("LEVEL", "DL1"), "dl2.cwl": NEXT.replace("LEVEL", "DL2"), "dl3.cwl": DL3}
KEPT = "inherit: [site, observing_night], group_by: [site]"


def hint(level: int) -> str:
    return f'{{"lightkeeper:Transformation": {{output_meta: {{data_level: {level}, MCCampaign: Chain}}}}}}'


CHAIN = (
    HEAD
    + f"""class: Workflow
requirements: {{ScatterFeatureRequirement: {{}}}}
hints: {{"lightkeeper:Transformation": {{input_query: {{data_level: 0}}, {KEPT}}}}}
inputs: {{raw: "File[]"}}
steps:
  dl1: {{run: dl1.cwl, scatter: file, in: {{file: raw}}, out: [out], hints: {hint(1)}}}
  dl2: {{run: dl2.cwl, scatter: file, in: {{file: dl1/out}}, out: [out], hints: {hint(2)}}}
  dl3: {{run: dl3.cwl, in: {{files: dl2/out}}, out: [events], hints: {hint(3)}}}
outputs: {{events: {{type: File, outputSource: dl3/events}}}}
"""
)
DAMAGED = DL3 + (
    'hints: {"lightkeeper:Transformation": {input_query: {data_level: 2, site: Paranal}, group_size: 3, '
    "output_meta: {data_level: 3, MCCampaign: Damaged}}}\n"
)


@dataclass
class Here:
    """A running instance on which the chain has been run."""

    client: Client

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not done():
            assert time.monotonic() < deadline, [job for job in self.client.jobs() if job["status"] == "Failed"]
            time.sleep(0.2)

    def files(self, **query: Any) -> list[dict[str, Any]]:
        return list(self.client.files({"MCCampaign": "Chain"} | query))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """Three raw files of each site, each at a data centre of its own."""
    pytest.importorskip("astropy")
    home = tmp_path_factory.mktemp("levels")
    for name in ("north", "south"):
        (home / name).mkdir()
    settings = Settings(home=home, port=0, heartbeat=1, pilot_idle=10, retry_after=0.2)
    with (
        Instance(settings, log=SilentLog()) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        client.apply(TOPOLOGY.replace("ROOT", str(home)))
        for site, storage in SITES.items():
            for n in range(3):
                content = f"DL0 of {site} run {n}\n".encode()
                meta = {"data_level": 0, "site": site, "observing_night": "2030-01-02"}
                name = f"/ctao/raw/{site}/run{n}.DL0"
                client.put_content(name, storage, [content], len(content), hashlib.sha256(content).hexdigest(), meta)
        here = Here(client)
        client.submit("chain", CHAIN, BESIDE)
        here.until(lambda: client.production("chain")["state"] == "Completed")
        yield here
        assert client.fsck(read_bytes=True)["violations"] == []


@pytest.mark.feature("S0-104", "S1-001")
def test_each_level_has_a_file_for_each_of_the_level_before_and_science_files_are_one_of_each_site(here: Here):
    assert Counter(file["meta"]["data_level"] for file in here.files()) == {1: 6, 2: 6, 3: 2}
    steps = here.client.transformations("chain")
    assert [(step["files"], step["processed"], step["outputs"]) for step in steps] == [(6, 6, 6), (6, 6, 6), (6, 6, 2)]


@pytest.mark.feature("S1-005")
def test_both_sites_are_in_one_production_apart_where_they_must_be_and_together_for_a_query(here: Here):
    assert {site: len(here.files(site=site)) for site in SITES} == {"LaPalma": 7, "Paranal": 7}
    assert len(here.files(site={"in": list(SITES)})) == 14
    for file in here.files(data_level=3):
        raw = [step["lfn"] for step in here.client.why(file["lfn"])["made_from"] if step["lfn"].endswith(".DL0")]
        assert len(raw) == 3
        assert all(f"/raw/{file['meta']['site']}/" in lfn for lfn in raw), "its site's own, and no others"


@pytest.mark.feature("S0-110")
def test_each_science_file_has_two_copies_its_metadata_and_the_activity_that_made_it(here: Here):
    here.until(lambda: not here.client.status()["unsettled"])
    for file in here.files(data_level=3):
        here.until(lambda: len(here.client.why(file["lfn"])["replicas"]) == 2)  # noqa: B023
        story = here.client.why(file["lfn"])
        assert {copy["site"] for copy in story["replicas"]} == {"North", "South"}
        assert all(copy["verified_at"] for copy in story["replicas"])
        assert story["made_from"][0]["activity"] == "CWL"
        assert {step["depth"] for step in story["made_from"]} == {0, 1, 2, 3}
        assert file["meta"]["observing_night"] == "2030-01-02"


@pytest.mark.feature("S0-109")
def test_a_science_file_that_is_damaged_is_refused_with_the_reason_and_never_seen(here: Here):
    here.client.submit("damaged", f"{DAMAGED}\n---\ndamage: 'yes'\n", {})
    here.until(lambda: here.client.production("damaged")["failed"] == 1)
    (job,) = [job for job in here.client.jobs() if job["status"] == "Failed"]
    assert job["minor_status"] == "Accepting output data"
    assert "is not taken into the archive" in job["application_status"]
    assert "CHECKSUM" in job["application_status"].upper()
    assert list(here.client.files({"MCCampaign": "Damaged"})) == []
    for file in here.files(data_level=3):
        copies = here.client.why(file["lfn"])["replicas"]
        assert all(copy["verified_at"] for copy in copies), "that the good ones were checked is recorded"
