"""The query language: text, JSON and tree are the same; what means nothing is refused with the place."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.query import (
    OPERATORS,
    Condition,
    Facts,
    Not,
    Op,
    Query,
    Tree,
    Word,
    all_of,
    any_of,
    file_condition,
    key_condition,
)
from lightkeeper.domain.query_text import parse, read, to_text

SET_KEYS = [
    MetaKey("data_level", KeyType.INT),
    MetaKey("zenith", KeyType.FLOAT, unit="deg"),
    MetaKey("particle", KeyType.STRING),
    MetaKey("merged", KeyType.BOOL),
    MetaKey("start_time", KeyType.TIME),
    MetaKey("pointing", KeyType.JSON),
    MetaKey("site", KeyType.STRING),
    MetaKey("size", KeyType.INT),
    MetaKey("and", KeyType.STRING),
    MetaKey("odd name.x", KeyType.STRING),
]
FILE_KEYS = [
    MetaKey("obs_id", KeyType.INT, KeyLevel.FILE),
    MetaKey("nsb", KeyType.FLOAT, KeyLevel.FILE),
    MetaKey("split", KeyType.STRING, KeyLevel.FILE),
    MetaKey("tel_ids", KeyType.JSON, KeyLevel.FILE),
]
VOCABULARY = Vocabulary([*SET_KEYS, *FILE_KEYS])

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
VALUES: dict[KeyType, st.SearchStrategy[Any]] = {
    KeyType.STRING: texts,
    KeyType.INT: st.integers(-(10**30), 10**30),
    KeyType.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    KeyType.BOOL: st.booleans(),
    KeyType.TIME: st.datetimes(),
    KeyType.JSON: texts | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
}
names = st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5}){0,2}", fullmatch=True)
FILE_VALUES: dict[Word, st.SearchStrategy[Any]] = {
    Word.SIZE: st.integers(0, 2**62) | st.sampled_from([0, 1000, 10**7, 5 * 10**9]),
    Word.AGE: st.integers(0, 10**9) | st.floats(0, 10**9),
    Word.CREATED: st.datetimes(),
    Word.COPIES: st.integers(0, 9),
    Word.STATE: st.sampled_from(["Available", "Suspect", "Lost", "Deleting"]),
    Word.FILE_STATE: st.sampled_from(["Current", "Superseded", "Corrupted", "Removed"]),
    Word.PRODUCED_BY: texts | st.integers(1, 99),
    Word.ANCESTOR_OF: names.map("/{}".format),
    Word.DESCENDANT_OF: names.map("/{}".format),
}


def condition_of(draw: st.DrawFn, ops: list[Op], values: st.SearchStrategy[Any]) -> tuple[Op, Any]:
    op = draw(st.sampled_from(ops))
    if op in (Op.IN, Op.NOT_IN):
        return op, draw(st.lists(values, min_size=1, max_size=4))
    if op is Op.BETWEEN:
        one, other = draw(values), draw(values)
        if isinstance(one, bool) or isinstance(other, bool) or isinstance(one, str) is not isinstance(other, str):
            other = one = "same"
        return op, sorted([one, other])
    return op, draw(texts) if op is Op.LIKE else draw(values)


@st.composite
def leaves(draw: st.DrawFn) -> Tree:
    if draw(st.booleans()):
        word = draw(st.sampled_from(Word))
        op, value = condition_of(draw, sorted(OPERATORS[word]), FILE_VALUES.get(word, texts))
        return file_condition(word, op, value)
    key = draw(st.sampled_from(VOCABULARY.keys))
    ops = [op for op in Op if op is not Op.LIKE or key.type in (KeyType.STRING, KeyType.JSON)]
    values = VALUES[key.type]
    if key.type is KeyType.BOOL:
        ops = [Op.EQ, Op.NE, Op.IN, Op.NOT_IN, Op.EXISTS, Op.MISSING]
    op, value = condition_of(draw, ops, values)
    if isinstance(value, bool) and op in (Op.LT, Op.LE, Op.GT, Op.GE):
        value = "text"
    path = draw(st.lists(texts, max_size=3)) if key.type is KeyType.JSON else []
    if op is Op.BETWEEN and key.type is KeyType.STRING and value == ["same", "same"]:
        value = ["a", "b"]
    return key_condition(key, path, op, value)


def trees(conditions: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.recursive(
        conditions,
        lambda inner: (
            inner.map(Not)
            | st.lists(inner, min_size=1, max_size=4).map(all_of)
            | st.lists(inner, min_size=1, max_size=4).map(any_of)
        ),
        max_leaves=12,
    )


@settings(max_examples=500, deadline=None)
@given(trees(leaves()))
def test_text_json_and_tree_convert_into_each_other(tree: Tree):
    query = Query(tree)
    text = to_text(query)
    assert parse(text, VOCABULARY) == query, text
    assert to_text(parse(text, VOCABULARY)) == text
    as_json = json.dumps(query.to_json())
    assert read(as_json, VOCABULARY) == query
    assert read(json.dumps(query.to_map()), VOCABULARY) == query


def test_every_part_of_the_language_in_one_sentence():
    text = """data_level = 0 and zenith < 40deg and particle in (gamma, 'proton') and
              not ("site" = "LaPalma" or obs_id between 1..9) and start_time >= 2026-03-14T20:00 and size > 10MB
              and age < 2d and name like "TEL001_*" and exists(nsb) and pointing.alt.mean > 60 and copies >= 2"""
    query = parse(text, VOCABULARY)
    assert to_text(query) == (
        'data_level = 0 and zenith < 40.0 and particle in ("gamma", "proton") and '
        'not ("site" = "LaPalma" or obs_id between 1..9) and start_time >= "2026-03-14T20:00:00" and size > 10MB '
        'and age < 2d and name like "TEL001_*" and exists(nsb) and pointing.alt.mean > 60 and copies >= 2'
    )
    assert query.to_json()["and"][0] == {"key": "data_level", "op": "=", "value": 0}
    assert query.to_json()["and"][5] == {"file": "size", "op": ">", "value": 10_000_000}


NOW = datetime(2030, 1, 2, tzinfo=UTC)
FILE = Facts(
    meta={
        "zenith": 20.0,
        "obs_id": 5,
        "pointing": {"alt": {"mean": 70.5}, "tels": [1, 2, {"id": 3}]},
        "tel_ids": [1, 4],
    },
    lfn="/ctao/acada/TEL001_x.fits",
    size=20_000_000,
    scope="acada",
    created=NOW - timedelta(hours=30),
    now=NOW,
    storages=frozenset({"north", "south"}),
    sites=frozenset({"North", "South"}),
    states=frozenset({"Available", "Lost"}),
    produced_by=frozenset({41, "first"}),
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "zenith < 40", "zenith = 20", "not (zenith < 10)", "missing(data_level)", "not (data_level = 1)",
        "obs_id between 1..5", "pointing.alt.mean > 60", "exists(pointing.alt)", "pointing.tels = 2",
        "pointing.tels.id = 3", "tel_ids = 4", "tel_ids in (4, 9)", "tel_ids != 7", "size > 10MB",
        "size between 1MB..1GB",
        "age > 1d", "age < 36h", "created < 2030-01-02", "scope = acada", "directory = /ctao/acada/",
        "directory like /ctao/*", "name like TEL???_*", "storage = north", "storage != east", "site in (North, East)",
        "copies = 2", "state = Lost", "produced_by = 41", "produced_by = first", "produced_by not in (1, x)",
        "ancestor_of != /a/b", "zenith = 1 or zenith = 20", "NOT zenith = 1 AND obs_id = 5",
    ],
)  # fmt: skip
def test_what_is_true_of_a_file_finds_it_and_its_complement_does_not(text: str):
    query = parse(text, VOCABULARY)
    assert query.matches(FILE)
    if text:
        assert not parse(f"not ({text})", VOCABULARY).matches(FILE)


@pytest.mark.parametrize(
    "text",
    [
        "data_level = 1", "data_level != 1", "data_level not in (1)", "tel_ids != 4", "exists(data_level)",
        "missing(zenith)", "storage = east", "storage != north",
    ],
)  # fmt: skip
def test_a_file_without_the_key_fulfils_only_missing(text: str):
    assert not parse(text, VOCABULARY).matches(FILE)


@pytest.mark.parametrize(
    ("text", "position", "message", "hint"),
    [
        ("zenit < 40", 1, "unknown metadata key 'zenit'", "did you mean 'zenith'?"),
        ("data_level = 0 and siez > 3", 20, "unknown metadata key 'siez'", "did you mean 'size'?"),
        ("zenith << 40", 9, "expected a value, found '<'", ""),
        ("zenith 40", 8, "expected an operator after 'zenith'", ""),
        ("zenith < 40rad", 10, "is in 'deg', so '40rad' means nothing", ""),
        ("data_level = 4deg", 14, "has no unit", ""),
        ("zenith < steep", 1, "is of type float; 'steep' is not", ""),
        ("particle = 5", 12, "is of type string; 5 is a number", 'write it in quotes: "5"'),
        ("data_level = 1.5", 1, "of type int", ""),
        ("zenith.x < 4", 1, "has no parts like 'x'", ""),
        ("merged < true", 1, "has no order", ""),
        ("zenith like '4*'", 1, "'like' compares texts", ""),
        ("(zenith < 40", 13, "expected ')', found the end", ""),
        ("zenith < 40)", 12, "expected 'and', 'or' or the end", ""),
        ("particle in ()", 14, "expected a value, found ')'", ""),
        ("particle in (a b)", 16, "expected ',' or ')'", ""),
        ("particle = 'open", 12, "expected a text whose quotes end", ""),
        ("zenith between 1", 17, "expected '..', found the end", ""),
        ("zenith between 9..1", 1, "range of key 'zenith' is empty", ""),
        ("size > 10miles", 1, "'10miles' is no size", "write it like 10MB"),
        ("age < 2", 1, "'2' is no duration", "write it like 2d"),
        ("state = Gone", 1, "no state of a replica", "known are"),
        ("name < a", 1, "'<' means nothing for 'name'", "operators of 'name' are"),
        ("file_state = Lost", 1, "'Lost' is no state of a file", "known are"),
        ("ancestor_of = x", 1, "is not a file name of the catalogue", ""),
        ("odd name.x = 1", 1, "unknown metadata key 'odd'", ""),
        ("particle not like 'x'", 14, "expected 'in' after 'not'", ""),
        ("and = x", 1, "expected a metadata key", ""),
        ("zenith < 40 ; drop table file", 13, "expected a key, a value or an operator", ""),
        ("particle = 'a\\\\' or \x00", 21, "found '\\x00'", ""),
        ("not", 4, "expected a metadata key", ""),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what_was_expected(text: str, position: int, message: str, hint: str):
    with pytest.raises(Invalid) as caught:
        parse(text, VOCABULARY)
    assert caught.value.message.startswith(f"query, position {position}: "), caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("(" * 5000 + "zenith < 4" + ")" * 5000, "nested deeper than 50"),
        ("not " * 5000 + "zenith < 4", "nested deeper than 50"),
        ("zenith < 4 or " * 6000 + "zenith < 4", "longer than 64000 bytes"),
        ('{"a":' * 100_000, "not JSON"),
        ({"key": "data_level", "op": "in", "value": list(range(10_001))}, "more than 10000 values"),
        ({"and": [{"key": "data_level", "op": "=", "value": 1}] * 10_001}, "more than 10000 values"),
        ({"name like": "x" * 1001}, "unknown metadata key"),
        ({"file": "name", "op": "like", "value": "x" * 1001}, "may have 1000 characters"),
        ({"key": "data_level", "op": "=", "value": 10**100}, "more than 100 digits"),
        ({"key": "particle", "op": "=", "value": "a\0b"}, "holds a character"),
        ({"key": "particle", "op": "=", "value": "\ud800"}, "holds a character"),
        ({"file": "age", "op": "<", "value": 1e300}, "at most a thousand years"),
        ({"file": "size", "op": "<", "value": -1}, "not negative"),
        ({"or": []}, "at least one part"),
        ({"and": [{"not": {"and": []}}]}, "at least one part"),
        ({"and": [{"key": "zenith", "op": "<", "value": 4, "unit": "deg"}]}, "has no 'unit'"),
        ({"and": ["zenith"]}, "must be a map"),
        ({"and": [{"file": "colour", "op": "=", "value": 1}]}, "knows no 'colour'"),
        ({"key": "zenith", "op": "~", "value": 1}, "unknown operator '~'"),
        ({"pointing": [1]}, "needs an operator"),
        ({"pointing": {"=": {"a": 1}}}, "is compared with texts, numbers"),
    ],
)
def test_what_has_no_bounds_or_no_meaning_is_refused(query: Any, message: str):
    with pytest.raises(Invalid, match=message):
        read(query, VOCABULARY)


def nested(depth: int) -> dict[str, Any]:
    leaf: dict[str, Any] = {"key": "zenith", "op": "<", "value": 4}
    for _ in range(depth - 1):
        leaf = {"not": leaf}
    return leaf


def test_fifty_deep_is_read_in_both_forms_and_fifty_one_in_neither():
    query = read(nested(50), VOCABULARY)
    assert parse(to_text(query), VOCABULARY) == query
    with pytest.raises(Invalid, match="deeper"):
        read(nested(51), VOCABULARY)
    with pytest.raises(Invalid, match="deeper"):
        parse("not (" * 50 + "zenith < 4" + ")" * 50, VOCABULARY)


def test_times_in_other_zones_are_the_same_times():
    written = [parse(f"start_time = {t}", VOCABULARY) for t in ("2026-03-14T20:00Z", "2026-03-14T22:00+02:00")]
    assert written[0] == written[1] == parse('start_time = "2026-03-14 20:00"', VOCABULARY)


def test_a_metadata_key_with_the_name_of_a_catalogue_word_is_written_in_double_quotes():
    assert parse('"size" = 3', VOCABULARY).tree == Condition("size", Op.EQ, 3)
    assert parse("size = 3", VOCABULARY).tree == file_condition(Word.SIZE, Op.EQ, 3)
    assert Query.from_map({"size": 3}, VOCABULARY) == parse('"size" = 3', VOCABULARY)


@pytest.mark.feature("S1-011", "S1-012")
def test_dirac_maps_mean_what_they_mean_there():
    query = {"site": "LaPalma", "zenith": {"<": 40, ">=": 20}, "particle": {"in": ["gamma", "proton"]}, "merged": "Any"}
    parsed = read(query, VOCABULARY)
    assert to_text(parsed) == (
        '"site" = "LaPalma" and zenith < 40.0 and zenith >= 20.0 and particle in ("gamma", "proton") and exists(merged)'
    )
    assert Query.from_map(parsed.to_map(), VOCABULARY) == parsed


def test_where_only_metadata_decide_conditions_on_the_catalogue_are_refused():
    with pytest.raises(Invalid, match="only metadata keys decide"):
        parse("data_level = 0 and size > 1MB", VOCABULARY).jsonpath(VOCABULARY, KeyLevel.SET)
    with pytest.raises(Invalid, match="may not join"):
        parse("data_level = 0 or obs_id = 1", VOCABULARY).jsonpath(VOCABULARY, KeyLevel.SET)
