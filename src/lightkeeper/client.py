"""The Python client: every call of the HTTP contract as a method. Errors come back as the error they were."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx2 as httpx
from pydantic_core import from_json, to_json

from lightkeeper import __version__
from lightkeeper.domain.errors import Invalid, LightkeeperError, Unavailable, errors_by_code
from lightkeeper.domain.names import printable

_TRIES = 4
_BLOCK = 1 << 20
_PART = 10_000

Query: TypeAlias = str | Mapping[str, Any]
"""A query as text, as JSON or as a DIRAC map."""


@dataclass(frozen=True, slots=True)
class Content:
    """A copy of a file that is being read: what the whole file must be, and its bytes from `start` on."""

    storage: str
    size: int
    sha256: str
    start: int
    chunks: Iterator[bytes]


class Client:
    """Speaks to the API at `url`. `token` is the operator's, or a pilot's secret. Use as a context manager."""

    def __init__(self, url: str, token: str = "", *, timeout: float = 120) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # --- instance
    def health(self) -> dict[str, str]:
        """Whether it answers, and its version."""
        return self._get("health")

    def status(self) -> dict[str, Any]:
        """The whole instance in numbers."""
        return self._get("status")

    def summary(self) -> dict[str, Any]:
        """Everything that has been done, in one object."""
        return self._get("summary")

    def heal(self, *, dry_run: bool = False) -> dict[str, Any]:
        """What a round of the keeper did now; with `dry_run` what it would do, and why."""
        return self._get("heal") if dry_run else self._post("heal", {})

    def decisions(self) -> list[dict[str, Any]]:
        """What a person must decide now."""
        return self._get("decisions")

    def messages(self, limit: int = 100) -> list[dict[str, Any]]:
        """Messages to people, those that are still to be sent first."""
        return self._get("messages", limit=limit)

    def why_waiting(self, subject: str) -> dict[str, Any]:
        """What a file, a transformation, `task N` or `job N` waits for, and what happens next."""
        return self._get("why", subject=subject)

    def healed(self) -> list[dict[str, Any]]:
        """What was remedied without a person."""
        return self._get("healed")

    def fsck(self, *, read_bytes: bool = False) -> dict[str, Any]:
        """Check every invariant; with `read_bytes` re-read every copy."""
        return self._get("fsck", read_bytes=read_bytes)

    # --- topology
    def apply(self, document: str, *, dry_run: bool = False) -> list[str]:
        """Make the topology as the document says; the differences in words."""
        return self._post("topology", {"document": document, "dry_run": dry_run})["changes"]

    def storages(self) -> list[dict[str, Any]]:
        """Every storage and what it holds."""
        return self._get("storages")

    def storage(self, name: str) -> dict[str, Any]:
        """One storage: its health, what is switched by hand, what is left on it."""
        return self._get("storages/show", storage=name)

    def set_storage(
        self, name: str, wanted: Mapping[str, bool | None], why: str, *, dry_run: bool = False
    ) -> list[str]:
        """Switch reading, writing, deleting by hand; what changes, in words."""
        body = {"storage": name, "wanted": dict(wanted), "why": why, "dry_run": dry_run}
        return self._post("storages/set", body)["changes"]

    def drain_storage(self, name: str, why: str, *, undo: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """Have a storage emptied, or no more; what changes, and what is left on it."""
        return self._post("storages/drain", {"storage": name, "why": why, "undo": undo, "dry_run": dry_run})

    def decommission_storage(self, name: str, *, dry_run: bool = False) -> None:
        """End an empty storage for ever."""
        self._post("storages/decommission", {"storage": name, "dry_run": dry_run})

    def scrubs(self, storage: str | None = None) -> list[dict[str, Any]]:
        """How far the copies on each storage, or one, were read again."""
        return self._get("storages/scrub", **({"storage": storage} if storage else {}))

    def begin_scrub(self, storage: str) -> bool:
        """Begin to read all copies on a storage; False when that is under way."""
        return self._post("storages/scrub", {"storage": storage})["begun"]

    def mark_storage(self, storage: str) -> None:
        """Say that the disk below a storage's root is the storage's."""
        self._post("storages/mark", {"storage": storage})

    def suspicious(self, storage: str | None = None, limit: int = 1000) -> dict[str, Any]:
        """Copies that somebody failed to read, and storages on which many failed lately."""
        return self._get("storages/suspicious", limit=limit, **({"storage": storage} if storage else {}))

    def compare_storage(self, storage: str, limit: int = 100) -> dict[str, Any]:
        """List a storage and compare it with the catalogue: counts, and the first dark files and lost copies."""
        return self._post_long("storages/compare", {"storage": storage, "limit": limit})

    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of each storage in numbers, and how many copies are still to be told of."""
        return self._get("storages/manifests")

    def tell_again(self, storage: str) -> int:
        """Have every copy on a storage told of in new manifests; how many."""
        return self._post("storages/manifests", {"storage": storage})["due"]

    def rebuild_storage(self, storage: str, *, dry_run: bool = False, limit: int = 100) -> dict[str, Any]:
        """Make the catalogue's rows of a storage again from its manifests."""
        return self._post_long("storages/rebuild", {"storage": storage, "dry_run": dry_run, "limit": limit})

    def recovery(self) -> dict[str, Any]:
        """Whether a recovery is under way, during which nothing is deleted, and how far each storage is."""
        return self._get("storages/recovery")

    def begin_recovery(self, why: str) -> bool:
        """From now on nothing is deleted; False when that was so already."""
        return self._post("storages/recovery/begin", {"why": why})["begun"]

    def end_recovery(self, why: str = "") -> bool:
        """Things may be deleted again; refused without a reason while a storage was not compared."""
        return self._post("storages/recovery/end", {"why": why})["ended"]

    def dark(self, storage: str) -> Iterator[dict[str, Any]]:
        """Dark files of a storage by path, as the last comparison found them."""
        after = ""
        while part := self._get("storages/dark", storage=storage, after=after):
            yield from part
            after = part[-1]["path"]

    def adopt_dark(
        self, storage: str, paths: Sequence[str], meta: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, list[Any]]:
        """Read dark files and register each under its path; paths `done`, and what `failed`."""
        body = {"storage": storage, "paths": list(paths), "meta": dict(meta), "dry_run": dry_run}
        return self._post_long("storages/dark/adopt", body)

    def delete_dark(
        self, storage: str, paths: Sequence[str], why: str, *, dry_run: bool = False
    ) -> dict[str, list[Any]]:
        """Delete dark files; paths `done`, and what `failed`."""
        body = {"storage": storage, "paths": list(paths), "why": why, "dry_run": dry_run}
        return self._post_long("storages/dark/delete", body)

    # --- transfers
    def traffic(self, days: int = 30) -> list[dict[str, Any]]:
        """What went over each link by day and activity in the last `days` days."""
        return self._get("traffic", days=days)

    def transfers(
        self, states: Sequence[str] | None = None, target: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Transfers in these states (Running and Waiting when not given), to one storage or to all."""
        asked = {"state": [str(s) for s in states]} if states else {}
        return self._get("transfers", limit=limit, **asked, **({"target": target} if target else {}))

    def transfer_history(self, transfer_id: int) -> list[dict[str, Any]]:
        """Every attempt of a transfer."""
        return self._get(f"transfers/{transfer_id}/history")

    def retry_transfers(self, ids: Sequence[int] | None, *, dry_run: bool = False) -> dict[str, list[int]]:
        """Have these transfers, or all that were given up in the last week, begin at once."""
        return self._post("transfers/retry", {"ids": None if ids is None else list(ids), "dry_run": dry_run})

    # --- tape
    def stage(
        self,
        query: Query | None = None,
        files: Sequence[str] = (),
        *,
        to: str | None = None,
        lifetime: float = 24.0,
        priority: int = 5,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Have files on tape brought online, what a query means or those of these names, kept so for `lifetime` hours;
        with `to` also copied to that storage. Tells files and bytes, and with `dry_run` does nothing else."""
        body = {"query": query, "files": list(files), "to": to, "lifetime": lifetime, "priority": priority}
        return self._post_long("stage", body | {"dry_run": dry_run})

    def staged(self, order: int | None = None) -> list[dict[str, Any]]:
        """The newest orders of `stage`, or one, and how far each is."""
        return self._get("stage") if order is None else [self._get(f"stage/{order}")]

    def cancel_stage(self, order: int) -> dict[str, Any]:
        """End an order; it, as it is then."""
        return self._post(f"stage/{order}/cancel", {})

    def tapes(self) -> list[dict[str, Any]]:
        """Every tape storage, and what is asked of it."""
        return self._get("stage/tapes")

    # --- nights
    def nights(self, limit: int = 100) -> list[dict[str, Any]]:
        """Observing nights in numbers, the latest first."""
        return self._get("nights", limit=limit)

    def night(self, night: str) -> dict[str, Any]:
        """Everything there is to say of a night."""
        return self._get(f"nights/{quote(night, safe='')}")

    def night_missing(self, night: str, limit: int = 1000) -> list[str]:
        """Expected files that have not come."""
        return self._get(f"nights/{quote(night, safe='')}/missing", limit=limit)

    def night_refused(self, night: str, limit: int = 1000) -> list[dict[str, Any]]:
        """Deliveries of a night that were refused, with their reasons."""
        return self._get(f"nights/{quote(night, safe='')}/refused", limit=limit)

    def expect(self, night: str, files: Iterable[Mapping[str, Any]], *, dry_run: bool = False) -> int:
        """Add files, maps with lfn and perhaps size and sha256, to what a night will have; how many are new."""
        path = f"nights/{quote(night, safe='')}/expected"
        return sum(self._post(path, {"files": part, "dry_run": dry_run})["new"] for part in _parts(files))

    def expect_nothing(self, night: str) -> int:
        """Forget what a night was said to have; how many files that were."""
        path = f"/api/v1/nights/{quote(night, safe='')}/expected"
        return self._try(lambda: self._http.delete(path))["forgotten"]

    def close_night(
        self, night: str, *, by: str = "operator", why: str = "", as_it_is: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Close a night with a signed receipt; its report."""
        body = {"by": by, "why": why, "as_it_is": as_it_is, "dry_run": dry_run}
        return self._post_long(f"nights/{quote(night, safe='')}/close", body)

    @contextmanager
    def night_receipt(self, night: str, revision: int | None = None) -> Generator[Iterator[bytes]]:
        """A receipt of a night, the last when no revision is given, streamed in pieces."""
        params = {"revision": revision} if revision else {}
        path = f"/api/v1/nights/{quote(night, safe='')}/receipt"
        try:
            with self._http.stream("GET", path, params=params) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                yield answer.iter_raw(_BLOCK)
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} stopped answering: {error}", hint="is it running? lightkeeper up") from error

    def night_signature(self, night: str, revision: int | None = None) -> bytes:
        """The signature of a receipt."""
        params = {"revision": revision} if revision else {}
        return self._bytes(f"nights/{quote(night, safe='')}/signature", **params)

    def receipt_key(self) -> str:
        """The public key that checks the signatures of receipts, as PEM text."""
        return self._bytes("receipt-key").decode()

    # --- quality
    def quality(self) -> list[dict[str, Any]]:
        """Every quality figure, with its value in the last night that has it."""
        return self._get("quality")

    def quality_trend(self, figure: str, *, nights: int = 30, by_element: bool = False) -> dict[str, Any]:
        """A figure, and its values from night to night."""
        return self._get(f"quality/{quote(figure, safe='')}", nights=nights, by_element=by_element)

    def quality_alarms(self) -> list[dict[str, Any]]:
        """What is out of range in nights that are open."""
        return self._get("quality/alarms")

    def quality_files(
        self, figure: str, night: str, *, only_out_of_range: bool = False, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Files of a night with their value of a figure, the worst first."""
        asked = {"night": night, "only_out_of_range": only_out_of_range, "limit": limit}
        return self._get(f"quality/{quote(figure, safe='')}/files", **asked)

    def record_quality(self, lfn: str, values: Mapping[str, float], *, dry_run: bool = False) -> dict[str, Any]:
        """Note what was measured on a file."""
        return self._post("quality/record", {"lfn": lfn, "values": dict(values), "dry_run": dry_run})

    def remove_quality(self, figure: str) -> dict[str, Any]:
        """Watch a figure no more."""
        return self._try(lambda: self._http.delete(f"/api/v1/quality/{quote(figure, safe='')}"))

    # --- files

    # --- ingest
    def ingest_status(self) -> list[dict[str, Any]]:
        """How every interface directory stands."""
        return self._get("ingest")

    def collections(self) -> list[dict[str, Any]]:
        """The outermost directories of the catalogue, with what lies below each."""
        return self._get("collections")

    def collection(self, path: str) -> dict[str, Any]:
        """A directory of the catalogue: those that it lies in, and those in it."""
        return self._get("collections/show", directory=path)

    def quarantine(
        self, pattern: str = "", *, storage: str | None = None, discarded: bool = False, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Refused deliveries with their reasons, latest first; perhaps with those that were discarded."""
        at = {} if storage is None else {"storage": storage}
        return self._get("quarantine", pattern=pattern, discarded=discarded, limit=limit, **at)

    def refused(self, number: int) -> dict[str, Any]:
        """One refused delivery: what became of it so far, and what lies in the quarantine."""
        return self._get("quarantine/show", number=number)

    def retry_refused(self, by: str, numbers: Sequence[int] = (), **more: Any) -> dict[str, list[Any]]:
        """Have refused deliveries verified again; by numbers, or with `pattern`."""
        return self._post_long("quarantine/retry", {"by": by, "numbers": list(numbers), **more})

    def release_refused(
        self, by: str, why: str, numbers: Sequence[int] = (), *, meta: Mapping[str, Any] | None = None, **more: Any
    ) -> dict[str, list[Any]]:
        """Have refused deliveries registered as they are, with metadata that they lack."""
        body = {"by": by, "why": why, "numbers": list(numbers), "meta": dict(meta or {}), **more}
        return self._post_long("quarantine/release", body)

    def discard_refused(self, by: str, why: str, numbers: Sequence[int] = (), **more: Any) -> dict[str, list[Any]]:
        """Delete what was refused; that it was stays known."""
        return self._post_long("quarantine/discard", {"by": by, "why": why, "numbers": list(numbers), **more})

    def find(
        self,
        query: Query = "",
        *,
        at: str | None = None,
        sort: str = "",
        limit: int | None = None,
        names: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Files that fulfil a query (text, JSON or a DIRAC map), streamed: only those `at` a storage, sorted like
        '-size,name', at most `limit`; with `names` only their names and sizes."""
        body = {"query": query, "at": at, "sort": sort, "limit": limit, "names": names}
        with self._stream("POST", "find", json=body) as lines:
            for line in lines:
                yield from_json(line)

    def files(self, query: Query = "", limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Files that fulfil a query, streamed."""
        return self.find(query, limit=limit)

    def count(self, query: Query = "", *, at: str | None = None) -> dict[str, int]:
        """How many files a query means, and their bytes."""
        return self._post("find/count", {"query": query, "at": at})

    def explain(self, query: Query = "", *, at: str | None = None) -> dict[str, Any]:
        """How a query will be answered, and what it is as text and as JSON."""
        return self._post("find/explain", {"query": query, "at": at})

    # --- datasets
    def datasets(self, pattern: str = "*", *, texts: bool = True) -> list[dict[str, Any]]:
        """Datasets whose name, or its last part, fits a pattern of `*` and `?`; with `texts` their queries are written
        out to be read by people."""
        return self._get("datasets", pattern=pattern, texts=texts)

    def dataset(self, name: str) -> dict[str, Any]:
        """One dataset: its query, status, number of files and bytes."""
        return self._get("datasets/show", name=name)

    def dataset_usage(self, name: str) -> list[dict[str, Any]]:
        """What each storage holds of a dataset."""
        return self._get("datasets/usage", name=name)

    def dataset_names(self, name: str) -> Iterator[str]:
        """Names of all files of a dataset, sorted, streamed."""
        with self._stream("GET", "datasets/names", params={"name": name}) as lines:
            for line in lines:
                yield line.decode()

    def datasets_holding(self, lfn: str) -> list[dict[str, Any]]:
        """Datasets that a file is in."""
        return self._get("datasets/holding", lfn=lfn)

    def datasets_fixing(self, values: Mapping[str, str]) -> list[dict[str, Any]]:
        """Datasets whose query fixes keys to these values, given as texts."""
        return self._post("datasets/fixing", {"values": dict(values)})

    def create_dataset(
        self, name: str, query: Query, *, description: str = "", dry_run: bool = False
    ) -> dict[str, Any]:
        """Make a dynamic dataset; its name, files and bytes."""
        body = {"name": name, "query": query, "description": description, "dry_run": dry_run}
        return self._post("datasets", body)

    def freeze_dataset(self, name: str) -> dict[str, Any]:
        """Make a dataset the list of the files that it means now."""
        return self._post("datasets/freeze", {"name": name})

    def release_dataset(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Make a frozen dataset its query again."""
        return self._post("datasets/release", {"name": name, "dry_run": dry_run})

    def update_dataset(self, name: str) -> dict[str, Any]:
        """Count a dataset anew; what its counters said and what was counted."""
        return self._post("datasets/update", {"name": name})

    def describe_dataset(self, name: str, description: str) -> dict[str, Any]:
        """Say what a dataset is for."""
        return self._post("datasets/describe", {"name": name, "description": description})

    def split_dataset(
        self, name: str, fractions: str, labels: Sequence[str] = (), *, again: bool = False, dry_run: bool = False
    ) -> list[dict[str, Any]]:
        """Cut a dataset in parts, each a dataset of its own."""
        body = {"name": name, "fractions": fractions, "labels": list(labels), "again": again, "dry_run": dry_run}
        return self._post("datasets/split", body)

    def remove_dataset(self, name: str, *, dry_run: bool = False) -> str:
        """Forget a dataset, not its files; its whole name."""
        return self._post("datasets/remove", {"name": name, "dry_run": dry_run})["removed"]

    # --- deletions
    def deletions(self) -> list[dict[str, Any]]:
        """Deletions on each storage: what waits, and how much of the hour's number is used."""
        return self._get("deletions")

    def find_deletions(
        self,
        *,
        storage: str | None = None,
        lfn: str | None = None,
        operation: str | None = None,
        state: str | None = None,
    ) -> list[dict[str, Any]]:
        """Single deletions, the latest first."""
        given = {"storage": storage, "lfn": lfn, "operation": operation, "state": state}
        return self._get("deletions/find", **{k: v for k, v in given.items() if v is not None})

    def deletion(self, number: int) -> dict[str, Any]:
        """One deletion with its evidence."""
        return self._get("deletions/show", number=number)

    def undo_deletions(
        self,
        by: str,
        ids: Sequence[int] = (),
        *,
        storage: str | None = None,
        operation: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Undo deletions that were not begun: how many, how many files came back, and what was refused."""
        body = {"by": by, "ids": list(ids), "storage": storage, "operation": operation, "dry_run": dry_run}
        return self._post("deletions/undo", body)

    def approve_deletions(self, storage: str, by: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Say that the deletions which wait at a storage for two people are meant."""
        return self._post("deletions/approve", {"storage": storage, "by": by, "dry_run": dry_run})

    def pause_deletions(
        self, by: str, storages: Sequence[str] = (), why: str = "", *, dry_run: bool = False
    ) -> list[str]:
        """Have no deletion begin on these storages, or on any; their names."""
        body = {"by": by, "storages": list(storages), "why": why, "dry_run": dry_run}
        return self._post("deletions/pause", body)["paused"]

    def resume_deletions(self, storages: Sequence[str] = (), *, dry_run: bool = False) -> list[str]:
        """Let deletions go on at these storages, or at all; their names."""
        return self._post("deletions/resume", {"storages": list(storages), "dry_run": dry_run})["resumed"]

    # --- operations
    def operations(self) -> list[dict[str, Any]]:
        """Every operation and how far it is, the latest first."""
        return self._get("operations")

    def operation(self, name: str) -> dict[str, Any]:
        """One operation and how far it is."""
        return self._get("operations/show", name=name)

    def operation_files(self, name: str, *, stand: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """The first files of an operation, or those that stand so."""
        return self._get("operations/files", name=name, limit=limit, **({"stand": stand} if stand else {}))

    def begin_operation(
        self, kind: str, query: Query | None = None, names: Sequence[str] = (), *, dry_run: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Replicate, move or delete the copies of files, with `target`, `source`, `copies`, `name`, `actor`."""
        body = {"kind": kind, "query": query, "names": list(names), "dry_run": dry_run, **more}
        return self._post_long("operations", body)

    def cancel_operation(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        """End an operation as it is."""
        return self._post("operations/cancel", {"name": name, "dry_run": dry_run})

    def finalize_operation(self, name: str, *, apply: bool = False) -> list[dict[str, Any]]:
        """What brings an operation to its end; with `apply` it is done."""
        return self._post_long("operations/finalize", {"name": name, "apply": apply})

    # --- rules
    def rules(self) -> list[dict[str, Any]]:
        """Every rule, and how far it is."""
        return self._get("rules")

    def rule(self, name: str) -> dict[str, Any]:
        """One rule, and how far it is."""
        return self._get("rules/show", name=name)

    def explain_rule(self, name: str, lfn: str | None = None) -> dict[str, Any]:
        """A rule, its transfers, and why copies are missing, of all its files or of one."""
        return self._get("rules/explain", name=name, **({} if lfn is None else {"lfn": lfn}))

    def add_rule(self, name: str, query: Query, copies: int, *, dry_run: bool = False, **more: Any) -> dict[str, Any]:
        """Add a rule, with `files`, `at`, `media`, `min_distance`, `priority`, `lifetime`, `source`, `retention`,
        `protect`, `quota`, `deadline`, `activity`; copies and bytes to be made."""
        return self._post("rules", {"name": name, "query": query, "copies": copies, "dry_run": dry_run, **more})

    def release_rule(self, name: str, by: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Agree that a rule does not protect its copies any more; who has, and whether they are enough."""
        return self._post("rules/release", {"name": name, "by": by, "dry_run": dry_run})

    def remove_rule(self, name: str, *, dry_run: bool = False) -> int:
        """Withdraw a rule; how many transfers are given up."""
        return self._post("rules/remove", {"name": name, "dry_run": dry_run})["transfers"]

    # --- files that are registered: lists of any length are sent in parts
    def stat(self, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """What is known of `files`, and what `failed`: names that are not registered."""
        return self._in_parts("files/stat", names)

    def replicas(self, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Every one of the `replicas` of files, and what `failed`: names that are not registered."""
        return self._in_parts("files/replicas", names)

    def check(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Names sorted into those with `none`, `one` and `several` Available copies, and those that are `missing`."""
        return self._in_parts("files/check", names)

    def set_metadata(
        self, names: Iterable[str], values: Mapping[str, Any], unset: Sequence[str] = (), *, dry_run: bool = False
    ) -> dict[str, list[Any]]:
        """Give files other metadata; names `done`, and what `failed`."""
        return self._in_parts("files/metadata", names, set=dict(values), unset=list(unset), dry_run=dry_run)

    def mark_corrupted(self, names: Iterable[str], why: str, *, dry_run: bool = False) -> dict[str, list[Any]]:
        """Say that the content of files is wrong."""
        return self._in_parts("files/corrupted", names, why=why, dry_run=dry_run)

    def restore(self, names: Iterable[str], why: str, *, dry_run: bool = False) -> dict[str, list[Any]]:
        """Say that superseded or corrupted files are right after all."""
        return self._in_parts("files/restore", names, why=why, dry_run=dry_run)

    def supersede(self, pairs: Iterable[tuple[str, str]], why: str, *, dry_run: bool = False) -> dict[str, list[Any]]:
        """Let the second file of each pair take the place of the first."""
        return self._in_parts("files/supersede", pairs, "pairs", why=why, dry_run=dry_run)

    def repair(self, names: Iterable[str], *, every: bool = False, dry_run: bool = False) -> dict[str, list[Any]]:
        """Read doubtful copies again and make lost ones again, before everything that waits: the `steps`."""
        return self._in_parts("files/repair", names, every=every, dry_run=dry_run)

    def remove(self, names: Iterable[str], why: str, *, dry_run: bool = False) -> dict[str, list[Any]]:
        """Give up the bytes of files: every copy will be deleted."""
        return self._in_parts("files/remove", names, why=why, dry_run=dry_run)

    def unregister(
        self, names: Iterable[str], why: str, *, at: str | None = None, dry_run: bool = False
    ) -> dict[str, list[Any]]:
        """Take files, or what is recorded `at` one storage, out of the catalogue; no byte is touched."""
        return self._in_parts("files/unregister", names, why=why, at=at, dry_run=dry_run)

    def register(
        self,
        files: Iterable[Mapping[str, Any] | bytes],
        *,
        at: str | None = None,
        virtual: bool = False,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Register files from maps, or lines of JSON, with lfn, size, sha256, adler32, storage and meta: how many were
        `added`, `known` already and `failed`, and the `failures` with their lines. With `virtual` names without data.
        The list is sent as it is made and may have any length; sent again, it changes nothing."""
        params = {"virtual": virtual, "dry_run": dry_run} | ({"at": at} if at else {})
        try:
            answer = self._http.post(
                "/api/v1/register", params=params, content=_blocks(files), timeout=httpx.Timeout(120, read=None)
            )
        except httpx.TransportError as error:
            raise Unavailable(
                f"{self.url} stopped answering: {error}", hint="is it running? then register the list again"
            ) from error
        if answer.is_error:
            raise _error(answer)
        return answer.json()

    # --- metadata keys
    def define_key(
        self, name: str, type_: str, *, level: str = "set", unit: str = "", description: str = ""
    ) -> dict[str, Any]:
        """Register a metadata key; whether it is new, changed or unchanged."""
        body = {"name": name, "type": type_, "level": level, "unit": unit, "description": description}
        return self._post("metadata", body)

    def metadata_keys(self) -> list[dict[str, Any]]:
        """Every registered metadata key."""
        return self._get("metadata")

    def metadata_key(self, name: str) -> dict[str, Any]:
        """A metadata key and how it is used."""
        return self._get(f"metadata/{quote(name, safe='')}")

    def why(self, lfn: str) -> dict[str, Any]:
        """A file's story back to the raw files it was made from."""
        return self._get("files/why", lfn=lfn)

    # --- contents; `lightkeeper.content` brings and fetches many files
    def file_facts(self, lfn: str) -> dict[str, Any]:
        """Size, checksums, metadata and copies of a file."""
        return self._get("files/facts", lfn=lfn)

    @contextmanager
    def open_content(
        self, lfn: str, *, at: str | None = None, not_at: Sequence[str] = (), start: int = 0
    ) -> Generator[Content]:
        """The bytes of a file from `start` on, streamed from one of its copies; `start` is less than its size, or 0.
        What is read is not checked; Unavailable is raised when it breaks off."""
        params = {"lfn": lfn, "not_at": list(not_at)} | ({"at": at} if at else {})
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._http.stream("GET", "/api/v1/files/content", params=params, headers=headers) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                told = answer.headers
                yield Content(
                    storage=told["x-lightkeeper-storage"],
                    size=int(told["x-lightkeeper-size"]),
                    sha256=told["x-lightkeeper-sha256"],
                    start=start,
                    chunks=answer.iter_raw(_BLOCK),
                )
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} broke off: {error}", hint="is it running? lightkeeper up") from error

    def suspect(self, lfn: str, storage: str, why: str) -> None:
        """Other bytes were read from a copy than the catalogue says: have it read again."""
        self._post("files/suspect", {"lfn": lfn, "storage": storage, "why": why})

    def plan_put(
        self, at: str, meta: Mapping[str, Any], lfn: str | None = None, sha256: str | None = None
    ) -> str | None:
        """What `put_content` would do: 'new', 'copy' or 'known'; without a name only place and metadata are checked."""
        file = {"lfn": lfn, "sha256": sha256} if lfn is not None else None
        return self._post("files/content/plan", {"at": at, "meta": dict(meta), "file": file})["state"]

    def put_content(
        self, lfn: str, at: str, chunks: Iterable[bytes], size: int, sha256: str, meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Put `size` bytes under a name at a storage, once; what became of it, with its checksums."""
        params = {"lfn": lfn, "at": at, "sha256": sha256, "meta": json.dumps(meta)}
        headers = {"Content-Length": str(size)}
        patience = httpx.Timeout(120, read=None)  # the storage reads everything back before it answers
        try:
            answer = self._http.put(
                "/api/v1/files/content", params=params, content=chunks, headers=headers, timeout=patience
            )
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} broke off: {error}", hint="is it running? lightkeeper up") from error
        if answer.is_error:
            raise _error(answer)
        return answer.json()

    # --- productions
    def productions(self) -> list[dict[str, Any]]:
        """Every production with its progress, latest first."""
        return self._get("productions")

    def production(self, name: str) -> dict[str, Any]:
        """A production, and how far each of its steps is."""
        return self._get(f"productions/{quote(name, safe='')}")

    def production_graph(self, name: str) -> list[dict[str, Any]]:
        """The steps of a production as nodes of a graph."""
        return self._get(f"productions/{quote(name, safe='')}/graph")

    def production_document(self, name: str) -> dict[str, Any]:
        """The document of a production, and the files that lay beside it."""
        return self._get(f"productions/{quote(name, safe='')}/document")

    def validate(
        self, document: str, sandbox: Mapping[str, str], values: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> list[dict[str, Any]]:
        """What a production document says, one for each combination of `values`; nothing is looked at."""
        return self._post("productions/validate", _document(document, sandbox, values))

    def plan(
        self,
        document: str,
        sandbox: Mapping[str, str],
        values: Mapping[str, Sequence[str]] = MappingProxyType({}),
        *,
        single_jobs: bool = False,
    ) -> list[dict[str, Any]]:
        """What production documents would do: inputs, tasks, bytes, processor time, what is missing; nothing is
        done."""
        return self._post("productions/plan", _document(document, sandbox, values) | {"single_jobs": single_jobs})

    def submit(
        self,
        name: str,
        document: str,
        sandbox: Mapping[str, str],
        values: Mapping[str, Sequence[str]] = MappingProxyType({}),
        *,
        open_: bool = False,
        match: str = "lineage",
        hold: bool = False,
        single_jobs: bool = False,
        group: str | None = None,
    ) -> list[dict[str, Any]]:
        """Start a production, or one for each combination of `values`, for a group of people; what became of them."""
        how = {"open": open_, "match": match, "hold": hold, "single_jobs": single_jobs}
        how |= {"group": group} if group is not None else {}
        return self._post("productions", _document(document, sandbox, values) | {"name": name} | how)["productions"]

    def extend(
        self,
        name: str,
        document: str,
        sandbox: Mapping[str, str],
        *,
        open_: bool = False,
        match: str = "lineage",
        dry_run: bool = False,
    ) -> list[dict[str, Any]]:
        """Add the steps that a document has more than that of the production; the new ones."""
        how = {"open": open_, "match": match, "dry_run": dry_run}
        body = _document(document, sandbox, {}) | how
        return self._post(f"productions/{quote(name, safe='')}/extend", body)["added"]

    def match_again(self, name: str, *, dry_run: bool = False) -> int:
        """Give a production the files that match now and that it has not had; how many."""
        return self._post(f"productions/{quote(name, safe='')}/match-again", {"dry_run": dry_run})["files"]

    def more_tasks(self, name: str, step: int, tasks: int, *, dry_run: bool = False) -> int:
        """Have more tasks made of a step that needs no input; how many there are to be then."""
        body = {"step": step, "tasks": tasks, "dry_run": dry_run}
        return self._post(f"productions/{quote(name, safe='')}/tasks", body)["tasks"]

    def set_group(self, name: str, group: str, *, dry_run: bool = False) -> str:
        """Have a production be of another group of people; of which it was before."""
        body = {"group": group, "dry_run": dry_run}
        return self._post(f"productions/{quote(name, safe='')}/group", body)["before"]

    def start_production(self, name: str, *, dry_run: bool = False) -> int:
        """Start a production that was held back or stopped; how many steps."""
        return self._post(f"productions/{quote(name, safe='')}/start", {"dry_run": dry_run})["started"]

    def stop_production(self, name: str, why: str = "", *, dry_run: bool = False) -> int:
        """Start no more work of a production; how many steps."""
        return self._post(f"productions/{quote(name, safe='')}/stop", {"why": why, "dry_run": dry_run})["stopped"]

    def close_production(self, name: str, *, dry_run: bool = False) -> int:
        """Take no more files into an open production, so that it ends; how many transformations that concerns."""
        return self._post(f"productions/{quote(name, safe='')}/close", {"dry_run": dry_run})["closed"]

    def clone_production(
        self,
        name: str,
        new: str,
        changes: Mapping[str, str] = MappingProxyType({}),
        *,
        open_: bool = False,
        match: str = "lineage",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Make a production once more under another name, with other settings."""
        body = {"name": new, "changes": dict(changes), "open": open_, "match": match, "dry_run": dry_run}
        return self._post(f"productions/{quote(name, safe='')}/clone", body)

    def generate(
        self, template: str, kind: str, values: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> dict[str, dict[str, str]]:
        """The production documents of a campaign by their names, for each combination of `values`."""
        told = {word: list(choices) for word, choices in values.items()}
        return self._post("productions/generate", {"template": template, "kind": kind, "values": told})

    def transformations(
        self,
        production: str | None = None,
        *,
        names: Sequence[str] = (),
        status: str | None = None,
        type_: str | None = None,
        all_: bool = False,
    ) -> list[dict[str, Any]]:
        """Transformations with progress, operations and orders of staging among them; all, or one production's."""
        given = {"production": production, "name": list(names), "status": status, "type": type_, "all": all_ or None}
        return self._get("transformations", **{key: value for key, value in given.items() if value})

    def transformation(self, name: str) -> dict[str, Any]:
        """The report of a transformation, or `operation` when it is one."""
        return self._get("transformations/show", name=name)

    def usage(self, name: str) -> list[dict[str, Any]]:
        """What jobs of a transformation used: mean, p50, p95 and most, by state and by what."""
        return self._get("transformations/usage", name=name)

    def transformation_files(self, name: str, **given: Any) -> list[dict[str, Any]]:
        """Where files of a transformation stand: `status`, `task_status`, `limit`."""
        return self._get("transformations/files", name=name, **_without_none(given))

    def transformation_tasks(self, name: str, **given: Any) -> list[dict[str, Any]]:
        """Tasks of a transformation: `status`, `limit`."""
        return self._get("transformations/tasks", name=name, **_without_none(given))

    def change_transformations(self, what: str, names: Sequence[str], why: str, **given: Any) -> dict[str, Any]:
        """Change transformations: `status`, `priority`, `clean`, `delete`."""
        return self._post(f"transformations/{what}", {"names": list(names), "why": why, **given})

    def add_files(self, transformation: str, names: Iterable[str], *, dry_run: bool = False) -> dict[str, list[Any]]:
        """Have files processed by a transformation."""
        return self._in_parts("transformations/files", names, transformation=transformation, dry_run=dry_run)

    def set_files(self, transformation: str, status: str, why: str, **given: Any) -> dict[str, Any]:
        """Give files of a transformation another state: `names`, or `now`, or `task_status`."""
        body = {"transformation": transformation, "status": status, "why": why, **_without_none(given)}
        return self._post("transformations/files/status", body)

    def finalize_transformation(self, name: str, *, apply: bool = False) -> list[dict[str, Any]]:
        """What brings a transformation or operation to its end; with `apply` it is done."""
        return self._post("transformations/finalize", {"name": name, "apply": apply})

    def retry(self, transformation_id: int) -> int:
        """Give every task that failed in every attempt one more; how many."""
        return self._post(f"transformations/{transformation_id}/retry", {})["tasks"]

    def transformation_report(self, transformation_id: int) -> dict[str, Any]:
        """The report of one transformation."""
        return self._get(f"transformations/{transformation_id}/report")

    def jobs(self, **given: Any) -> list[dict[str, Any]]:
        """Jobs, latest first: `transformation`, `status`, `site`, `limit`."""
        return self._get("jobs", **_without_none(given))

    def job(self, job_id: int) -> dict[str, Any]:
        """One job, its inputs, and how its state went."""
        return self._get(f"jobs/{job_id}")

    def job_log(self, job_id: int) -> str:
        """What a job's tool printed, or its beginning and end."""
        return self._get(f"jobs/{job_id}/log")["text"]

    def kill_jobs(self, job_ids: Sequence[int], why: str, *, again: bool, dry_run: bool) -> dict[str, Any]:
        """End jobs; with `again` their tasks get another attempt."""
        return self._post("jobs/kill", {"jobs": list(job_ids), "why": why, "again": again, "dry_run": dry_run})

    def shares(self) -> list[dict[str, Any]]:
        """Shares of the processors, and who uses how many."""
        return self._get("shares")

    def set_share(self, kind: str, name: str, share: float) -> str:
        """Give a group, production or job type its share."""
        return self._post("shares", {"kind": kind, "name": name, "share": share})["told"]

    # --- pilots
    def hello(self) -> dict[str, Any]:
        """Show a pilot's secret; its orders."""
        return self._post("pilot/hello", {})

    def claim(self, most: int = 1, holding: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The next jobs; `holding` are those that the pilot has."""
        return self._post("pilot/claim", {"most": most, "holding": None if holding is None else list(holding)})["jobs"]

    def alive(self, jobs: Mapping[int, str]) -> list[int]:
        """The pilot and its jobs are alive; jobs that it must stop."""
        return self._post("pilot/alive", {"jobs": dict(jobs)})["stop"]

    def finish(self, job_id: int, report: Mapping[str, Any]) -> None:
        """A job's outputs are uploaded."""
        self._post(f"pilot/jobs/{job_id}/finish", dict(report))

    def finish_all(self, reports: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """Outputs of several jobs are uploaded; those of them that are not this pilot's any more."""
        return self._post("pilot/finish", {"jobs": {job_id: dict(report) for job_id, report in reports.items()}})[
            "refused"
        ]

    def fail(self, job_id: int, report: Mapping[str, Any]) -> None:
        """A job failed."""
        self._post(f"pilot/jobs/{job_id}/fail", dict(report))

    def goodbye(self) -> None:
        """The pilot ends."""
        self._post("pilot/goodbye", {})

    # --- how
    @contextmanager
    def _stream(self, method: str, path: str, **request: Any) -> Generator[Iterator[bytes]]:
        """The lines of an answer while they come; Unavailable is raised when it breaks off."""
        try:
            with self._http.stream(method, f"/api/v1/{path}", **request) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                yield _lines(answer.iter_bytes())
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} stopped answering: {error}", hint="is it running? lightkeeper up") from error

    def _in_parts(self, path: str, items: Iterable[Any], key: str = "names", **more: Any) -> dict[str, list[Any]]:
        """Post a list in parts and join what was answered to each."""
        joined: dict[str, list[Any]] = {}
        for part in _parts(items):
            for name, lines in self._post(path, {key: part, **more}).items():
                joined.setdefault(name, []).extend(lines)
        return joined

    def _get(self, path: str, /, **params: Any) -> Any:
        return self._try(lambda: self._http.get(f"/api/v1/{path}", params=params))

    def _bytes(self, path: str, **params: Any) -> bytes:
        """An answer that is no JSON."""
        try:
            answer = self._http.get(f"/api/v1/{path}", params=params)
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} does not answer: {error}", hint="is it running? lightkeeper up") from error
        if answer.is_error:
            raise _error(answer)
        return answer.content

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Every POST of the contract may be repeated: a second one changes nothing or is refused."""
        return self._try(lambda: self._http.post(f"/api/v1/{path}", json=body))

    def _post_long(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post what takes as long as it takes. It is not repeated: a second one would meet the first at work."""
        patience = httpx.Timeout(120, read=None)
        try:
            answer = self._http.post(f"/api/v1/{path}", json=body, timeout=patience)
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} does not answer: {error}", hint="is it running? lightkeeper up") from error
        if answer.is_error:
            raise _error(answer)
        return answer.json()

    def _try(self, call: Callable[[], httpx.Response]) -> Any:
        for attempt in range(_TRIES):
            try:
                answer = call()
            except ValueError as error:  # half a character of a command line, a number that is none
                raise Invalid(f"this cannot be sent: {printable(str(error))}") from error
            except httpx.TransportError as error:
                if attempt + 1 == _TRIES:
                    raise Unavailable(
                        f"{self.url} does not answer: {error}", hint="is it running? lightkeeper up"
                    ) from error
            else:
                if not answer.is_error:
                    return answer.json()
                failure = _error(answer)
                if not isinstance(failure, Unavailable) or attempt + 1 == _TRIES:
                    raise failure
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


def find(home: Path) -> Client | None:
    """A client of the instance that runs on this home, if one of this version does and answers."""
    where = running(home)
    if where is None:
        return None
    try:
        client = Client(where["url"], (home / "run" / "operator.token").read_text())
        if client.health()["version"] == __version__:
            return client
    except (LightkeeperError, OSError):
        pass
    return None


def running(home: Path) -> dict[str, Any] | None:
    """Address, process and kind of the instance that runs on this home, as it noted them; None when there is no note
    or the process is gone."""
    try:
        where: dict[str, Any] = json.loads((home / "run" / "instance.json").read_text())
    except (OSError, ValueError):
        return None
    return where if Path(f"/proc/{where['pid']}").exists() or not Path("/proc/self").exists() else None


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    """At least one part, so that an empty list is answered too."""
    rest = iter(items)
    part = list(islice(rest, _PART))
    while True:
        yield part
        part = list(islice(rest, _PART))
        if not part:
            return


def _blocks(files: Iterable[Mapping[str, Any] | bytes]) -> Iterator[bytes]:
    """Lines of JSON, joined to blocks that are worth sending."""
    block: list[bytes] = []
    size = 0
    for file in files:
        block.append(file if isinstance(file, bytes) else to_json(file))
        size += len(block[-1])
        if size > _BLOCK:
            yield b"\n".join(block) + b"\n"
            block, size = [], 0
    if block:
        yield b"\n".join(block) + b"\n"


def _document(document: str, sandbox: Mapping[str, str], values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    told = {word: list(choices) for word, choices in values.items()}
    return {"document": document, "sandbox": dict(sandbox), "values": told}


def _error(answer: httpx.Response) -> LightkeeperError:
    try:
        told = answer.json()["error"]
        return errors_by_code()[told["code"]](told["message"], hint=told["hint"])
    except (ValueError, KeyError, TypeError):
        if answer.status_code == 422:
            return errors_by_code()["invalid"](f"the server does not understand the request: {answer.text[:300]}")
        return LightkeeperError(f"the server answered {answer.status_code}: {answer.text[:300]}")
