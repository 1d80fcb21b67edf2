"""What every mover must do, as tests: a plug-in's own tests subclass `MoverConformance`."""

from collections.abc import Callable

from lightkeeper.domain.names import Fixity
from lightkeeper.ports import Copy, Mover, Storage


def copied(
    mover: Mover,
    source: Storage,
    source_path: str,
    target: Storage,
    target_path: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Fixity:
    """The fixity of one copy; raises what went wrong."""
    found = source.stat(source_path)
    copy = Copy(source, source_path, target, target_path, found.size if found else 0, progress=progress)
    (ended,) = mover.carry([copy])
    if ended.error is not None:
        raise ended.error
    assert ended.fixity is not None
    return ended.fixity
