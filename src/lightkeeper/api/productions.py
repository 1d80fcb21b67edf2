"""Productions: their documents, what they would do, and how far they are."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field

from lightkeeper.api.body import Body
from lightkeeper.context import Context
from lightkeeper.domain.sharing import GROUP
from lightkeeper.domain.variants import variants
from lightkeeper.domain.work import Match
from lightkeeper.steps import produce, productions
from lightkeeper.store import productions as store


class Document(Body):
    """A production document as text, with the files that lie beside it. `values`: of words like `$layout` in it."""

    document: str
    sandbox: dict[str, str] = Field(default_factory=dict)
    values: dict[str, list[str]] = Field(default_factory=dict)
    single_jobs: bool = False

    def files(self) -> dict[str, bytes]:
        """The files beside it as they are read."""
        return {name: text.encode() for name, text in self.sandbox.items()}


class Submission(Document):
    """A document that is to be started under a name, for a group of people."""

    name: str
    open: bool = False
    match: Match = Match.LINEAGE
    hold: bool = False
    group: str = GROUP


class Extension(Document):
    """A document that has more steps than that of the production."""

    open: bool = False
    match: Match = Match.LINEAGE
    dry_run: bool = False


class Change(Body):
    """A change; with `dry_run` it is only told what it would do."""

    dry_run: bool = False


class Group(Change):
    """Another group of people."""

    group: str


class MoreTasks(Change):
    """More tasks of a step that needs no input."""

    step: int
    tasks: int = Field(gt=0, le=10_000_000)


class Copy(Body):
    """A name for the same once more, and settings that differ."""

    name: str
    changes: dict[str, str] = Field(default_factory=dict)
    open: bool = False
    match: Match = Match.LINEAGE
    dry_run: bool = False


class Stop(Change):
    """A reason, for the history."""

    why: str = ""


class Template(Body):
    """A template of a campaign."""

    template: str
    kind: str
    values: dict[str, list[str]] = Field(default_factory=dict)


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of productions."""
    router = APIRouter(prefix="/api/v1/productions")
    changing = [Depends(operator)]

    @router.get("")
    def listed() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            return [asdict(one) | {"share": one.share} for one in store.summaries(conn)]

    @router.post("/validate")
    def validate(body: Document) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        made = variants("plan", body.document, body.values)
        return [asdict(produce.plan(ctx, one.document, body.files(), single_jobs=body.single_jobs)) for one in made]

    @router.post("/plan")
    def plan(body: Document) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        found = productions.look_at_all(
            ctx, "plan", body.document, body.files(), body.values, single_jobs=body.single_jobs
        )
        return [one.told() | {"name": variant.name} for variant, one in found]

    @router.post("", dependencies=changing)
    def submit(body: Submission) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        names = productions.submit_all(
            ctx,
            body.name,
            body.document,
            body.files(),
            body.values,
            open_=body.open,
            match=body.match,
            hold=body.hold,
            single_jobs=body.single_jobs,
            group=body.group,
        )
        return {"productions": [productions.show(ctx, name).told() for name in names]}

    @router.post("/generate")
    def generate(body: Template) -> dict[str, dict[str, str]]:  # pyright: ignore[reportUnusedFunction]
        made = variants("campaign", body.template, body.values)
        return {
            one.name.removeprefix("campaign").lstrip("_"): dict(productions.generate(ctx, one.document, body.kind))
            for one in made
        }

    @router.get("/{name}")
    def show(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return productions.show(ctx, name).told()

    @router.get("/{name}/graph")
    def graph(name: str) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        return [asdict(node) for node in productions.show(ctx, name).nodes]

    @router.get("/{name}/document")
    def document(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            found = produce.known(conn, name)
        return {"document": found.document, "sandbox": dict(found.sandbox)}

    @router.post("/{name}/extend", dependencies=changing)
    def extend(name: str, body: Extension) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        added = productions.extend(
            ctx, name, body.document, body.files(), open_=body.open, match=body.match, dry_run=body.dry_run
        )
        return {"added": [asdict(step) for step in added]}

    @router.post("/{name}/match-again", dependencies=changing)
    def match_again(name: str, body: Change) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"files": productions.match_again(ctx, name, dry_run=body.dry_run)}

    @router.post("/{name}/tasks", dependencies=changing)
    def more_tasks(name: str, body: MoreTasks) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"tasks": productions.more_tasks(ctx, name, body.step, body.tasks, dry_run=body.dry_run)}

    @router.post("/{name}/group", dependencies=changing)
    def set_group(name: str, body: Group) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"before": productions.set_group(ctx, name, body.group, dry_run=body.dry_run), "group": body.group}

    @router.post("/{name}/start", dependencies=changing)
    def start(name: str, body: Change) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"started": productions.start(ctx, name, dry_run=body.dry_run)}

    @router.post("/{name}/stop", dependencies=changing)
    def stop(name: str, body: Stop) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"stopped": productions.stop(ctx, name, body.why, dry_run=body.dry_run)}

    @router.post("/{name}/close", dependencies=changing)
    def close(name: str, body: Change) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"closed": productions.close(ctx, name, dry_run=body.dry_run)}

    @router.post("/{name}/clone", dependencies=changing)
    def clone(name: str, body: Copy) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        text, files, group = productions.clone(ctx, name, body.name, body.changes)
        if body.dry_run:
            (found,) = productions.look_at_all(ctx, body.name, text, files, {})
            return {"document": text, "plan": found[1].told() | {"name": body.name}}
        produce.submit(ctx, body.name, text, files, open_=body.open, match=body.match, group=group)
        return productions.show(ctx, body.name).told()

    return router
