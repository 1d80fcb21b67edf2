"""The compiled query and its plain meaning agree, whatever the keys and values."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.query import Query

KEYS = {
    "text": (KeyType.STRING, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)),
    "whole": (KeyType.INT, st.integers(-(2**53), 2**53)),
    "real": (KeyType.FLOAT, st.floats(allow_nan=False, allow_infinity=False, width=32)),
    "flag": (KeyType.BOOL, st.booleans()),
}
VOCABULARY = Vocabulary([MetaKey(name, type_) for name, (type_, _) in KEYS.items()])


@st.composite
def metas(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.sets(st.sampled_from(sorted(KEYS))))
    return VOCABULARY.split({name: draw(KEYS[name][1]) for name in names})[0]


@st.composite
def queries(draw: st.DrawFn) -> dict[str, Any]:
    query: dict[str, Any] = {}
    for name in draw(st.sets(st.sampled_from(sorted(KEYS)), max_size=3)):
        type_, values = KEYS[name]
        ordered = [] if type_ is KeyType.BOOL else ["<", "<=", ">", ">="]
        op = draw(st.sampled_from(["=", "!=", "in", "nin", "exists", "missing", *ordered]))
        if op in ("in", "nin"):
            query[name] = {op: draw(st.lists(values, min_size=1, max_size=4))}
        else:
            query[name] = {op: draw(values)}
    return query


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries(), meta=metas())
def test_postgresql_and_python_agree_on_what_a_query_means(
    sql: Callable[..., Any], query: dict[str, Any], meta: dict[str, Any]
):
    parsed = Query.from_map(query, VOCABULARY)
    path = parsed.jsonpath(VOCABULARY, KeyLevel.SET) or "true"
    (found,) = sql("SELECT coalesce(%s::jsonb @@ %s::jsonpath, false)", json.dumps(meta), path)
    assert found[0] == parsed.matches(meta), path


@given(queries())
def test_a_query_survives_being_written_and_read(query: dict[str, Any]):
    parsed = Query.from_map(query, VOCABULARY)
    assert Query.from_map(parsed.to_map(), VOCABULARY) == parsed


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"txet": "x"}, "unknown metadata key 'txet'"),
        ({"whole": "ten"}, "of type int"),
        ({"whole": True}, "of type int"),
        ({"whole": {"~": 1}}, "unknown operator '~'"),
        ({"whole": [1, 2]}, "needs an operator"),
        ({"whole": {"in": []}}, "needs a list"),
        ({"flag": {"<": True}}, "no order"),
        ({"real": float("nan")}, "a number that is none"),
    ],
)
def test_a_query_that_means_nothing_is_refused_with_the_reason(query: dict[str, Any], message: str):
    with pytest.raises(Invalid, match=message) as caught:
        Query.from_map(query, VOCABULARY)
    if "unknown" in message:
        assert caught.value.hint


@pytest.mark.feature("S1-012")
def test_twenty_is_twenty_point_zero():
    assert Query.from_map({"real": 20}, VOCABULARY).matches({"real": 20.0})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_hostile_value_is_only_ever_a_value(sql: Callable[..., Any], text: str):
    hostile = f'{text}" || true || "'
    path = Query.from_map({"text": hostile}, VOCABULARY).jsonpath(VOCABULARY, KeyLevel.SET)
    (found,) = sql("SELECT coalesce(%s::jsonb @@ %s::jsonpath, false)", json.dumps({"text": "innocent"}), path)
    assert found[0] is False
