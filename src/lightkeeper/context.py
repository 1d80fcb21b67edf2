"""What every step is given: database, settings, plug-ins, log. Made once by `app`, frozen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from lightkeeper.domain.catalog import OUTPUT, StorageElement
from lightkeeper.domain.errors import Conflict, NotFound, nearest
from lightkeeper.domain.grouping import GROUPINGS, Grouping
from lightkeeper.ports import (
    Executor,
    JobType,
    LocalStorage,
    MetaKey,
    Mover,
    Notifier,
    Observatory,
    ProductReader,
    Storage,
    TapeStorage,
    WorkflowReader,
    needs_staging,
)
from lightkeeper.settings import Settings
from lightkeeper.store.db import Database


class Log(Protocol):
    """Decisions with identifiers, as structlog takes them."""

    def info(self, event: str, **facts: Any) -> None:
        """What was decided."""
        ...

    def warning(self, event: str, **facts: Any) -> None:
        """What did not go as it should and is being remedied."""
        ...

    def error(self, event: str, **facts: Any) -> None:
        """What somebody should look at."""
        ...


class StorageMaker(Protocol):
    """Makes the storage plug-in for a storage element."""

    def __call__(self, name: str, root: str) -> Storage:
        """The storage `name` whose files lie below `root`."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """The world as steps see it."""

    db: Database
    settings: Settings
    log: Log
    storage_drivers: Mapping[str, StorageMaker]
    mover: Mover
    executors: Mapping[str, Executor]
    observatories: tuple[Observatory, ...]
    services: Mapping[str, Callable[[str], Mover]] = field(default_factory=dict[str, Callable[[str], Mover]])
    notifiers: Mapping[str, Notifier] = field(default_factory=dict[str, Notifier])
    groupings: Mapping[str, Grouping] = field(default_factory=lambda: GROUPINGS)
    readers: tuple[WorkflowReader, ...] = ()
    job_types: Mapping[str, JobType] = field(default_factory=dict[str, JobType])

    def mover_to(self, target: StorageElement) -> Mover:
        """What makes copies to a storage: the transfer service that its attribute `fts` names, else the mover."""
        address = target.attributes.get("fts", "")
        if not address:
            return self.mover
        if "fts" not in self.services:
            raise NotFound(f"storage {target.name} is reached through FTS, whose plug-in is not installed")
        return self.services["fts"](address)

    def storage(self, element: StorageElement) -> Storage:
        """The plug-in that speaks to a storage element."""
        try:
            driver = self.storage_drivers[element.driver]
        except KeyError:
            raise NotFound(
                f"storage {element.name} wants the driver '{element.driver}', which is not installed",
                hint=f"installed are: {', '.join(sorted(self.storage_drivers))}",
            ) from None
        return driver(element.name, element.root)

    def local_storage(self, element: StorageElement) -> LocalStorage:
        """The plug-in of a storage that takes deliveries: its files are files of this machine."""
        storage = self.storage(element)
        if not hasattr(storage, "local_path"):
            raise Conflict(
                f"storage {element.name} takes deliveries, but its driver '{element.driver}' has no files on this "
                "machine",
                hint="use a driver like 'posix' for storages with `ingest: true`",
            )
        return cast("LocalStorage", storage)

    def tape(self, element: StorageElement) -> TapeStorage | None:
        """The same for a storage whose files must be staged before they are read; None for every other."""
        driver = self.storage_drivers.get(element.driver)
        if driver is None or not needs_staging(driver):
            return None
        return cast("TapeStorage", driver(element.name, element.root))

    @property
    def product_readers(self) -> list[ProductReader]:
        """Readers of every observatory, in the order they are asked."""
        return [reader for observatory in self.observatories for reader in observatory.product_readers()]

    @property
    def metadata_keys(self) -> list[MetaKey]:
        """Keys of every observatory, and our own."""
        return [key for observatory in self.observatories for key in observatory.metadata_keys()] + [OUTPUT]

    def grouping(self, name: str) -> Grouping:
        """The way of putting files into tasks that is called `name`."""
        if name not in self.groupings:
            raise NotFound(f"the grouping '{name}' is not installed", hint=nearest(name, self.groupings))
        return self.groupings[name]

    def job_type(self, name: str) -> JobType:
        """The job type `name` of any observatory, or one that all have."""
        if name in self.job_types:
            return self.job_types[name]
        for observatory in self.observatories:
            if name in observatory.job_types():
                return observatory.job_types()[name]
        raise NotFound(f"job type '{name}' is not installed", hint="install the observatory's package")
