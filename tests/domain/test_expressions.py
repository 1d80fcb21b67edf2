"""Storage expressions mean what Rucio's mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.catalog import Media, SiteKind, StorageElement
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.expressions import Both, Expression, Term, check_keys, meant, parse_expression


def storage(name: str, site: str, country: str, media: Media = Media.DISK, **attributes: str) -> StorageElement:
    return StorageElement(
        1, name, site, SiteKind.DATA_CENTRE, media, "posix", "/x", country=country, attributes=attributes
    )


ALL = [
    storage("PIC-disk", "PIC", "ES", tier="1"),
    storage("PIC-tape", "PIC", "ES", Media.TAPE, tier="1"),
    storage("DESY-disk", "DESY", "DE", tier="2", space="500"),
    storage("INFN-disk", "CNAF", "IT", tier="2", space="80"),
]


def names(text: str) -> set[str]:
    expression = parse_expression(text)
    return {s.name for s in ALL if meant(expression, s)}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("*", {"PIC-disk", "PIC-tape", "DESY-disk", "INFN-disk"}),
        ("PIC-disk", {"PIC-disk"}),
        ("PIC-*", {"PIC-disk", "PIC-tape"}),
        ("tier=2&media=disk\\country=IT", {"DESY-disk"}),
        ("country=ES|country=IT", {"PIC-disk", "PIC-tape", "INFN-disk"}),
        ("country=ES|country=IT&media=disk", {"PIC-disk", "INFN-disk"}),
        ("country=ES|(country=IT&media=disk)", {"PIC-disk", "PIC-tape", "INFN-disk"}),
        ("site != PIC", {"DESY-disk", "INFN-disk"}),
        ("space>100", {"DESY-disk"}),
        ("space<100", {"INFN-disk"}),
        ("space!=80", {"PIC-disk", "PIC-tape", "DESY-disk"}),
        ("kind=data-centre & media=tape", {"PIC-tape"}),
        ("*\\PIC-*", {"DESY-disk", "INFN-disk"}),
    ],
)
def test_an_expression_means_these_storages(text: str, wanted: set[str]):
    assert names(text) == wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a storage, an attribute like tier=2, or '(', found the end"),
        ("tier=2&", "expected a storage"),
        ("(tier=2", "expected ')', found the end"),
        ("tier=2)", "expected an operator (&, |, \\) or the end, found ')'"),
        ("tier=2 country=IT", "position 7: expected an operator"),
        ("tier==2", "position 5: '==2' means nothing here"),
        ("a;b", "';b' means nothing here"),
        ("(" * 30 + "a", "nested deeper than 20"),
        ("a|" * 1500 + "a", "has 3001 characters"),
    ],
)
def test_what_is_no_expression_is_refused_with_the_place(text: str, told: str):
    with pytest.raises(Invalid) as caught:
        parse_expression(text)
    assert told in caught.value.message


def test_a_key_or_a_storage_that_nothing_has_is_a_slip():
    with pytest.raises(Invalid, match="no storage has an attribute 'teir'") as caught:
        check_keys(parse_expression("teir=2"), ALL)
    assert caught.value.hint == "did you mean 'tier'?"
    with pytest.raises(Invalid, match="there is no storage 'PIC-disc'"):
        check_keys(parse_expression("PIC-disc|DESY-disk"), ALL)
    check_keys(parse_expression("NEW-*"), ALL)


words = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}", fullmatch=True)
terms = words.map(Term) | st.builds(Term, words, st.sampled_from(["=", "!=", "<", ">"]), words)
expressions = st.recursive(terms, lambda inner: st.builds(Both, inner, st.sampled_from("&|\\"), inner), max_leaves=8)


def written(expression: Expression) -> str:
    if isinstance(expression, Term):
        return expression.key + expression.op + expression.value
    return f"({written(expression.first)}){expression.sign}({written(expression.second)})"


@given(expressions)
def test_what_is_written_is_read_back(expression: Expression):
    assert parse_expression(written(expression)) == expression
