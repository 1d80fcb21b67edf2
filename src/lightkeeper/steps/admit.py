"""Whatever way a product comes in, one rule verifies it: by a trigger, put or found by a person, or made by a job.

Before: its bytes lie on a storage, under a temporary name.    After: it is registered, or refused with the reason.
Called by content.py, compare.py, run.py and ingest.py, which reads deliveries in processes of their own, by the same
readers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lightkeeper.context import Context
from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Corrupt, LightkeeperError
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.names import Fixity, Lfn, printable, scope_of
from lightkeeper.domain.products import ProductKind, kind_of, objections
from lightkeeper.ports import Product, ProductReader, Storage
from lightkeeper.steps.reading import Reading
from lightkeeper.store import topology
from lightkeeper.store.triggers import Claim


def kinds(ctx: Context, lfns: Iterable[Lfn]) -> dict[Lfn, ProductKind]:
    """Which kind of product each of these is."""
    names = list(lfns)
    with ctx.db.transaction() as conn:
        temporary = topology.temporary_scopes(conn, {scope_of(lfn) for lfn in names})
    return {lfn: kind_of(lfn, temporary) for lfn in names}


def examine(readers: Sequence[ProductReader], storage: Storage, path: str, lfn: Lfn) -> tuple[Fixity, Product]:
    """Read the bytes at `path` once: their fixity, and what the reader of files called `lfn` says of them. Files that
    no reader knows have nothing to say. Raises what the storage raises."""
    reader = next((reader for reader in readers if reader.recognises(lfn)), None)
    product = Product(lfn, None)
    if reader is not None:
        with storage.open(path) as file:
            try:
                product = reader.read(file, lfn)
            except (LightkeeperError, OSError):
                raise
            except Exception as error:  # noqa: BLE001  # what gets the better of a reader is refused, and stops nothing else
                told = f"its reader failed: {type(error).__name__}: {printable(str(error))}"
                product = Product(lfn, None, problems=(told,))
    if product.lfn != lfn:
        product = replace(product, problems=(*product.problems, f"its reader does not name it {lfn}"))
    if product.fixity is not None:
        return product.fixity, product
    with storage.open(path) as file:
        return fixity_of(chunks_of(file)), product


def delivered(claim: Claim, reading: Reading, kinds: Mapping[Lfn, ProductKind]) -> Reading:
    """A delivery as it is judged: a temporary product is not, and what is wrong with one that a person released is his;
    what he says of it goes before what it says. One that has not its own name, or could not be read to its end, is
    judged whatever it is."""
    product = reading.product
    if product is None or product.lfn is None or product.lfn != claim.path or product.fixity is None:
        return reading
    if claim.released_by is not None:
        meta = {**product.meta, **(claim.given or {})}
        return replace(reading, product=replace(product, meta=meta, problems=()), waived=product.problems)
    problems = objections(kinds.get(product.lfn, ProductKind.ARCHIVE), product.problems, {}, {})
    if problems == product.problems:
        return reading
    return replace(reading, product=replace(product, problems=problems), waived=product.problems)


def admit(product: Product, kind: ProductKind, given: Mapping[str, MetaValue]) -> dict[str, MetaValue]:
    """The metadata of a product that is admitted: what it says, and what is given for it. Raises Corrupt with all that
    is wrong with one for the archive."""
    wrong = objections(kind, product.problems, product.meta, given)
    if wrong:
        raise Corrupt(
            f"{product.lfn} is not taken into the archive: {'; '.join(wrong)}",
            hint="repair it; or, when it is worth to be kept as it is, put it into a scope of temporary products",
        )
    return {**product.meta, **given}
