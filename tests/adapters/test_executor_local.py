"""Pilots as processes of this machine. The stand-in pilots below are one-line programs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightkeeper.adapters.executor_local import LocalExecutor
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import Executor, PilotOrder

SLEEP = "import time; time.sleep(60)"
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def order(tmp_path: Path) -> PilotOrder:
    return PilotOrder("pilot-1", "here", "http://127.0.0.1:1", "s3cret-canary", tmp_path / "pilots" / "pilot-1")


@pytest.fixture
def executor():
    """Makes executors whose pilots run `program`; what still runs at the end is killed."""
    started: list[str] = []

    class Remembering(LocalExecutor):
        def start(self, order):
            started.append(super().start(order))
            return started[-1]

    yield lambda program, **options: Remembering([sys.executable, "-c", program], **options)
    LocalExecutor(grace=0).stop(started)


def pid_of(handle: str) -> int:
    return int(handle.partition(":")[0])


def log_of(order: PilotOrder) -> str:
    return (order.work_dir / "pilot.log").read_text()


def eventually(condition, seconds: float = 10.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)
    return found


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_pilot_runs_from_start_to_stop(executor, order):
    local: Executor = executor(SLEEP)
    handle = local.start(order)
    assert local.running([handle]) == {handle}
    local.stop([handle])
    assert local.running([handle]) == set()
    assert not Path(f"/proc/{pid_of(handle)}").exists(), "left as a zombie"


def test_the_pilot_gets_its_facts_as_arguments_and_the_secret_in_its_environment_only(executor, order, monkeypatch):
    monkeypatch.setenv("LIGHTKEEPER_DATABASE_URL", "postgresql://user:password@db")
    monkeypatch.setenv("PGPASSWORD", "password")
    local = executor(TELL)
    handle = local.start(order)
    eventually(lambda: not local.running([handle]))
    arguments, environment, folder = json.loads(log_of(order))
    assert arguments == [
        "--name",
        "pilot-1",
        "--site",
        "here",
        "--api-url",
        "http://127.0.0.1:1",
        "--work-dir",
        folder,
    ]
    assert folder == str(order.work_dir)
    assert environment["LIGHTKEEPER_PILOT_SECRET"] == "s3cret-canary"
    assert environment["PATH"] == os.environ["PATH"]
    assert not {"LIGHTKEEPER_DATABASE_URL", "PGPASSWORD"} & set(environment)


def test_the_secret_is_not_on_the_command_line(executor, order):
    handle = executor(SLEEP).start(order)
    assert "s3cret-canary" not in Path(f"/proc/{pid_of(handle)}/cmdline").read_text()


def test_the_default_command_is_the_pilot_module():
    assert LocalExecutor()._command == (sys.executable, "-m", "lightkeeper.pilot")


def test_all_that_the_pilot_prints_is_in_its_log_and_a_second_start_adds_to_it(executor, order):
    local = executor("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    for times in (1, 2):
        handle = local.start(order)
        eventually(lambda handle=handle: not local.running([handle]))
        assert (log_of(order).count("out"), log_of(order).count("err")) == (times, times)


def test_a_pilot_that_ended_by_itself_is_not_running_and_no_zombie(executor, order):
    local = executor("pass")
    handle = local.start(order)
    eventually(lambda: not local.running([handle]))
    assert not Path(f"/proc/{pid_of(handle)}").exists()


def test_a_handle_of_a_pid_used_again_is_not_running_and_not_stopped(executor, order):
    local = executor(SLEEP)
    handle = local.start(order)
    earlier = f"{pid_of(handle)}:{int(handle.partition(':')[2]) - 1}"
    assert local.running([earlier, handle]) == {handle}
    local.stop([earlier])
    assert local.running([handle]) == {handle}


@pytest.mark.parametrize("handle", ["", ":", "x:1", "-1:1", "0:0", "1:0", "²:1", "999999999:1", "12", "self:1"])
def test_unknown_handles_are_ignored(handle):
    local = LocalExecutor()
    assert local.running([handle]) == set()
    local.stop([handle])


def test_the_first_process_of_the_machine_is_never_a_pilot():
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    assert LocalExecutor().running([f"1:{started}"]) == set()


def test_a_pilot_that_ignores_term_is_killed_with_all_its_group_in_about_two_seconds(executor, order):
    local = executor(DEAF)
    handle = local.start(order)
    child = int(eventually(lambda: log_of(order).strip()))
    before = time.monotonic()
    local.stop([handle])
    assert 1.9 < time.monotonic() - before < 6
    assert local.running([handle]) == set()
    eventually(lambda: ended(child))


def test_many_deaf_pilots_take_no_longer_than_one(executor, order, tmp_path):
    local = executor(DEAF, grace=1)
    orders = [PilotOrder(f"p{n}", "here", "http://x", "s", tmp_path / f"p{n}") for n in range(4)]
    handles = [local.start(each) for each in orders]
    for each in orders:
        eventually(lambda each=each: log_of(each).strip())
    before = time.monotonic()
    local.stop(handles)
    assert time.monotonic() - before < 3.5
    eventually(lambda: not local.running(handles))


def test_a_pilot_that_heeds_term_may_end_in_order(executor, order):
    polite = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye'), sys.exit())); print('up', flush=True); time.sleep(60)"  # fmt: skip  # noqa: E501
    local = executor(polite)
    handle = local.start(order)
    eventually(lambda: "up" in log_of(order))
    local.stop([handle])
    assert "bye" in log_of(order)


def test_a_pilot_survives_its_server_and_a_later_server_finds_and_stops_it(order):
    server = f"""
import os, signal, sys
from pathlib import Path
from lightkeeper.adapters.executor_local import LocalExecutor
from lightkeeper.ports import PilotOrder
order = PilotOrder("pilot-1", "here", "http://x", "s", Path({str(order.work_dir)!r}))
print(LocalExecutor([sys.executable, "-c", {SLEEP!r}]).start(order), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    gone = subprocess.run([sys.executable, "-c", server], capture_output=True, text=True, check=False)
    assert gone.returncode == -signal.SIGKILL
    handle = gone.stdout.strip()
    later = LocalExecutor()
    assert later.running([handle]) == {handle}
    later.stop([handle])
    assert later.running([handle]) == set()
    assert ended(pid_of(handle))


def test_a_signal_to_the_servers_group_does_not_reach_the_pilot(executor, order):
    handle = executor(SLEEP).start(order)
    assert os.getpgid(pid_of(handle)) == os.getsid(pid_of(handle)) == pid_of(handle)


def test_a_program_that_cannot_be_started_is_said_so(order):
    with pytest.raises(Unavailable, match="pilot pilot-1 cannot be started at here") as caught:
        LocalExecutor(["/no/such/program"]).start(order)
    assert "s3cret-canary" not in caught.value.message + caught.value.hint


def test_a_work_folder_that_cannot_be_made_is_said_so(order):
    order.work_dir.parent.parent.joinpath("pilots").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be started"):
        LocalExecutor().start(order)
