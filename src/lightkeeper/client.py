"""The Python client: every call of the HTTP contract as a method. Errors come back as the error they were."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx2 as httpx

from lightkeeper import __version__
from lightkeeper.domain.errors import LightkeeperError, Unavailable, errors_by_code

_TRIES = 4

Query: TypeAlias = str | Mapping[str, Any]
"""A query as text, as JSON or as a DIRAC map."""


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

    def traffic(self) -> list[dict[str, Any]]:
        """Completed transfers by link."""
        return self._get("traffic")

    # --- files
    def nights(self) -> list[dict[str, Any]]:
        """Observing nights and how far they are preserved."""
        return self._get("nights")

    def quarantine(self) -> list[dict[str, Any]]:
        """Refused deliveries with their reasons."""
        return self._get("quarantine")

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
        try:
            with self._http.stream("POST", "/api/v1/find", json=body) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                for line in answer.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise Unavailable(f"{self.url} stopped answering: {error}", hint="is it running? lightkeeper up") from error

    def files(self, query: Query = "", limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Files that fulfil a query, streamed."""
        return self.find(query, limit=limit)

    def count(self, query: Query = "", *, at: str | None = None) -> dict[str, int]:
        """How many files a query means, and their bytes."""
        return self._post("find/count", {"query": query, "at": at})

    def explain(self, query: Query = "", *, at: str | None = None) -> dict[str, Any]:
        """How a query will be answered, and what it is as text and as JSON."""
        return self._post("find/explain", {"query": query, "at": at})

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

    # --- productions
    def productions(self) -> list[dict[str, Any]]:
        """Every production."""
        return self._get("productions")

    def plan(self, document: str, sandbox: Mapping[str, str]) -> dict[str, Any]:
        """What a production document asks for; nothing is done."""
        return self._post("productions/plan", {"name": "plan", "document": document, "sandbox": dict(sandbox)})

    def submit(self, name: str, document: str, sandbox: Mapping[str, str], *, open_: bool = False) -> dict[str, Any]:
        """Start a production."""
        body = {"name": name, "document": document, "sandbox": dict(sandbox), "open": open_}
        return self._post("productions", body)

    def close_production(self, name: str) -> int:
        """Take no more files into an open production, so that it ends; how many transformations that concerns."""
        return self._post(f"productions/{name}/close", {})["closed"]

    def transformations(self, production: str | None = None) -> list[dict[str, Any]]:
        """Transformations with progress; all, or one production's."""
        return self._get("transformations", **({"production": production} if production else {}))

    def retry(self, transformation_id: int) -> int:
        """Give every task that failed in every attempt one more; how many."""
        return self._post(f"transformations/{transformation_id}/retry", {})["tasks"]

    def transformation_report(self, transformation_id: int) -> dict[str, Any]:
        """The report of one transformation."""
        return self._get(f"transformations/{transformation_id}/report")

    def jobs(self) -> list[dict[str, Any]]:
        """Jobs, latest first."""
        return self._get("jobs")

    def job_log(self, job_id: int) -> str:
        """The end of what a job's tool printed."""
        return self._get(f"jobs/{job_id}/log")["text"]

    # --- pilots
    def hello(self) -> dict[str, Any]:
        """Show a pilot's secret; its orders."""
        return self._post("pilot/hello", {})

    def claim(self) -> dict[str, Any] | None:
        """The next job, or None."""
        return self._post("pilot/claim", {})["job"]

    def alive(self, jobs: Mapping[int, str]) -> list[int]:
        """The pilot and its jobs are alive; jobs that it must stop."""
        return self._post("pilot/alive", {"jobs": dict(jobs)})["stop"]

    def finish(self, job_id: int, report: Mapping[str, Any]) -> None:
        """A job's outputs are uploaded."""
        self._post(f"pilot/jobs/{job_id}/finish", dict(report))

    def fail(self, job_id: int, report: Mapping[str, Any]) -> None:
        """A job failed."""
        self._post(f"pilot/jobs/{job_id}/fail", dict(report))

    def goodbye(self) -> None:
        """The pilot ends."""
        self._post("pilot/goodbye", {})

    # --- how
    def _get(self, path: str, **params: Any) -> Any:
        return self._try(lambda: self._http.get(f"/api/v1/{path}", params=params))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Every POST of the contract may be repeated: a second one changes nothing or is refused."""
        return self._try(lambda: self._http.post(f"/api/v1/{path}", json=body))

    def _try(self, call: Callable[[], httpx.Response]) -> Any:
        for attempt in range(_TRIES):
            try:
                answer = call()
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


def _error(answer: httpx.Response) -> LightkeeperError:
    try:
        told = answer.json()["error"]
        return errors_by_code()[told["code"]](told["message"], hint=told["hint"])
    except (ValueError, KeyError, TypeError):
        if answer.status_code == 422:
            return errors_by_code()["invalid"](f"the server does not understand the request: {answer.text[:300]}")
        return LightkeeperError(f"the server answered {answer.status_code}: {answer.text[:300]}")
