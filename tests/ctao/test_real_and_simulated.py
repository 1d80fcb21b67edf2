"""What telescopes saw and what was simulated goes through the same tools, described by the same document."""

import shutil
import time
from datetime import date
from pathlib import Path

import pytest
from tests.conftest import SHARED, SilentLog

from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper_ctao.demo import CAMPAIGN, CtaoDemonstration
from lightkeeper_ctao.simulate import hand_in_runs, simulate_night

SIMTEL = SHARED / "data" / "simtel"
DOCUMENT = """
ProdSteps:
  - ID: 1
    input_meta_query: {data_level: {in: [0, -1]}}
    job_config:
      type: CtapipeProcessing
      data_level: 2
      output_extension: DL2.h5
      options: --no-write-images --write-parameters --write-showers
      group_size: 6
      group_by: obs_id, runNumber
Common:
  MCCampaign: Both
  configuration_id: 1
  base_path: /ctao/both
  version: v0.28.0
"""

pytestmark = [
    pytest.mark.ctapipe,
    pytest.mark.nightly,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SIMTEL.is_dir(), reason="the shared data are not on this machine"),
]


@pytest.mark.feature("S0-009")
def test_a_night_and_simulated_runs_are_processed_by_one_document(tmp_path: Path):
    home = tmp_path / "home"
    settings = Settings(home=home, port=0, trigger_patience=1, heartbeat=2, pilot_idle=10, retry_after=0.5)
    with (
        Instance(settings, log=SilentLog()) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        document, roots = CtaoDemonstration().topology(home)
        for root in roots:
            root.mkdir(parents=True)
        client.apply(document)
        on_site = home / "storage" / "LaPalma-onsite"
        made = simulate_night(on_site, night=date(2026, 3, 14), observations=2, events=12)
        (home / "runs").mkdir()
        for file in SIMTEL.iterdir():
            if file.name.startswith("v0.33.0"):
                shutil.copy(file, home / "runs")
        runs = hand_in_runs(home / "runs", on_site, runs=2, campaign=CAMPAIGN)
        deadline = time.monotonic() + 800
        while client.status()["files_ingested"] < len(made.good) + len(runs.files):
            assert time.monotonic() < deadline, client.status()
            time.sleep(0.2)
        client.submit("both", DOCUMENT, {})
        while not all(one["state"] == "Completed" for one in client.productions()):
            failed = [
                (job["minor_status"], job["application_status"]) for job in client.jobs() if job["status"] == "Failed"
            ]
            assert not failed, failed
            assert time.monotonic() < deadline, client.productions()
            time.sleep(0.5)
        products = list(client.files({"MCCampaign": "Both", "data_level": 2}))
        seen = {file["meta"].get("obs_id") for file in products} - {None}
        simulated = {file["meta"].get("runNumber") for file in products} - {None}
        assert (len(products), len(seen), len(simulated)) == (4, 2, 2)
        assert {file["meta"]["analysis_prog"] for file in products} == {"ctapipe-process"}
        assert client.fsck(read_bytes=True)["violations"] == []
