"""Requirements on the daemon's command line, C-01 to C-06: the options of the one that came before are taken."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.requirements.conftest import NIGHT

from lightkeeper.client import find
from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.acada_ingest import LOCK, RULE, checked, read_config
from lightkeeper_ctao.layout import ELEMENTS
from lightkeeper_ctao.simulate import NightPlan, stamp_night


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    (tmp_path / "onsite").mkdir()
    return tmp_path / "onsite"


@pytest.mark.parametrize("port", [1024, 8000, 65535])
def test_C_01_a_port_for_metrics_in_the_range_is_taken(data_path: Path, port: int):
    assert checked({"data_path": str(data_path), "metrics_port": str(port)}).environment()["LIGHTKEEPER_PORT"] == str(
        port
    )


@pytest.mark.parametrize("port", ["1023", "0", "-1", "65536", "many"])
def test_C_01_a_port_for_metrics_out_of_range_is_refused(data_path: Path, port: str):
    with pytest.raises(Invalid, match="metrics-port must be"):
        checked({"data_path": str(data_path), "metrics_port": port})


@pytest.mark.parametrize("option", ["file_polling_interval", "task_polling_interval", "client_retry_interval"])
@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_C_02_an_interval_must_be_positive(data_path: Path, option: str, seconds: str):
    with pytest.raises(Invalid, match=f"{option.replace('_', '-')} must be a"):
        checked({"data_path": str(data_path), option: seconds})


def test_C_02_a_positive_interval_is_how_often_is_scanned(data_path: Path):
    options = checked({"data_path": str(data_path), "file_polling_interval": "0.5"})
    assert options.environment()["LIGHTKEEPER_SCAN_EVERY"] == "0.5"


def test_C_03_a_configuration_file_is_read_and_the_command_line_overrides_it(data_path: Path, tmp_path: Path):
    config = tmp_path / "ingest.yaml"
    config.write_text(f"data-path: {data_path}\noffsite_copies: 3\nrse: LAPALMA\nlog_level: debug\n")
    options = checked(read_config(config) | {"offsite_copies": "1"})
    assert (options.data_path, options.offsite_copies, options.rse, options.log_level) == (
        data_path,
        1,
        "LAPALMA",
        "DEBUG",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("offsite_copy: 2", "has no option 'offsite_copy'"),
        ("- a list", "must be a map of options"),
        ("a: [", "is not YAML"),
        ("offsite_copies: many", "offsite-copies must be a whole number, not many"),
        ("offsite_copies: -1", "offsite-copies must be between 0 and 20"),
        ("vo: other", "vo must be ctao, not other"),
        ("log_level: LOUD", "log-level must be one of DEBUG"),
        ("log_file: /etc/passwd", "may not lie under /etc"),
        ("log_file: /proc/self/x", "may not lie under /proc"),
        ("rse: 'two words'", "is not a name for a storage"),
        ("dry_run: maybe", "dry-run must be true or false"),
        ("data_path: relative", "data-path must be absolute"),
    ],
)
def test_C_03_what_is_wrong_in_a_configuration_is_told(data_path: Path, tmp_path: Path, text: str, why: str):
    config = tmp_path / "ingest.yaml"
    config.write_text(text)
    with pytest.raises(Invalid, match=why):
        checked({"data_path": str(data_path)} | read_config(config))


def test_C_03_the_directory_must_be_given():
    with pytest.raises(Invalid, match="data-path is not given"):
        checked({})


def test_C_03_no_copies_off_site_means_no_rule(data_path: Path):
    assert RULE in checked({"data_path": str(data_path)}).topology(with_storage=True)
    without = checked({"data_path": str(data_path), "offsite_copies": 0}).topology(with_storage=True)
    assert "policies" not in without


class Daemon:
    """`acada-ingest` as a process."""

    def __init__(self, data_path: Path, home: Path, *options: str) -> None:
        command = [sys.executable, "-m", "lightkeeper_ctao.acada_ingest", "--home", str(home), "-d", str(data_path)]
        self.process = subprocess.Popen(
            [*command, "--disable-metrics", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.home = home

    def end(self) -> str:
        """Ask it to stop, and what it said."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[0]


@pytest.mark.nightly
def test_C_04_a_dry_run_starts_checks_and_ends(data_path: Path, tmp_path: Path):
    daemon = Daemon(data_path, tmp_path / "home", "--dry-run")
    said = daemon.process.communicate(timeout=120)[0]
    assert daemon.process.returncode == 0, said
    assert "would change: storage ONSITE: new" in said
    assert not (data_path / LOCK).exists()


@pytest.mark.nightly
@pytest.mark.parametrize("files", [pytest.param(1, id="C_05_one_file"), pytest.param(7, id="C_06_seven_files")])
def test_C_05_and_C_06_files_come_in_while_the_daemon_runs(data_path: Path, tmp_path: Path, files: int):
    home = tmp_path / "home"
    daemon = Daemon(data_path, home, "--log-file", str(tmp_path / "log"))
    try:
        deadline = time.monotonic() + 100
        while not (client := find(home)) or not client.ingest_status():
            assert daemon.process.poll() is None, "it ended"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (data_path / LOCK).read_text().strip() == str(daemon.process.pid)
        second = Daemon(data_path, tmp_path / "other")
        assert "Another ingestion process is already running" in second.process.communicate(timeout=60)[0]
        stamp_night(NightPlan(data_path, NIGHT, (ELEMENTS["LSTN-01"], ELEMENTS["MSTN-01"]), files, observations=1))
        while client.status()["files_ingested"] < files:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not list((data_path / "ctao").rglob("*.trigger"))
    finally:
        said = daemon.end()
    assert daemon.process.returncode == 0, said
    assert not (data_path / LOCK).exists()
    assert '"ingested"' in (tmp_path / "log").read_text()
