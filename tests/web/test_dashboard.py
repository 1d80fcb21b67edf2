"""The dashboard: what it says, that nothing from outside becomes markup, and that a real browser keeps it true."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lightkeeper import web
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.context import Context
from lightkeeper.domain.catalog import Media, SiteKind, StorageElement
from lightkeeper.domain.nights import Summary
from lightkeeper.domain.policy import Policy
from lightkeeper.domain.quality import Alarm, NightValue
from lightkeeper.domain.states import Health, Night, Transfer, Transformation
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import delete, ingest, replicate, topology, transfer, watch
from lightkeeper.store import transitions, triggers
from lightkeeper.store.db import Database
from lightkeeper.store.deletions import Stopped
from lightkeeper.store.reports import Totals, TransformationSummary
from lightkeeper.web.overview import judge, waits_for, what_runs
from lightkeeper.web.words import count, file_name, number, plain, share, size, utc

demonstration = pytest.importorskip("lightkeeper_ctao.demo", reason="needs the observatory's package")
simulate = pytest.importorskip("lightkeeper_ctao.simulate", reason="needs the extra ctao")

NIGHT = date(2030, 1, 2)
BAD = 2


# --- the world -----------------------------------------------------------------------------------------------------
class SilentLog:
    def info(self, event: str, **facts: Any) -> None: ...

    warning = error = info


def start(home: Path) -> Instance:
    settings = {"home": home, "port": 0, "trigger_patience": 0.0, "retry_after": 0.0}
    return Instance(Settings.model_validate(settings), work=False, log=SilentLog())


def describe(instance: Instance) -> Path:
    """Apply the demo's topology; returns the interface directory."""
    home = instance.settings.home
    document, roots = demonstration.CtaoDemonstration().topology(home)
    for root in roots:
        root.mkdir(parents=True)
    topology.apply(instance.context, document)
    return home / "storage" / "LaPalma-onsite"


def take_in(instance: Instance) -> None:
    watch.scan(instance.context)
    while ingest.register_accepted(instance.context):
        pass


def preserve(instance: Instance) -> None:
    ctx = instance.context
    while replicate.settle(ctx) + transfer.carry_out(ctx) + delete.delete(ctx):
        pass


def refuse(instance: Instance, path: str, reason: str) -> None:
    """A delivery that was refused, as ingest writes it."""
    with instance.context.db.transaction() as conn:
        storage = conn.execute("SELECT storage_id FROM storage WHERE ingest").fetchone()
        assert storage is not None
        triggers.accept(conn, storage[0], [path])
        line = conn.execute("SELECT trigger_id FROM trigger WHERE path = %s AND state = 'Accepted'", (path,)).fetchone()
        assert line is not None
        triggers.note_quarantine(conn, line[0], reason, f"/.lightkeeper/quarantine/{line[0]}{path}")
        triggers.quarantined(conn, line[0], reason)


@dataclass
class Page(HTMLParser):
    """A page as a reader and as a browser see it."""

    answer: httpx.Response
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(f" {t} " for t in self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def get(instance: Instance, path: str = "/") -> httpx.Response:
    return httpx.get(instance.url + path, trust_env=False, timeout=60)


def page_of(instance: Instance) -> Page:
    """The page as it is now: one that was made before is kept for a few times as long as it took."""
    asked, deadline = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic() + 60
    while True:
        page = Page(get(instance))
        assert page.answer.status_code == 200, page.answer.text
        if (page.all("time")[0]["datetime"] or "") >= asked[:23]:
            return page
        assert time.monotonic() < deadline, "the page is not made anew"
        time.sleep(0.05)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Instance]:
    """An instance without anything."""
    with start(tmp_path) as instance:
        yield instance


@pytest.fixture(scope="module")
def preserved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that has preserved a night, and refused two of its files."""
    with start(tmp_path_factory.mktemp("home")) as instance:
        onsite = describe(instance)
        simulate.simulate_night(onsite, night=NIGHT, events=6, bad=BAD)
        take_in(instance)
        preserve(instance)
        yield instance


# --- what it says --------------------------------------------------------------------------------------------------
def test_an_empty_instance_shows_the_first_steps(fresh: Instance):
    page = page_of(fresh)
    assert "There is nothing to look after yet" in page.text
    assert "lightkeeper demo" in page.text
    assert "lightkeeper apply FILE" in page.text


def test_an_instance_with_storages_only_says_where_deliveries_are_awaited(fresh: Instance):
    describe(fresh)
    page = page_of(fresh)
    assert "All is well: nobody is needed." in page.text
    assert "No night has come in yet" in page.text
    assert "LaPalma-onsite" in page.text
    assert "Nothing has broken so far" in page.text


def test_the_page_shows_the_night_and_how_far_it_is_preserved(preserved: Instance):
    page = page_of(preserved)
    n = next(s["files"] for s in httpx.get(preserved.url + "/api/v1/nights", trust_env=False).json())
    assert "2030-01-02" in page.text
    bar = next(b for b in page.all("div") if b.get("aria-label") == "preserved of night 2030-01-02")
    assert bar["role"] == "progressbar"
    assert (bar["aria-valuenow"], bar["aria-valuemax"]) == (str(n), str(n))
    assert f"{n}/{n}" in page.text
    assert f"freed {n}" in page.text


def test_the_page_shows_every_storage_and_data_centre(preserved: Instance):
    page = page_of(preserved)
    for name in ("LaPalma-onsite", "PIC-disk", "DESY-disk", "CSCS-disk", "Frascati-disk", "PIC-tape", "LaPalma →"):
        assert name in page.text


def test_refused_deliveries_are_shown_with_reason_and_full_path(preserved: Instance):
    page = page_of(preserved)
    refused = httpx.get(preserved.url + "/api/v1/quarantine", trust_env=False).json()
    assert len(refused) >= BAD
    titles = [p.get("title") for p in page.all("p")]
    for delivery in refused:
        assert " ".join(plain(delivery["reason"]).split()) in page.text
        assert file_name(delivery["path"]) in page.text
        assert plain(delivery["path"]) in titles


def test_refused_deliveries_are_told_of_but_wake_nobody(preserved: Instance):
    assert "All is well: nobody is needed now; " in page_of(preserved).text


def test_a_transfer_that_was_given_up_needs_a_person(fresh: Instance):
    simulate.simulate_night(describe(fresh), night=NIGHT, events=6)
    take_in(fresh)
    replicate.settle(fresh.context)
    assert "Now: copying" in page_of(fresh).text
    with fresh.context.db.transaction() as conn:
        first = conn.execute("SELECT min(transfer_id) FROM transfer").fetchone()
        assert first is not None
        transitions.move(conn, [first[0]], Transfer.WAITING, Transfer.FAILED, "no longer wanted")
    page = page_of(fresh)
    assert "A person is needed: 1 transfer was given up." in page.text
    assert "All is well" not in page.text


# --- the sentence --------------------------------------------------------------------------------------------------
NOTHING = Totals(**{f.name: 0 for f in fields(Totals)})
DISK = StorageElement(1, "pic", "PIC", SiteKind.DATA_CENTRE, Media.DISK, "posix", "/pic")
STEP = TransformationSummary(
    id=1,
    production="night",
    step=1,
    name="00000001_Step1_Merging",
    type="Merging",
    status=Transformation.ACTIVE,
    parent=None,
    group_size=1,
    flushes=0,
    files=9,
    unused=0,
    assigned=0,
    processed=9,
    problematic=0,
    tasks=9,
    done=9,
    failed=0,
    failed_attempts=3,
    outputs=9,
)


def sentence(totals: Totals = NOTHING, **facts: Any) -> str:
    known = {"nights": [], "transformations": [], "policies": [], "storages": [DISK]} | facts
    return judge(totals, **known).sentence


def test_failed_attempts_that_were_tried_again_need_nobody():
    assert sentence(transformations=[STEP]) == "All is well: nobody is needed."


def test_tasks_that_failed_in_every_attempt_need_a_person():
    failed = replace(STEP, done=7, failed=2)
    told = "A person is needed: 2 tasks of 00000001_Step1_Merging failed in every attempt."
    assert sentence(transformations=[failed]) == told
    verdict = judge(NOTHING, [], [failed], [], [DISK])
    assert verdict.look_with == ("lightkeeper transformation report 1",)


def test_deletions_that_wait_for_two_people_and_a_storage_that_is_away_wake_somebody():
    held = Stopped("DESY-disk", datetime(2030, 1, 2, tzinfo=UTC), None, 1200)
    verdict = judge(NOTHING, [], [], [], [DISK], (), (), (held,))
    assert (verdict.level, verdict.look_with) == ("person", ("lightkeeper deletion list",))
    assert "deletions at DESY-disk wait for two people" in verdict.sentence
    paused = Stopped("DESY-disk", None, "maria", 3)
    assert judge(NOTHING, [], [], [], [DISK], (), (), (paused,)).level == "well", "somebody paused them and knows"
    away = replace(DISK, health=Health.BANNED)
    assert "does not answer" in judge(NOTHING, [], [], [], [away]).sentence


def test_the_sentence_stays_a_sentence_when_much_has_failed():
    many = [replace(STEP, id=n, name=f"step{n}", failed=1) for n in range(1, 9)]
    told = sentence(transformations=many)
    assert told.endswith("1 task of step3 failed in every attempt; so did tasks of 5 other transformations.")


def test_a_policy_that_nothing_can_fulfil_needs_a_person_when_files_wait_for_it():
    two = Policy(1, "DL0", {}, copies=2)
    assert sentence(policies=[two]).startswith("All is well")
    told = sentence(replace(NOTHING, unsettled=5), policies=[two])
    assert told == (
        "A person is needed: policy DL0 wants 2 copies on disk at distinct data centres, but only 1 can hold one."
    )


def summary(**numbers: int) -> Summary:
    zero = {field.name: 0 for field in fields(Summary) if field.type is int}
    at = datetime(2030, 1, 3, tzinfo=UTC)
    more = {"night": "2030-01-02", "state": Night.OPEN, "since": at, "changed": at, "expected": None, "receipt": None}
    return Summary(**zero | more | numbers)


def test_files_with_too_few_copies_need_a_person_only_when_none_is_under_way():
    night = summary(files=9, on_site=9, preserved=6)
    assert sentence(nights=[night]).startswith("A person is needed: 3 files have too few copies")
    for at_work in ("unsettled", "transfers_waiting", "transfers_running"):
        assert sentence(replace(NOTHING, **{at_work: 1}), nights=[night]).startswith("All is well")


def test_a_quality_figure_out_of_range_needs_a_person():
    value = NightValue("2030-01-02", "LSTN-01", files=9, mean=5, least=5, most=70, below=0, above=2)
    told = sentence(alarms=[Alarm("row_rate", "Hz", None, 60, value)] * 5)
    assert "quality is out of range: row_rate of LSTN-01 in night 2030-01-02: 70 Hz is above 60 Hz" in told
    assert told.endswith("so are 2 other figures.")


def test_what_runs_is_told_in_words():
    busy = replace(NOTHING, triggers_open=1, transfers_running=1, transfers_waiting=1, jobs_running=1)
    assert what_runs(busy) == "verifying 1 delivery, copying 2 files, running 1 job"
    assert what_runs(NOTHING) == ""


def test_only_what_is_not_complete_waits_for_something():
    assert waits_for(Transformation.COMPLETED, None) == ""
    assert "somebody" in waits_for(Transformation.STOPPED, None)


# --- safety --------------------------------------------------------------------------------------------------------
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


def test_text_from_files_never_becomes_markup(preserved: Instance):
    refuse(preserved, '/ctao/"><img src=x onerror=alert(3)>.fits', HOSTILE + "\x1b[31m\u202egnp.exe")
    page = page_of(preserved)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.answer.text
    assert HOSTILE in page.text
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert "\x1b" not in page.answer.text
    assert "\u202e" not in page.answer.text


def test_the_page_runs_nothing_but_our_own_files(preserved: Instance):
    page = page_of(preserved)
    policy = dict(part.strip().split(" ", 1) for part in page.answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert page.answer.headers["X-Content-Type-Options"] == "nosniff"
    assert page.answer.headers["Referrer-Policy"] == "no-referrer"
    assert page.answer.headers["Cache-Control"] == "no-store"
    assert not page.all("style")
    for tag, attrs in page.tags:
        assert "style" not in attrs, tag
        assert not [name for name in attrs if name.startswith("on")], tag
        for address in (attrs.get("src"), attrs.get("href")):
            ours = "/" if tag == "a" else "/static/"  # a link leads to another of our pages
            assert address is None or address.startswith(ours), tag
    assert all(script.get("src") for script in page.all("script"))


def test_static_files_are_ours_and_nothing_else(preserved: Instance):
    for name, kind in web.KINDS.items():
        answer = get(preserved, f"/static/{web.BUILD}/{name}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert get(preserved, f"/static/{web.BUILD}/..%2F__init__.py").status_code == 404
    assert get(preserved, "/static/x/operator.token").status_code == 404


def test_a_database_that_does_not_answer_is_told_of(tmp_path: Path):
    ctx = Context(
        db=Database("postgresql://nobody@127.0.0.1:1/nothing"),  # not opened
        settings=Settings.model_validate({"home": tmp_path}),
        log=SilentLog(),
        storage_drivers={},
        mover=StreamMover(),
        executors={},
        observatories=(),
    )
    app = FastAPI()
    web.add_pages(app, ctx)
    answer = TestClient(app).get("/")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text
    assert "Content-Security-Policy" in answer.headers


def test_a_page_that_many_look_at_is_made_by_one():
    made: list[int] = []

    def make() -> tuple[str, int]:
        time.sleep(0.1)
        made.append(1)
        return f"page {len(made)}", 200

    page = web.OneAtATime(make)
    seen: list[tuple[str, int]] = []
    readers = [threading.Thread(target=lambda: seen.append(page.get())) for _ in range(10)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == [("page 1", 200)] * 10
    time.sleep(0.1 * web.OneAtATime.REST + 0.05)
    assert page.get() == ("page 2", 200)


def test_who_comes_while_the_page_is_made_is_handed_the_one_before():
    begun, may_end = threading.Event(), threading.Event()
    pages = chain(["old"], repeat("new"))  # made anew at any later time on a slow machine

    def make() -> tuple[str, int]:
        page = next(pages)
        if page == "new":
            begun.set()
            may_end.wait(10)
        return page, 200

    page = web.OneAtATime(make)
    assert page.get() == ("old", 200)
    time.sleep(0.05)
    slow = threading.Thread(target=page.get)
    slow.start()
    begun.wait(10)
    assert page.get() == ("old", 200)
    may_end.set()
    slow.join()
    assert page.get() == ("new", 200)


# --- words ---------------------------------------------------------------------------------------------------------
def test_numbers_times_and_texts_are_as_people_read_them():
    assert size(999) == "999\u00a0B"
    assert size(1_500_000_000) == "1.5\u00a0GB"
    assert number(1234567) == "1\u202f234\u202f567"
    assert [count(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert utc(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2030-01-02 03:04:05"
    assert file_name("/a/b/c.fits") == "c.fits"
    assert len(plain("x" * 5000)) < 700


def test_a_share_is_full_only_when_it_is():
    assert [share(part, 1000) for part in (0, 1, 500, 999, 1000, 2000)] == [0, 0.5, 50, 99.5, 100, 100]
    assert share(0, 0) == 0


# --- a real browser ------------------------------------------------------------------------------------------------
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
                          (e) => window.violations.push(e.violatedDirective + " " + e.blockedURI));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.exists():
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


@dataclass
class Tab:
    """An open page and everything it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def wait(self, condition: str) -> None:
        """Until the condition holds. Playwright's own wait would need 'unsafe-eval', which the page forbids."""
        deadline = time.monotonic() + 20
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition} did not come true; {self.complaints}"
            self.page.wait_for_timeout(100)

    def contentment(self) -> list[str]:
        return self.complaints + self.page.evaluate("window.violations")


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    contexts: list[Any] = []

    def open_(url: str, **options: Any) -> Tab:
        context = browser.new_context(**options)
        contexts.append(context)
        context.add_init_script(NOTE_VIOLATIONS)
        tab = Tab(context.new_page())
        tab.page.on("console", lambda m: tab.complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.goto(url)
        return tab

    yield open_
    for context in contexts:
        with suppress(Exception):
            context.close()


def test_an_open_page_follows_what_happens_and_stays_where_it_was(preserved: Instance, open_tab: Callable[..., Tab]):
    tab = open_tab(preserved.url, viewport={"width": 1280, "height": 500})
    tab.wait("document.getElementById('connection').dataset.state === 'live'")
    tab.page.evaluate("window.scrollTo(0, 300); document.querySelector('#nights').ours = true")
    refuse(preserved, "/ctao/live.fits", "it came while the page was open")
    tab.wait("document.body.innerText.includes('it came while the page was open')")
    assert tab.page.evaluate("window.scrollY") == 300
    assert tab.page.evaluate("document.querySelector('#nights').ours"), "what did not change was left alone"
    assert tab.contentment() == []


def test_an_open_page_says_when_the_connection_is_lost_and_when_it_is_back(
    preserved: Instance, open_tab: Callable[..., Tab]
):
    tab = open_tab(preserved.url)
    tab.page.context.set_offline(True)
    tab.wait("document.getElementById('connection').textContent.startsWith('connection lost since')")
    tab.page.context.set_offline(False)
    tab.wait("document.getElementById('connection').textContent === 'live'")
    assert "2030-01-02" in tab.page.inner_text("main")


def test_bars_are_drawn_although_inline_style_is_forbidden(preserved: Instance, open_tab: Callable[..., Tab]):
    tab = open_tab(preserved.url)
    bar = "document.querySelector('.nights .bar').getBoundingClientRect().width"
    done = "document.querySelector('.nights .bar .done').getBoundingClientRect().width"
    assert tab.page.evaluate(bar) > 50
    assert tab.page.evaluate(done) == pytest.approx(tab.page.evaluate(bar), abs=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_every_width(preserved: Instance, open_tab: Callable[..., Tab], width: int, scheme: str):
    refuse(preserved, f"/ctao/{'Long' * 60}.fits", "word" * 80)
    tab = open_tab(preserved.url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.contentment() == []


def test_hostile_text_runs_nothing_in_a_browser(preserved: Instance, open_tab: Callable[..., Tab]):
    refuse(preserved, '/ctao/"><img src=x onerror=window.hit=1>.fits', "<script>window.hit=1</script>")
    tab = open_tab(preserved.url)
    tab.wait("document.getElementById('connection').dataset.state === 'live'")
    tab.page.wait_for_timeout(2500)  # a refresh later
    assert tab.page.evaluate("window.hit === undefined")
    assert tab.contentment() == []


def test_the_page_is_whole_without_javascript(preserved: Instance, open_tab: Callable[..., Tab]):
    tab = open_tab(preserved.url, java_script_enabled=False)
    assert "2030-01-02" in tab.page.inner_text("main")
    assert tab.page.inner_text("#connection") == "load again for news"
