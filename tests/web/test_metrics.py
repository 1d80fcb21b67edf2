"""What is told to Prometheus: the names of old, counters that a restart keeps, and nothing that work waits for."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import SilentLog, World, build_context

from lightkeeper.api import make_api
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import nights
from lightkeeper.store.db import Database
from lightkeeper.store.metrics import METRICS, Kind

ROOT = Path(__file__).parents[2]
OLD = ("n_tasks_success", "n_tasks_failed", "n_tasks_cancelled", "n_tasks_skipped", "n_tasks_processed")


def scrape(ctx: Any) -> dict[str, float]:
    """Every sample by name and labels."""
    answer = TestClient(make_api(ctx, "token")).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def a_night(world: World) -> None:
    for number in range(3):
        world.deliver(f"/test/2030-01-02/n{number}.plain", number=number)
    world.deliver("/test/2030-01-02/bad.plain", content="size=1")
    world.ingest()
    world.deliver("/test/2030-01-02/n0.plain", number=0)
    world.ingest()
    world.settle()


@pytest.mark.feature("S3-047")
def test_every_documented_metric_is_there_with_the_names_of_the_daemon_before(world: World):
    a_night(world)
    nights.count_all(world.ctx)
    told = scrape(world.ctx)
    assert [told[f"{name}_total"] for name in OLD] == [3, 1, 0, 1, 5]
    assert all(told[f"{name}_created"] > 1.7e9 for name in OLD)
    size = sum(file.size for file in world.files())
    assert (told["bytes_ingested_total"], told["bytes_ingested"], told["n_tasks_queued"]) == (size, size, 0)
    assert sum(n for name, n in told.items() if name.startswith("lightkeeper_copies_total")) == 6
    assert told["lightkeeper_open_night_files{what=freed}"] == 3
    assert told["lightkeeper_metrics_unread"] == 0
    assert told["process_resident_memory_bytes"] > 1e6
    bare = {name.partition("{")[0] for name in told}
    for metric in METRICS:
        name = f"{metric.name}_total" if metric.kind is Kind.COUNTER else metric.name
        if metric.name in ("lightkeeper_storage_quota_bytes", "lightkeeper_quality_out_of_range", "lightkeeper_pilots",
                           "lightkeeper_transformations", "lightkeeper_backlog_bytes"):  # fmt: skip
            continue  # there is nothing of the kind here
        assert name in bare, name
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert all(f"`{m.name}{'_total' if m.kind is Kind.COUNTER else ''}`" in page for m in METRICS)


@pytest.mark.feature("S1-072")
def test_counters_go_on_after_a_restart_and_after_a_time_in_which_nobody_looked(world: World, tmp_path: Path):
    a_night(world)
    before = scrape(world.ctx)
    world.deliver("/test/2030-01-03/n9.plain")
    world.ingest()  # nobody looks, and then another process does
    database = Database(world.ctx.db.url).open()
    try:
        after = scrape(build_context(database, tmp_path))
    finally:
        database.close()
    assert after["n_tasks_success_total"] == before["n_tasks_success_total"] + 1
    assert after["n_tasks_success_created"] == before["n_tasks_success_created"]


@pytest.mark.feature("S1-071")
def test_work_goes_on_while_metrics_cannot_be_read_and_that_is_told(world: World):
    ended = threading.Event()
    held = threading.Event()

    def hold() -> None:
        with world.ctx.db.transaction() as conn:  # like a maintenance that nobody can read beside
            conn.execute("LOCK TABLE deletion_log IN ACCESS EXCLUSIVE MODE")
            held.set()
            ended.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    told: list[dict[str, float]] = []
    looking = threading.Thread(target=lambda: told.append(scrape(world.ctx)))
    looking.start()
    world.deliver("/test/2030-01-02/n1.plain")
    world.ingest()
    looking.join(30)
    ended.set()
    holder.join()
    assert [file.lfn for file in world.files()] == ["/test/2030-01-02/n1.plain"]
    assert told[0]["lightkeeper_metrics_unread"] == 2
    assert "lightkeeper_deletions_total" not in told[0]
    assert told[0]["lightkeeper_database_up"] == 1


def test_without_a_database_it_says_so(database_url: str, tmp_path: Path):
    database = Database(database_url).open()
    ctx = build_context(database, tmp_path)
    database.close()
    assert scrape(ctx)["lightkeeper_database_up"] == 0


def test_the_dashboard_and_the_alerts_speak_of_metrics_that_there_are():
    names = {f"{m.name}{'_total' if m.kind is Kind.COUNTER else ''}" for m in METRICS}
    names |= {"lightkeeper_database_up", "lightkeeper_metrics_unread", "process_cpu_seconds_total"}
    names |= {"process_resident_memory_bytes", "up"}
    text = (ROOT / "deploy" / "grafana" / "lightkeeper.json").read_text()
    board = json.loads(text)
    expressions = [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    assert len(expressions) >= 15
    expressions += re.findall(r"expr: (.*)", (ROOT / "deploy" / "prometheus" / "lightkeeper.rules.yml").read_text())
    for expression in expressions:
        used = set(re.findall(r"\b(?:n_tasks|bytes|lightkeeper|process)_\w+\b(?!=)", expression))
        assert used <= names, expression


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs the program prometheus")
def test_a_real_prometheus_scrapes_us_and_takes_our_rules(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Instance(Settings(home=tmp_path / "home", port=0), work=False, log=SilentLog()) as instance:
        config = tmp_path / "prometheus.yml"
        target = instance.url.removeprefix("http://")
        rules = ROOT / "deploy" / "prometheus" / "lightkeeper.rules.yml"
        config.write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n"
            f"scrape_configs:\n- job_name: lightkeeper\n  static_configs: [{{targets: ['{target}']}}]\n"
        )
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
        server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
        try:
            found = until_found(f"http://127.0.0.1:{port}/api/v1/query?query=lightkeeper_database_up")
            assert found[0]["value"][1] == "1"
            metrics = httpx.get(f"http://127.0.0.1:{port}/api/v1/label/__name__/values", trust_env=False).json()["data"]
            assert {"n_tasks_success_total", "n_tasks_success_created", "n_tasks_queued"} <= set(metrics)
            taken = httpx.get(f"http://127.0.0.1:{port}/api/v1/rules", trust_env=False).json()["data"]["groups"]
            assert [group["name"] for group in taken] == ["lightkeeper"]
        finally:
            server.terminate()
            server.wait(20)


def until_found(url: str) -> list[Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if found := httpx.get(url, trust_env=False).json()["data"]["result"]:
                return found
        except (httpx.TransportError, KeyError, ValueError):
            pass
        time.sleep(0.3)
    raise AssertionError("prometheus found nothing")
