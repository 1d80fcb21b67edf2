"""Datasets: their names, how a query is one, and how one is split."""

from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation

from lightkeeper.domain.catalog import KeyLevel, MetaKey, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_lfn, printable
from lightkeeper.domain.query import And, Condition, Op, Query, Word, conditions

MAX_DESCRIPTION = 2000


def parse_dataset_name(text: str) -> str:
    """A dataset's name: parts like those of a file name, with or without directories in front; raises Invalid."""
    try:
        parse_lfn(text if text.startswith("/") else f"/{text}")
    except Invalid as error:
        raise Invalid(
            f"'{printable(text)}' is not a name for a dataset",
            hint=error.hint or "letters, digits, '.', '_', '-' and '/', at most 250 of them",
        ) from None
    return text


def by_keys(query: Query, vocabulary: Vocabulary) -> tuple[str, str | None] | None:
    """The query as predicates on set-level and on file-level keys; None when it asks for anything else."""
    try:
        return query.jsonpath(vocabulary, KeyLevel.SET) or "true", query.jsonpath(vocabulary, KeyLevel.FILE)
    except Invalid:
        return None


def check_query(query: Query) -> None:
    """Raises Invalid for a query that no dataset can have."""
    if not any(True for _ in conditions(query.tree)):
        raise Invalid("a dataset needs a condition", hint="'data_level >= 0' means every file that has a level")
    for condition in conditions(query.tree):
        if not isinstance(condition, Condition) and condition.word is Word.DATASET:
            raise Invalid(
                "a dataset is made of conditions on files, not of frozen datasets",
                hint="write the conditions themselves, or release the other one first",
            )


def fixes(query: Query, key: MetaKey, value: object) -> bool:
    """Whether every file of the query has this value of the key, because a condition says so."""
    parts = query.tree.parts if isinstance(query.tree, And) else (query.tree,)
    return any(
        isinstance(part, Condition) and part.key == key.name and part.op is Op.EQ and part.value == value
        for part in parts
    )


def read_fractions(text: str) -> list[Decimal]:
    """`0.5,0.25,0.25`: parts of a whole, exactly; raises Invalid when they are not."""
    try:
        fractions = [Decimal(part.strip()) for part in text.split(",")]
    except InvalidOperation:
        raise Invalid(f"'{printable(text)}' are no fractions", hint="write them like 0.5,0.25,0.25") from None
    if not all(part.is_finite() and 0 < part <= 1 for part in fractions):
        raise Invalid("each fraction must be more than 0, and at most 1")
    if sum(fractions) != 1:
        raise Invalid(f"the fractions sum to {sum(fractions)}, not to 1", hint="0.1,0.2,0.7 sum to 1 exactly here")
    return fractions


def parts_of(n: int, fractions: Sequence[Decimal]) -> Iterator[tuple[int, int]]:
    """Begin and end of each part of `n` things in order: none is left out, none is in two parts, and no part is a
    whole thing away from its fraction."""
    begin, passed = 0, Decimal(0)
    for fraction in fractions:
        passed += fraction
        end = int((passed * n).to_integral_value())
        yield begin, end
        begin = end
