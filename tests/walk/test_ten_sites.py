"""A hundred jobs at ten sites, from submission to their logs, on real pilots."""

import hashlib
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import SilentLog
from tests.cwl.documents import CAT

from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings

SITES = [f"Site{n}" for n in range(10)]
OF_EACH = 10


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.feature("S0-004", "S0-017")
def test_a_hundred_jobs_are_matched_to_pilots_of_ten_sites_and_all_are_done(tmp_path: Path):
    sites = "".join(f"  {site}: {{computing: {{executor: local, pilots: 1}}}}\n" for site in SITES)
    storages = "".join(f"  {site.lower()}: {{site: {site}, root: {tmp_path / site}}}\n" for site in SITES)
    for site in SITES:
        (tmp_path / site).mkdir()
    settings = Settings(home=tmp_path / "home", port=0, heartbeat=2, pilot_idle=5, retry_after=0.5)
    with (
        Instance(settings, log=SilentLog()) as instance,
        Client(instance.url, (settings.home / "run" / "operator.token").read_text()) as client,
    ):
        client.apply(f"version: 1\nsites:\n{sites}storages:\n{storages}")
        for site in SITES:
            for n in range(OF_EACH):
                content = f"{site} {n}\n".encode()
                name = f"/ctao/raw/{site}/{n}.txt"
                client.put_content(
                    name, site.lower(), [content], len(content), hashlib.sha256(content).hexdigest(), {"site": site}
                )
        for site in SITES:
            hint = f"{{input_query: {{site: {site}}}, group_size: 1, sites: [{site}]}}"
            client.submit(site.lower(), f'{CAT}hints: {{"lightkeeper:Transformation": {hint}}}\n', {})
        seen: set[str] = set()
        deadline = time.monotonic() + 800
        while any(one["state"] != "Completed" for one in client.productions()):
            found = client.jobs(limit=1000)
            seen |= {job["status"] for job in found}
            assert "Failed" not in seen, [job for job in found if job["status"] == "Failed"]
            assert time.monotonic() < deadline, client.productions()
            time.sleep(0.5)
        done = client.jobs(limit=1000)
        assert Counter(job["status"] for job in done) == {"Done": 100}
        assert Counter(job["site"] for job in done) == dict.fromkeys(SITES, OF_EACH)
        assert {"Waiting", "Running"} <= seen
        assert all("completed success" in client.job_log(job["job_id"]) for job in done)
        history = client.job(done[0]["job_id"])["history"]
        assert [move["target"] for move in history] == ["Running", "Completing", "Done"]
        assert client.fsck(read_bytes=True)["violations"] == []
