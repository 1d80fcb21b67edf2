"""The documentation is true: its commands run, its links lead somewhere, its reference is that of the program.

Executed are, page by page and in order, the `$ ` lines of every ```console block and the whole of every ```bash block,
in a fresh folder with a fresh home. Words behind the language say how:

    ```console no-run           long, or needs what a test has not; at most as many as MAY_NOT_RUN allows
    ```console until=REGEX      the last command is repeated until its output matches, as the page tells the reader
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from textwrap import dedent
from urllib.parse import unquote

import pytest

from lightkeeper.settings import Settings
from lightkeeper.store import postgres

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import make_reference  # noqa: E402  # it is no package

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
WITH_COMMANDS = [
    ROOT / "README.md",
    *sorted((DOCS / "tutorials").glob("*.md")),
    *sorted((DOCS / "how-to").glob("*.md")),
]
WITH_CTAPIPE = {"first-night.md", "first-production.md"}
WITH_OTHER_DATABASE = {"use-your-own-postgresql.md"}
PATIENCE = 300
MAY_NOT_RUN = {
    "make demo", "make test", "git clone", "pip install", "createuser", "createdb", "docker", "ssh",
}  # fmt: skip
"""What a page may show without its being run: it takes long, or needs a network or another machine."""

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?P<how>[^\n]*)\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)


WAIT_FOR_UP = """
for n in $(seq 300); do grep -qs "\\"pid\\": $!," "$LIGHTKEEPER_HOME/run/instance.json" && break; sleep 0.1; done
grep -qs "\\"pid\\": $!," "$LIGHTKEEPER_HOME/run/instance.json" || fail
"""
"""Until the program that was just started in the background answers, as its first line would tell a person."""

RUNNING = f"""
mkdir -p data/onsite data/north data/south
sed "s|/data|$PWD/data|" docs/examples/topology.yaml > topology.yaml
cp -r night/. data/onsite/
lightkeeper up 2> log.txt &
{WAIT_FOR_UP}
lightkeeper apply topology.yaml || fail
for n in $(seq 60); do lightkeeper night list | grep -qE 'PRESERVED' && break; sleep 0.3; done
lightkeeper night list | grep -qE 'PRESERVED' || fail
"""
"""How-tos speak to people with an instance that runs, and a night in it."""
PRESERVED = RUNNING.replace("PRESERVED", "0 +6$")
WITH_ONE_CENTRE = RUNNING.replace("PRESERVED", "6 +0$").replace("sed ", "sed -e '/south-disk/d' -e ", 1)
WITH_TASKS_THAT_WAIT = (
    PRESERVED.replace("sed ", "sed -e 's/, computing: {.*}}/}/' -e ", 1)
    + "lightkeeper production submit first docs/examples/production.yaml || fail\n"
)
BEFORE = {
    "add-a-storage.md": PRESERVED,
    "first-production.md": PRESERVED,
    "write-a-production-in-cwl.md": PRESERVED.replace("sed ", "sed -e 's/, computing: {.*}}/}/' -e ", 1),
    "run-a-campaign.md": PRESERVED,
    "close-a-night.md": PRESERVED,
    "decide-about-refused-deliveries.md": PRESERVED,
    "replace-acada-ingest.md": """
command -v acada-ingest > none.txt || acada-ingest() { python -m lightkeeper_ctao.acada_ingest "$@"; }
""",
    "take-products-in.md": PRESERVED,
    "watch-with-prometheus.md": PRESERVED,
    "why-is-a-file-not-freed.md": WITH_ONE_CENTRE,
    "read-a-report.md": WITH_TASKS_THAT_WAIT,
    "why-is-my-transformation-not-ending.md": WITH_TASKS_THAT_WAIT,
    "manage-transformations.md": WITH_TASKS_THAT_WAIT,
    "recover-after-a-crash.md": PRESERVED,
    "put-and-get-files.md": PRESERVED,
    "audit-a-storage.md": PRESERVED,
    "restore-a-lost-file.md": PRESERVED,
    "register-existing-files.md": PRESERVED,
    "work-with-datasets.md": PRESERVED,
    "say-what-files-are-owed.md": PRESERVED,
    "delete-and-move-data.md": PRESERVED,
    "watch-transfers.md": PRESERVED,
    "drain-a-site.md": PRESERVED,
    "use-tape.md": PRESERVED,
}


# --- commands --------------------------------------------------------------------------------------------------
def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, how and text of each fenced block with commands."""
    for found in FENCE.finditer(page.read_text()):
        if found["language"] in ("console", "bash"):
            yield found["language"], found["how"].strip(), dedent(found["text"])


def commands_of(text: str) -> list[str]:
    """Commands of a console block; a line that ends with a backslash goes on in the next."""
    commands: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            commands.append(command)
    return commands


def script_of(page: Path) -> str:
    """The page as a script that stops at the first command that fails."""
    parts = ['begin() { echo "::: $SECONDS s: $*" >&2; }', 'fail() { echo "::: failed with $?" >&2; exit 99; }']
    parts.append(BEFORE.get(page.name, ""))
    for language, how, text in blocks(page):
        if how == "no-run":
            continue
        if language == "bash":
            parts += [f"begin {_quoted(text.splitlines()[0])}", "set -e", text, "set +e"]
            continue
        commands = commands_of(text)
        until = how.removeprefix("until=") if how.startswith("until=") else ""
        for number, command in enumerate(commands, 1):
            parts.append(f"begin {_quoted(command.splitlines()[0])}")
            if until and number == len(commands):
                parts.append(
                    f'for n in $(seq 100); do out=$({command}) || fail; grep -qE {_quoted(until)} <<<"$out" && break; '
                    f'sleep 1; done\necho "$out"; grep -qE {_quoted(until)} <<<"$out" || fail'
                )
            elif command.rstrip().endswith("&"):
                parts.append(f"{command}\n{WAIT_FOR_UP}")
            else:
                parts.append(f"{{ {command}\n}} || fail")
    return "\n".join([*parts, "begin the end", "jobs -pr | xargs -r kill; wait"]) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a page: exit status, what it printed, and programs that it left running."""

    status: int
    told: str
    left: list[str]


def run_page(page: Path, folder: Path, night: Path) -> Ran:
    """Run the commands of a page in `folder`, as somebody who has a night and the checkout's examples there."""
    shutil.copytree(night, folder / "night", symlinks=True)  # triggers are links
    shutil.copytree(DOCS / "examples", folder / "docs" / "examples")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LIGHTKEEPER_", "PG"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LIGHTKEEPER_HOME": str(folder / "home"),
        "LIGHTKEEPER_PORT": "0",
        "LIGHTKEEPER_PILOT_IDLE": "2",
        "LIGHTKEEPER_PILOT_SILENCE": "10",
        "LIGHTKEEPER_SHARED_BUFFERS_MB": "64",
        "HOME": str(folder),
    }
    with ExitStack() as stack:
        if page.name in WITH_OTHER_DATABASE:
            server = stack.enter_context(postgres.start(folder / "other", shared_buffers_mb=64))
            environment["LIGHTKEEPER_DATABASE_URL"] = server.url
        script, told = folder / "page.sh", folder / "told.txt"
        script.write_text(script_of(page))
        process = subprocess.Popen(
            ["bash", str(script)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context(told.open("wb")),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            status = -1
        return Ran(status, told.read_text(errors="replace"), _end_all_of(process.pid))


@pytest.fixture(scope="session")
def running_pages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, "Future[Ran]"]]:
    """The pages that were asked for, several at once: most of their time is waiting."""
    simulate = pytest.importorskip("lightkeeper_ctao.simulate", reason="needs the extra ctao")
    night = tmp_path_factory.mktemp("night")
    simulate.simulate_night(night, night=date(2026, 3, 14), events=2)
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    pages = [params["page"] for params in asked if params.get("page") in WITH_COMMANDS]
    pages.sort(key=lambda page: page.name not in WITH_CTAPIPE)  # the longest first
    with ThreadPoolExecutor(max_workers=3) as pool:
        yield {
            page: pool.submit(run_page, page, tmp_path_factory.mktemp(page.stem), night)
            for page in dict.fromkeys(pages)
        }


def marks_of(page: Path) -> list[pytest.MarkDecorator]:
    """What a page needs, and what it proves."""
    marks = [pytest.mark.ctapipe] if page.name in WITH_CTAPIPE else []
    return [*marks, pytest.mark.feature("S0-127W")] if page.name == "first-production.md" else marks


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=marks_of(page), id=page.name) for page in WITH_COMMANDS],
)
def test_every_command_of_a_page_runs(page: Path, running_pages: dict[Path, "Future[Ran]"]):
    ran = running_pages[page].result()
    assert ran.status == 0, f"{page.name} failed:\n{ran.told[-6000:]}"
    assert not ran.left, f"{page.name} leaves {ran.left} running: end what it starts"


def _end_all_of(session: int) -> list[str]:
    """End what a page left running in its session, services first asked and then killed."""
    left: list[str] = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, IndexError):
                name, _, fields = stat.read_text().rpartition(")")
                if int(fields.split()[3]) == session and fields.split()[0] != "Z":
                    left.append(name)
                    os.kill(int(stat.parent.name), number)
        if not left:
            break
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "2"], timeout=5, check=False)
    return left


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ true\n$ false\n$ true\n```\n",
        "```bash\nfalse\ntrue\n```\n",
        "1. In a list\n\n   ```console\n   $ false\n   ```\n",
    ],
)
def test_a_command_that_fails_is_noticed(text: str, tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(text)
    assert subprocess.run(["bash", "-c", script_of(page)], capture_output=True, check=False).returncode != 0


def test_what_is_not_run_is_known_to_be_long():
    shown = [
        command
        for page in WITH_COMMANDS
        for language, how, text in blocks(page)
        if how == "no-run"
        for command in (commands_of(text) if language == "console" else text.splitlines())
    ]
    assert shown
    assert [one for one in shown if not one.startswith(tuple(MAY_NOT_RUN))] == []


# --- links -----------------------------------------------------------------------------------------------------
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"|<source[^>]*srcset=\"([^\"]+)\"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    text = FENCE.sub("", page.read_text())
    broken: list[str] = []
    for found in LINK.finditer(text):
        link = unquote(next(part for part in found.groups() if part))
        if link.startswith(("https://", "mailto:")):
            continue
        target, _, heading = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (heading and file.suffix == ".md" and heading not in headings(file)):
            broken.append(link)
    assert broken == []


def headings(page: Path) -> set[str]:
    """Anchors of a page as GitLab and GitHub make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_can_be_reached_from_the_index():
    seen = {DOCS / "index.md"}
    todo = [DOCS / "index.md"]
    while todo:
        page = todo.pop()
        for found in LINK.finditer(page.read_text()):
            target = (page.parent / next(part for part in found.groups() if part).partition("#")[0]).resolve()
            if target.suffix == ".md" and target not in seen and target.exists():
                seen.add(target)
                todo.append(target)
    assert set(DOCS.rglob("*.md")) - seen == set()


# --- the reference ---------------------------------------------------------------------------------------------
@pytest.mark.feature("S4-034")
def test_the_generated_pages_are_up_to_date():
    old = [page.name for page, text in make_reference.pages() if page.read_text() != text]
    assert old == [], "run: python docs/make_reference.py"


def test_every_generated_part_stands_on_a_page():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    assert {name for name in make_reference.PARTS if f"<!-- generated: {name} -->" not in text} == set()


def test_every_command_is_in_the_reference():
    text = (DOCS / "reference" / "cli.md").read_text()
    commands = [words for words, _ in make_reference.commands()]
    assert len(commands) > 10
    assert [words for words in commands if f"\n## {words}\n" not in text] == []


def test_every_setting_is_in_the_reference():
    text = (DOCS / "reference" / "settings.md").read_text()
    assert [name for name in Settings.model_fields if f"| `{name}` |" not in text] == []


def test_every_command_that_a_page_names_exists():
    known = {words.removeprefix("lightkeeper ") for words, _ in make_reference.commands()}
    groups = {words.split()[0] for words in known}
    known.add("ingest")  # of files, whose names follow at once
    unknown: list[str] = []
    for page in PAGES:
        for words in re.findall(r"(?:`|^\$ )lightkeeper ((?:[a-z][a-z-]* ?)+)", page.read_text(), re.MULTILINE):
            said = words.split()
            if said[0] in groups and len(said) == 1:
                continue
            if not any(" ".join(said[:n]) in known for n in (1, 2, 3)):
                unknown.append(f"{page.name}: lightkeeper {words}")
    assert unknown == []
