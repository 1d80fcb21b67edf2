"""What PostgreSQL answers to a query is what the query means, on random catalogues; hostile ones change nothing."""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.conftest import World
from tests.domain.test_query_language import FILE_VALUES, VALUES, condition_of, texts, trees
from tests.steps.test_work import Hands, do_all, submit

from lightkeeper.domain import states
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound
from lightkeeper.domain.query import (
    OPERATORS,
    And,
    Facts,
    FileCondition,
    Not,
    Op,
    Or,
    Query,
    Tree,
    Word,
    conditions,
    file_condition,
    key_condition,
)
from lightkeeper.domain.query_text import parse, read, to_text
from lightkeeper.steps import catalogue, datasets
from lightkeeper.steps.catalogue import Wanted
from lightkeeper.steps.datasets import NewDataset
from lightkeeper.store import catalog, changes, db, queries, topology
from lightkeeper.store import datasets as stored
from lightkeeper.store.queries import Page, Place, Sort
from lightkeeper.store.transitions import move_replicas
from lightkeeper_ctao.keys import KEYS

OWN_KEYS = [
    MetaKey("pointing", KeyType.JSON),
    MetaKey("calibrated", KeyType.BOOL),
    MetaKey("weather", KeyType.JSON, KeyLevel.FILE),
    MetaKey("size", KeyType.INT),
    MetaKey('odd "key" $.x\' %s {}', KeyType.STRING, KeyLevel.FILE),
]
USED = [
    "MCCampaign", "array_layout", "site", "particle", "thetaP", "phiP", "split", "data_level", "outputType",
    "configuration_id", "merged", "start_time", "tel_ids", "nsb", "level", "number", *(key.name for key in OWN_KEYS),
]  # fmt: skip
ODD_TEXTS = ["gamma", "proton", "LaPalma", "100%", "a_b", "a\\b", "é*", "", "'", '"', "x\ny", "😀", "$.x", "gammа"]


@dataclass
class Known:
    """A catalogue, and every fact of it read without any query."""

    world: World
    vocabulary: Vocabulary
    facts: dict[str, Facts]
    now: datetime

    def meant(self, query: Query, expanded: Query) -> set[str]:
        """Files that are not Current are meant by a query for states, and by the list of a frozen dataset."""
        words = [c.word for c in conditions(query.tree) if isinstance(c, FileCondition)]
        lists = wanted_lists(expanded.tree)
        return {
            lfn
            for lfn, facts in self.facts.items()
            if query.matches(facts)
            and (Word.FILE_STATE in words or facts.file_state == "Current" or not facts.datasets.isdisjoint(lists))
        }


def wanted_lists(tree: Tree, wanted: bool = True) -> set[str]:
    """Frozen datasets that a query asks for, not those that it leaves out."""
    match tree:
        case And(parts) | Or(parts):
            return {name for part in parts for name in wanted_lists(part, wanted)}
        case Not(part):
            return wanted_lists(part, not wanted)
        case FileCondition(Word.DATASET, Op.EQ, str() as name) if wanted:
            return {name}
        case _:
            return set()


def some_value(rng: random.Random, key: MetaKey) -> Any:
    match key.type:
        case KeyType.STRING:
            return rng.choice(ODD_TEXTS)
        case KeyType.INT:
            return rng.choice([-1, 0, 1, 2, 3, 10**12])
        case KeyType.FLOAT:
            return rng.choice([20, 20.0, 40.5, -1e-7, 180.0])
        case KeyType.BOOL:
            return rng.random() < 0.5
        case KeyType.TIME:
            return rng.choice(["2026-03-14T20:00", "2026-03-14T20:00:00.5", "2026-03-14T20:00+02:00", "2025-01-01"])
        case KeyType.JSON:
            return rng.choice([
                {"alt": {"mean": rng.choice([60, 70.5, "high", True, None])}, "az": 10},
                [1, 2, "x"], [], {}, [[1, [2]], 3], {"alt": [{"mean": 60}, {"mean": "low"}]}, {"a b": {"": 1}},
            ])  # fmt: skip
    raise AssertionError(key)


def fill(world: World, seed: int) -> Known:
    """A catalogue with 60 random files, replicas in every state, and a production of two steps."""
    rng = random.Random(seed)
    with world.ctx.db.transaction() as conn:
        topology.put_keys(conn, [*KEYS, *OWN_KEYS])
        vocabulary = topology.vocabulary(conn)
    sets = [
        {
            name: some_value(rng, vocabulary.key(name))
            for name in USED
            if vocabulary.key(name).level is KeyLevel.SET and name != "level" and rng.random() < 0.6
        }
        for _ in range(8)
    ]
    for i in range(60):
        own = {
            name: some_value(rng, vocabulary.key(name))
            for name in USED
            if vocabulary.key(name).level is KeyLevel.FILE and rng.random() < 0.6
        }
        scope = rng.choice(["acada", "simulation", "user/maria"])
        lfn = f"/ctao/{scope}/d{i % 3}/TEL00{i % 4}_{'x' * rng.randrange(20)}{i}.fits"
        for storage in rng.sample(["north", "east", "south", "vault"], rng.randrange(1, 4)):
            world.register(lfn, storage=storage, **(rng.choice(sets[:3]) if i < 6 else sets[i % 8]) | own)
    submit(world, {"query": {"level": 0}, "group_size": 25}, {"query": {}, "group_size": 2, "parent": 1})
    do_all(world, Hands.at(world, "North"))
    with world.ctx.db.transaction() as conn:
        replicas = conn.execute("""
            SELECT file_id, min(storage_id) FROM replica GROUP BY file_id HAVING count(*) > 1 ORDER BY file_id
        """).fetchall()
        odd = [(file_id, storage_id) for file_id, storage_id in rng.sample(replicas, 15)]
        move_replicas(conn, odd, states.Replica.AVAILABLE, states.Replica.SUSPECT, "test")
        move_replicas(conn, odd[:7], states.Replica.SUSPECT, states.Replica.LOST, "test")
        conn.execute("UPDATE file SET created = now() - (file_id % 7) * interval '1 day' - interval '1 hour'")
    datasets.create(world.ctx, NewDataset("by/keys", "level = 0 and number between 0..30"))
    datasets.create(world.ctx, NewDataset("by/files", "size > 32 or exists(split)"))
    datasets.create(world.ctx, NewDataset("frozen", "not (dataset = by/keys) or number < 3"))
    datasets.freeze(world.ctx, "frozen")
    with world.ctx.db.transaction() as conn:
        ids = db.values(conn, "SELECT file_id FROM file ORDER BY 1")
        for state in (states.File.SUPERSEDED, states.File.CORRUPTED):
            changes.move_files(conn, rng.sample(ids, 5), states.File.CURRENT, state, "test")
    return Known(world, vocabulary, *everything(world))


def everything(world: World) -> tuple[dict[str, Facts], datetime]:
    """Every file's facts, by plain reading."""
    with world.ctx.db.transaction() as conn:
        now = db.now(conn)
        files = catalog.files_by_id(conn, db.values(conn, "SELECT file_id FROM file"))
        scopes = dict(conn.execute("SELECT path, name FROM directory JOIN scope USING (scope_id)").fetchall())
        made = {
            activity: frozenset({transformation, production})
            for activity, transformation, production in conn.execute("""
                SELECT activity_id, transformation_id, p.name
                  FROM activity JOIN job USING (job_id)
                  JOIN transformation USING (transformation_id) JOIN production p USING (production_id)
            """).fetchall()
        }
        used = conn.execute("SELECT activity_id, file_id FROM used").fetchall()
        replicas = catalog.replicas_of(conn, [f.file_id for f in files])
    by_id = {f.file_id: f for f in files}
    parents: dict[str, set[str]] = {
        f.lfn: {by_id[source].lfn for activity, source in used if activity == f.activity_id} for f in files
    }

    def above(lfn: str) -> set[str]:
        return parents[lfn] | {older for parent in parents[lfn] for older in above(parent)}

    ancestors = {f.lfn: above(f.lfn) for f in files}
    with world.ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        held = dict(conn.execute("SELECT file_id, state::text FROM file JOIN meta_set USING (set_id)").fetchall())
        dynamic = [
            (row.name, Query.from_map(row.query, vocabulary)) for row in stored.datasets(conn) if row.frozen is None
        ]
        on_list = db.values(conn, "SELECT file_id FROM dataset_file")
    facts: dict[str, Facts] = {}
    for f in files:
        copies = [r for r in replicas if r.file_id == f.file_id]
        there = [r for r in copies if r.state is states.Replica.AVAILABLE]
        of_file = Facts(
            meta=f.meta,
            lfn=f.lfn,
            size=f.size,
            scope=scopes[f.lfn.rpartition("/")[0]],
            created=f.created,
            now=now,
            storages=frozenset(r.storage for r in there),
            sites=frozenset(r.site for r in there),
            states=frozenset(str(r.state) for r in copies),
            produced_by=made.get(f.activity_id, frozenset()),
            ancestor_of=frozenset(lfn for lfn, older in ancestors.items() if f.lfn in older),
            descendant_of=frozenset(ancestors[f.lfn]),
            file_state=held[f.file_id],
        )
        names = {name for name, query in dynamic if query.matches(of_file)} | (
            {"frozen"} if f.file_id in on_list else set()
        )
        facts[f.lfn] = replace(of_file, datasets=frozenset(names))
    return facts, now


def leaves(known: Known) -> st.SearchStrategy[Tree]:
    """Conditions whose values are mostly those that occur."""
    facts = list(known.facts.values())
    occur: dict[Word, list[Any]] = {
        word: sorted({v for f in facts for v in f.of(word)}, key=str) for word in Word if word is not Word.CREATED
    }
    occur[Word.CREATED] = sorted({f.created for f in facts})

    @st.composite
    def make(draw: st.DrawFn) -> Tree:
        if draw(st.integers(0, 2)) == 0:
            word = draw(st.sampled_from(Word))
            plain = FILE_VALUES.get(word, texts) if word is not Word.DATASET else st.sampled_from(occur[word])
            values = st.sampled_from(occur[word]) if draw(st.integers(0, 3)) else plain
            op, value = condition_of(draw, sorted(OPERATORS[word]), values)
            if op is Op.LIKE:
                value = draw(st.sampled_from(["*", "TEL00?_*", "*x1*", "/ctao/*/d1", "no*", "S*", "?outh", ""]))
            return file_condition(word, op, value)
        key = known.vocabulary.key(draw(st.sampled_from(USED)))
        have = [f.meta[key.name] for f in facts if key.name in f.meta]
        values = VALUES[key.type] if key.type is KeyType.JSON or not draw(st.integers(0, 3)) else st.sampled_from(have)
        path: list[str] = []
        if key.type is KeyType.JSON:
            path = draw(st.sampled_from([[], ["alt"], ["alt", "mean"], ["a b", ""], ["az"], ["no"]]))
            values = st.sampled_from([1, 2, 3, 10, 60, 70.5, "x", "low", "high"]) | st.booleans()
        ops = [op for op in Op if op is not Op.LIKE or key.type in (KeyType.STRING, KeyType.JSON)]
        if key.type is KeyType.BOOL:
            ops = [Op.EQ, Op.NE, Op.IN, Op.NOT_IN, Op.EXISTS, Op.MISSING]
        op, value = condition_of(draw, ops, values)
        if isinstance(value, bool) and op in (Op.LT, Op.LE, Op.GT, Op.GE):
            value = 60
        if op is Op.LIKE:
            value = draw(st.sampled_from(["*", "g*", "?????", "*%*", "a_b", "*\\*", "x*y", "😀", "é**", "gamma.", ""]))
        if op is Op.BETWEEN and key.type in (KeyType.INT, KeyType.FLOAT) and value == ["same", "same"]:
            value = [1, 2]
        return key_condition(key, path, op, value)

    return make()


def pages_of(world: World, plan: queries.Plan, sorts: tuple[Sort, ...], limit: int) -> Iterator[Page]:
    place: Place | None = Place(fetch=2, budget=limit)
    while place is not None:
        with world.ctx.db.transaction() as conn:
            page = queries.page(conn, plan, sorts, place, limit, queries.FILES)
        yield page
        place = page.next


def check(known: Known, query: Query, limit: int) -> None:
    with known.world.ctx.db.transaction() as conn:
        expanded = stored.expanded(conn, query, known.vocabulary)
    plan = queries.compile_query(expanded, known.vocabulary, known.now)
    found = [file for page in pages_of(known.world, plan, (), limit) for file in page.files]
    meant = known.meant(query, expanded)
    assert {file.lfn for file in found} == meant, to_text(query)
    assert len(found) == len(meant)
    with known.world.ctx.db.transaction() as conn:
        size = queries.count(conn, plan)
    assert size == queries.Size(len(meant), sum(known.facts[lfn].size for lfn in meant))


def compare(world: World, seed: int, examples: int) -> None:
    known = fill(world, seed)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(trees(leaves(known)), st.sampled_from([1, 7, 1000]))
    def every_query(tree: Tree, limit: int) -> None:
        check(known, Query(tree), limit)

    every_query()


@pytest.mark.feature("S0-039", "S0-041", "S1-011", "S1-012", "S1-013", "S1-015")
@pytest.mark.parametrize("seed", [1, 2])
def test_what_the_database_answers_is_what_the_query_means(world: World, seed: int):
    compare(world, seed, 250)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10, 30))
def test_what_the_database_answers_is_what_the_query_means_on_many_catalogues(world: World, seed: int):
    compare(world, seed, 1000)


@pytest.mark.feature("S1-013")
def test_a_file_level_key_tells_three_files_apart(world: World):
    catalogue.define_key(world.ctx, next(key for key in KEYS if key.name == "split"))
    for split in ("train_en", "train_cl", "test"):
        world.register(f"/ctao/simulation/{split}.h5", split=split)
    assert found(world, "split = train_cl") == ["/ctao/simulation/train_cl.h5"]


def found(world: World, query: str | Mapping[str, Any], **more: Any) -> list[str]:
    return [file.lfn for file in catalogue.find(world.ctx, Wanted(query, **more))]


@pytest.mark.feature("S2-045")
def test_nested_metadata_are_asked_for_by_path_and_the_index_answers(world: World):
    catalogue.define_key(world.ctx, MetaKey("pointing", KeyType.JSON))
    for i in range(20):
        world.register(f"/ctao/a/f{i}", pointing={"alt": {"mean": i}, "mode": ["wobble", f"run {i}"]})
    assert found(world, "pointing.alt.mean = 7") == ["/ctao/a/f7"]
    assert found(world, "pointing.mode = 'run 8'") == ["/ctao/a/f8"]
    assert len(found(world, "pointing.alt.mean between 5..9 and not (pointing.alt.mean in (6, 7))")) == 3
    with world.ctx.db.transaction() as conn:
        conn.execute("SET LOCAL enable_seqscan = off")
        plan = queries.compile_query(
            parse("pointing.alt.mean = 7 and level = 0", topology.vocabulary(conn)),
            topology.vocabulary(conn),
            db.now(conn),
        )
        assert queries.index_used(conn, plan)


# --- order and pages -------------------------------------------------------------------------------------------
SORTS = [
    tuple(Sort(key, down) for key, down in zip(keys, downs, strict=True))
    for n in (1, 2, 3)
    for keys in itertools.permutations(queries.SORTS, n)
    for downs in itertools.product([False, True], repeat=n)
]


def test_pages_by_keyset_are_one_big_answer_for_every_order(world: World):
    known = fill(world, 3)
    with world.ctx.db.transaction() as conn:
        conn.execute("UPDATE file SET created = date_trunc('day', created)")
    for text in ("", "level = 0 and copies >= 1"):
        plan = queries.compile_query(parse(text, known.vocabulary), known.vocabulary, known.now)
        for sorts in ((), *SORTS):
            big = [file for page in pages_of(world, plan, sorts, 10_000) for file in page.files]
            small = [file for page in pages_of(world, plan, sorts, 11) for file in page.files]
            assert small == big, sorts
            for sort in reversed(sorts):
                big = sorted(big, key=BY[sort.key], reverse=sort.down)
            assert [BY[s.key](f) for f in small for s in sorts] == [BY[s.key](f) for f in big for s in sorts]


def test_a_long_sorted_answer_is_sorted_once_and_is_the_same(world: World, monkeypatch: pytest.MonkeyPatch):
    fill(world, 4)
    monkeypatch.setattr(queries, "SORTED_PAGE", 7)
    for sort in ("-size,name", "directory,-created", "name"):
        for limit in (None, 20, 3):
            told = b"".join(catalogue.lines(world.ctx, Wanted("", sort=sort, limit=limit))).decode().splitlines()
            assert [json.loads(line)["lfn"] for line in told] == found(world, "", sort=sort, limit=limit)


BY: dict[str, Callable[[Any], Any]] = {
    "size": lambda f: f.size,
    "created": lambda f: f.created,
    "name": lambda f: f.lfn.rpartition("/")[2],
    "directory": lambda f: f.lfn.rpartition("/")[0],
}


def test_limit_sort_and_storage_are_obeyed(world: World):
    for i in range(5):
        world.register(f"/ctao/a/{'x' * i}f{i}", storage="north")
    world.register("/ctao/a/f0", storage="east")
    assert found(world, "", sort="-name", limit=2) == ["/ctao/a/xxxxf4", "/ctao/a/xxxf3"]
    assert found(world, "", sort="size", limit=1) == ["/ctao/a/f0"]
    assert found(world, "", at="east") == ["/ctao/a/f0"]
    assert catalogue.count(world.ctx, Wanted("", at="east")).files == 1
    assert found(world, {"level": {"in": [0]}}, limit=0) == []
    with pytest.raises(Invalid, match="sorted by 'siez'") as caught:
        found(world, "", sort="siez")
    assert caught.value.hint == "did you mean 'size'?"


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ("storage = nort", Invalid, "storage 'nort' does not exist"),
        ("site = LaPalma", Invalid, "site 'LaPalma' does not exist"),
        ("scope in (acada)", Invalid, "scope 'acada' does not exist"),
        ("produced_by = p", Invalid, "produced_by 'p' does not exist"),
        ("produced_by = 7", Invalid, "there is no transformation 7"),
        ("ancestor_of = /ctao/a/none", NotFound, "/ctao/a/none is not in the catalogue"),
    ],
)
def test_a_name_that_nothing_has_is_a_slip_and_not_an_empty_answer(
    world: World, query: str, kind: type[LightkeeperError], message: str
):
    world.register("/ctao/a/one")
    with pytest.raises(kind, match=message) as caught:
        found(world, query)
    assert caught.value.hint


# --- explain ---------------------------------------------------------------------------------------------------
def test_explain_says_in_words_how_a_query_will_be_answered(world: World):
    for night in ("2030-01-01", "2030-01-02"):
        world.register(*(f"/ctao/a/{night}_{i}" for i in range(3)), night=night)

    def told(query: str) -> str:
        return "; ".join(catalogue.explain(world.ctx, Wanted(query)).words)

    assert "leave 1 metadata set with 3 files" in told("night = '2030-01-01'")
    assert "from counters, 3 files" in told("night = '2030-01-01'")
    assert "by looking at the files" in told("night = '2030-01-01' and size > 3")
    assert "set by set" in told("night = '2030-01-01' and size > 3")
    assert "2 metadata sets with 6 files are left" in told("size > 3")
    assert "by the index on directories or origins" in told("directory = /ctao/a")
    explanation = catalogue.explain(world.ctx, Wanted({"level": {"<": 3}}))
    assert explanation.text == "level < 3"
    assert explanation.json == {"key": "level", "op": "<", "value": 3}


def test_the_index_answers_negations_as_they_are_meant(world: World):
    """PostgreSQL's own handling of `!(a && b)` loses rows: see to_jsonpath."""
    world.register("/ctao/a/none")
    world.register("/ctao/a/gamma", kind="gamma")
    world.register("/ctao/a/proton", kind="proton")
    with world.ctx.db.transaction() as conn:
        conn.execute("SET LOCAL enable_seqscan = off")
        for text, n in (
            ("not (kind != gamma)", 2),
            ("not (exists(kind) and not (kind = gamma))", 2),
            ("not (kind = gamma and level = 0)", 2),
            ("not (not (kind = gamma) and exists(kind))", 2),
            ("not (kind != gamma and not (kind = proton))", 3),
            ("not (missing(kind) or kind = gamma)", 1),
        ):
            vocabulary = topology.vocabulary(conn)
            plan = queries.compile_query(parse(text, vocabulary), vocabulary, db.now(conn))
            assert queries.count(conn, plan).files == n, text


def test_counters_answer_without_looking_at_a_file(world: World):
    world.register("/ctao/a/one", "/ctao/a/two")
    plan = queries.compile_query(parse("level = 0", Vocabulary([MetaKey("level", KeyType.INT)])), Vocabulary(
        [MetaKey("level", KeyType.INT)]), datetime.now(UTC))  # fmt: skip
    assert plan.by_counters
    with world.ctx.db.transaction() as conn:
        size = queries.count(conn, plan)
        conn.execute("ALTER TABLE file RENAME TO hidden")
        assert queries.count(conn, plan) == size == queries.Size(2, 44)
        conn.execute("ALTER TABLE hidden RENAME TO file")


# --- hostile ---------------------------------------------------------------------------------------------------
CORPUS = [
    "'; DROP TABLE file; --", '" || true || "', "$.x ? (true)", "%s", "%(set_path)s", "{}", "{0}", "\\", "\\'",
    "'' OR 1=1", '"} , {"op": "exists"', 'x" || exists($.*) || "', "*/ SELECT 1 /*", "$$; SELECT pg_sleep(9); $$",
    "\\u0000", "\n", "\x01", "%", "_", "*", "\\%", "a' UNION SELECT rolpassword FROM pg_authid --", "1; COMMIT",
    "E'\\x27'", "like_regex", "@", "$[*]", "(((((((((((a+)+)+)+)+)+)+)+)+)+)+)b", ".*" * 200, "\u202e", "𝕏" * 50,
    "null", "true", "last", ":x", "::text", "0x1", "1e9999",
]  # fmt: skip
hostile = st.sampled_from(CORPUS) | st.tuples(st.sampled_from(CORPUS), texts).map("".join) | st.text(max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=6,
)
KEY_NAMES = ["night", "level", "number", "kind", "size", "storage", "name", "directory", "site", "state", "produced_by"]
nodes = st.fixed_dictionaries(
    {"op": st.sampled_from([*Op, "not in"]) | hostile},
    optional={
        "key": st.sampled_from(KEY_NAMES) | hostile,
        "file": st.sampled_from([*Word]) | hostile,
        "path": st.lists(hostile, max_size=2),
        "value": json_values,
    },
)
said = st.builds(
    "{} {} {}".format,
    st.sampled_from(KEY_NAMES) | hostile,
    st.sampled_from(["=", "!=", "<", "like", "in", "not in"]) | hostile,
    hostile
    | hostile.map(lambda t: "'" + t.replace("\\", "\\\\").replace("'", "\\'") + "'")
    | hostile.map("({})".format),
)
well_formed = st.builds(
    lambda op, value: {"key": "kind", "op": op, "value": value},
    st.sampled_from(["=", "!=", "like", "<", ">="]),
    hostile,
) | st.builds(
    lambda word, op, value: {"file": str(word), "op": op, "value": value},
    st.sampled_from([Word.NAME, Word.DIRECTORY]),
    st.sampled_from(["=", "!=", "like"]),
    hostile,
)
joined = st.lists(well_formed, min_size=1, max_size=3).map(lambda parts: {"or": [{"not": parts[0]}, *parts]})
malformed = (
    hostile
    | said
    | nodes
    | st.fixed_dictionaries({"and": st.lists(nodes, max_size=2)})
    | st.dictionaries(st.sampled_from(KEY_NAMES) | hostile, json_values, max_size=2)
)
questions = (
    st.tuples(well_formed | joined, st.none(), st.just(""))
    | st.tuples(malformed, st.none(), st.just(""))
    | st.tuples(well_formed, st.none() | hostile, st.just("") | hostile)
)


def be_hostile(world: World, examples: int) -> None:
    world.register("/ctao/a/open", kind="open")
    world.register("/ctao/secret/closed", kind="closed", number=7)
    facts, _ = everything(world)
    with world.ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
    before = fingerprint(world)
    answered = 0

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(questions)
    @example(("kind = 'open' or 'a'", None, ""))
    def ask(asked: tuple[Any, str | None, str]) -> None:
        nonlocal answered
        question, at, sort = asked
        try:
            files = found(world, question, at=at, sort=sort)
            size = catalogue.count(world.ctx, Wanted(question, at))
        except LightkeeperError as error:
            assert error.code in ("invalid", "not_found")
            return
        answered += 1
        query = read(question, vocabulary)
        assert set(files) == {lfn for lfn, one in facts.items() if query.matches(one)}
        assert size.files == len(files)

    ask()
    assert answered > examples / 5
    assert fingerprint(world) == before


def fingerprint(world: World) -> Any:
    """Every row of the catalogue, and every table."""
    return world.value("""
        SELECT (SELECT array_agg(f::text ORDER BY file_id) FROM file f)::text
            || (SELECT array_agg(m::text ORDER BY set_id) FROM meta_set m)::text
            || (SELECT array_agg(k::text ORDER BY name) FROM meta_key k)::text
            || (SELECT array_agg(r::text ORDER BY file_id) FROM replica r)::text
            || (SELECT array_agg(relname ORDER BY relname) FROM pg_class)::text
    """)


def test_hostile_queries_change_nothing_and_find_only_what_they_mean(world: World):
    be_hostile(world, 2000)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_20000_hostile_queries_change_nothing_and_find_only_what_they_mean(world: World):
    be_hostile(world, 20_000)


def test_ten_thousand_values_are_answered(world: World):
    world.register("/ctao/a/one", number=9_999)
    wanted = {"key": "number", "op": "in", "value": list(range(10_000))}
    assert found(world, wanted) == ["/ctao/a/one"]
    assert found(world, {"key": "level", "op": "in", "value": list(range(10_000))}) == ["/ctao/a/one"]
    assert found(world, {"or": [{"key": "level", "op": "=", "value": i} for i in range(9_999)]}) == ["/ctao/a/one"]
    alternating = [{"key": k, "op": "=", "value": i} for i in range(2_000) for k in ("level", "number")]
    assert found(world, {"or": alternating}) == ["/ctao/a/one"]


# --- metadata keys ---------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-041")
def test_keys_are_defined_once_and_in_use_keep_type_and_level(world: World):
    keys = [MetaKey(f"key{i}", KeyType.INT, unit="s") for i in range(23)]
    assert {catalogue.define_key(world.ctx, key) for key in keys} == {"new"}
    assert {catalogue.define_key(world.ctx, key) for key in keys} == {"unchanged"}
    assert catalogue.define_key(world.ctx, MetaKey("key1", KeyType.STRING)) == "changed"
    world.register("/ctao/a/one", key1="x", key2=2, number=3)
    assert catalogue.define_key(world.ctx, MetaKey("key1", KeyType.STRING, description="better")) == "changed"
    for key in (
        MetaKey("key1", KeyType.INT),
        MetaKey("key2", KeyType.INT, KeyLevel.FILE),
        MetaKey("number", KeyType.FLOAT, KeyLevel.FILE),
    ):
        with pytest.raises(Conflict, match="is in use as") as caught:
            catalogue.define_key(world.ctx, key)
        assert caught.value.hint
    story = catalogue.key_story(world.ctx, "key1")
    assert (story.key.description, story.sets, story.examples) == ("better", 1, ["x"])
    assert catalogue.key_story(world.ctx, "number").examples == [3]
    with pytest.raises(NotFound, match="no metadata key 'kay1'") as caught:
        catalogue.key_story(world.ctx, "kay1")
    assert "did you mean" in caught.value.hint
    for name in ("between", "a b", "", "x" * 65, "é"):
        with pytest.raises(Invalid):
            catalogue.define_key(world.ctx, MetaKey(name, KeyType.INT))


def test_a_set_level_key_that_differs_from_file_to_file_is_noticed(world: World):
    catalogue.define_key(world.ctx, MetaKey("chunk", KeyType.INT))
    for i in range(catalogue.MANY):
        world.register(f"/ctao/a/f{i}", chunk=i)
    hints = {key["name"]: key["hint"] for key in catalogue.keys(world.ctx)}
    assert "declare such a key file level" in hints["chunk"]
    assert hints["night"] == ""
    assert "declare such a key file level" in catalogue.key_story(world.ctx, "chunk").hint


def test_ages_are_those_of_the_database_clock(world: World):
    world.register("/ctao/a/old", "/ctao/a/new")
    with world.ctx.db.transaction() as conn:
        conn.execute("UPDATE file SET created = now() - interval '3 days' WHERE name = 'old'")
    assert found(world, "age > 2d") == ["/ctao/a/old"]
    assert found(world, "age < 1h") == ["/ctao/a/new"]
    day = datetime.now(UTC) - timedelta(days=1)
    assert found(world, f"created >= {day:%Y-%m-%dT%H:%M}") == ["/ctao/a/new"]
