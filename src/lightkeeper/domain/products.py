"""Three kinds of product, told by their scope: what the archive keeps, what is temporary, and what is a user's own."""

from collections.abc import Container, Mapping
from enum import StrEnum

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.names import Lfn, scope_of


class ProductKind(StrEnum):
    """ARCHIVE: nothing is wrong with it, or it is refused. TEMPORARY: in a scope of its own, with a lifetime; its
    metadata are read, its content is not judged. USER: a person's own, not judged either."""

    ARCHIVE = "archive"
    TEMPORARY = "temporary"
    USER = "user"


def kind_of(lfn: Lfn, temporary: Container[str]) -> ProductKind:
    """The kind of a product; `temporary` are the scopes of such products."""
    scope = scope_of(lfn)
    if scope in temporary:
        return ProductKind.TEMPORARY
    return ProductKind.USER if scope.startswith("user.") else ProductKind.ARCHIVE


def objections(
    kind: ProductKind,
    problems: tuple[str, ...],
    read: Mapping[str, MetaValue],
    given: Mapping[str, MetaValue],
) -> tuple[str, ...]:
    """Why a product is refused: what its reader found, and where it says something else than who brought it."""
    if kind is not ProductKind.ARCHIVE:
        return ()
    return problems + tuple(
        f"the file says {key} is {read[key]}, but {value} is given for it"
        for key, value in given.items()
        if key in read and read[key] != value
    )
