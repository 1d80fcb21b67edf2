"""lightkeeper production."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from lightkeeper.cli.documents import read
from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, elided, err, out, show
from lightkeeper.client import Client
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError
from lightkeeper.domain.graph import Node, as_dot, as_svg, as_text
from lightkeeper.domain.units import readable_bytes, readable_time
from lightkeeper.domain.work import Match

production = typer.Typer(help="Productions: graphs of transformations.", no_args_is_help=True)

LIST = ("name", "state", "group", "campaign", "steps", "progress", "files", "tasks", "done", "failed", "created")
STEPS = ("step", "name", "state", "takes", "progress", "files", "tasks", "done", "failed", "outputs", "id")
PLAN = ("step", "name", "type", "takes", "input", "files", "bytes", "tasks", "processor time")

SURE = 5
"""So many times in a row nothing must go on before it is said so: between two steps that is so for a moment."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the production.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Production document: YAML or CWL.")]
Open = Annotated[bool, typer.Option("--open", help="Take files that arrive later too, until it is closed.")]
Matching = Annotated[
    Match,
    typer.Option("--match", help="Steps with a parent take what it made here, or all that match in the catalogue."),
]
For = Annotated[
    list[str],
    typer.Option("--for", metavar="WORD=A,B", help="A production for each value of $WORD in FILE."),
]
Inputs = Annotated[
    list[Path],
    typer.Option("--inputs", metavar="FILE", help="For CWL: values of its inputs, as YAML; one file for each run."),
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="GROUP", help="Group of people whose share of the processors it has."),
]
SingleJobs = Annotated[bool, typer.Option("--single-jobs", help="One job for each step, on all its files.")]


# --- before it is there ----------------------------------------------------------------------------------------
@production.command("validate")
def validate(
    file: File,
    values: For = [],  # noqa: B006
    inputs: Inputs = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Check FILE: every defect is told with line and key. No input is looked at, nothing is done."""
    document, sandbox = read(file, inputs)
    with client() as api, _told_of(file):
        plans = api.validate(document, sandbox, _values(values))
    if as_json:
        show(plans, as_json=True)
    else:
        for plan in plans:
            _warn(plan["warnings"])
            rows = [
                {
                    "step": step["number"],
                    "name": step["name"],
                    "type": step["job_type"],
                    "takes": _takes(step),
                    "group": "-" if step["without_input"] else step["group_size"],
                    "query": step["query"],
                }
                for step in plan["steps"]
            ]
            title = f"{file.name} is in order: campaign {plan['campaign']}, {len(rows)} steps"
            columns = ("step", "name", "type", "takes", "group", "query")
            show(rows, as_json=False, columns=columns, title="" if plan["missing"] else title)
            for sentence in plan["missing"]:
                err.print(f"[bold red]missing:[/] {_plain(sentence)}")
    if any(plan["missing"] for plan in plans):
        raise typer.Exit(1)


@production.command("plan")
def plan(
    file: File,
    values: For = [],  # noqa: B006
    inputs: Inputs = [],  # noqa: B006
    single_jobs: SingleJobs = False,
    as_json: AsJson = False,
) -> None:
    """Say what FILE would do: inputs, tasks, bytes, processor time, and what is missing. Nothing is touched."""
    document, sandbox = read(file, inputs)
    with client() as api, _told_of(file):
        plans = api.plan(document, sandbox, _values(values), single_jobs=single_jobs)
    _show_plans(plans, as_json)


@production.command("submit")
def submit(
    name: Name,
    file: File,
    values: For = [],  # noqa: B006
    inputs: Inputs = [],  # noqa: B006
    open_: Open = False,
    match: Matching = Match.LINEAGE,
    single_jobs: SingleJobs = False,
    group: Group = None,
    hold: Annotated[bool, typer.Option("--hold", help="Make it, and leave the start to 'production start'.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start production NAME as FILE describes, on the files that match now."""
    document, sandbox = read(file, inputs)
    with client() as api, _told_of(file):
        if dry_run:
            _show_plans(api.plan(document, sandbox, _values(values), single_jobs=single_jobs), as_json)
            return
        made = api.submit(
            name,
            document,
            sandbox,
            _values(values),
            open_=open_,
            match=match,
            hold=hold,
            single_jobs=single_jobs,
            group=group,
        )
    if as_json:
        show(made, as_json=True)
        return
    for one in made:
        _warn(one["warnings"])
    if len(made) > 1:
        show([_summary(one) for one in made], as_json=False, columns=LIST)
    else:
        _show_one(made[0])


@production.command("run")
def run(
    name: Name,
    file: File,
    values: For = [],  # noqa: B006
    inputs: Inputs = [],  # noqa: B006
    match: Matching = Match.LINEAGE,
    single_jobs: SingleJobs = False,
    group: Group = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Submit FILE as production NAME and stay until it has ended. When no instance runs, this machine does the work, at
    the sites whose executor is local. Run again, it goes on. Exit status 1: a person is needed."""
    document, sandbox = read(file, inputs)
    if dry_run:
        with client() as api, _told_of(file):
            _show_plans(api.plan(document, sandbox, _values(values), single_jobs=single_jobs), as_json)
        return
    with client(work=True) as api, _told_of(file):
        made = api.submit(name, document, sandbox, _values(values), match=match, single_jobs=single_jobs, group=group)
        for one in made:
            _warn(one["warnings"])
        ended = [_follow(api, one["name"]) for one in made]
        if as_json:
            show(ended, as_json=True)
        else:
            for one in ended:
                _show_one(one)
                _tell_why_left(api, one)
    if any(one["state"] != "Completed" for one in ended):
        raise typer.Exit(1)


def _follow(api: Client, name: str) -> dict[str, Any]:
    """Draw how far a production is until it has ended, or nothing goes on any more."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task(name, total=None)
        held_up = 0
        while True:
            one = api.production(name)
            progress.update(bar, total=one["tasks"] or None, completed=one["done"] + one["failed"])
            held_up = held_up + 1 if _is_held_up(api, one) else 0
            if one["state"] in ("Completed", "Stopped") or held_up == SURE:
                return one
            time.sleep(0.5)


def _is_held_up(api: Client, one: dict[str, Any]) -> bool:
    """Whether nothing of a production goes on before a person does something."""
    left = [step for step in one["steps"] if step["status"] not in ("Completed", "Archived")]
    if one["running"] or any(step["status"] != "Active" for step in left):
        return False
    return all(_needs_a_person(api.why_waiting(str(step["id"]))) for step in left)


def _needs_a_person(answer: dict[str, Any]) -> bool:
    """Whether something waits for a person, or for nothing else than what does."""
    return answer["person"] or (bool(answer["because"]) and all(map(_needs_a_person, answer["because"])))


def _tell_why_left(api: Client, one: dict[str, Any]) -> None:
    """Say why a production has not ended, and what a person can do."""
    for step in one["steps"]:
        answer = api.why_waiting(str(step["id"]))
        if answer["person"]:
            err.print(f"step {step['step']} waits: {_plain(answer['waits_for'])}")
            for choice in answer["choices"]:
                err.print(f"  {_plain(choice)}")
        if step["failed"]:
            err.print(f"  see: lightkeeper transformation report {step['id']}")


@production.command("generate")
def generate(
    template: Annotated[Path, typer.Argument(metavar="TEMPLATE", help="Template of a campaign.")],
    kind: Annotated[str, typer.Option(help="Kind of campaign, such as ctapipe or evndisp.")] = "ctapipe",
    to: Annotated[Path, typer.Option(help="Folder for the documents.")] = Path(),
    values: Annotated[
        list[str],
        typer.Option("--for", metavar="WORD=A,B", help="A folder for each value of $WORD."),
    ] = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write the production documents of a campaign from TEMPLATE."""
    text, _ = read(template)
    with client() as api, _told_of(template):
        folders = api.generate(text, kind, _values(values))
    paths = {to / folder / name: text for folder, documents in folders.items() for name, text in documents.items()}
    there = [path for path, text in paths.items() if path.exists() and path.read_text() != text]
    if there:
        raise Conflict(f"{there[0]} is there already, and says something else", hint="choose another folder with --to")
    if not dry_run:
        for path, document in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(document)
    if as_json:
        show({"written": [] if dry_run else list(map(str, paths)), "documents": folders}, as_json=True)
    else:
        for path in paths:
            out.print(f"{'would write' if dry_run else 'written:'} {path}", markup=False)


# --- looking ---------------------------------------------------------------------------------------------------
@production.command("list")
def listed(as_json: AsJson = False) -> None:
    """List productions with their progress, latest first."""
    with client() as api:
        found = api.productions()
    show(
        found if as_json else [_summary(one) for one in found], as_json=as_json, columns=LIST, empty="no production yet"
    )


@production.command("show")
def show_one(
    name: Name,
    document: Annotated[bool, typer.Option("--document", help="Print its document instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far production NAME is, step by step."""
    with client() as api:
        if document:
            found = api.production_document(name)
            show(found, as_json=True) if as_json else sys.stdout.write(found["document"])
            return
        one = api.production(name)
    if as_json:
        show(one, as_json=True)
    else:
        _show_one(one)


@production.command("graph")
def graph(
    name: Name,
    dot: Annotated[bool, typer.Option("--dot", help="For Graphviz.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="A picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw the steps of production NAME with their progress: as text, or as said."""
    with client() as api:
        found = api.production_graph(name)
    nodes = [Node(**{**node, "parents": tuple(node["parents"])}) for node in found]
    if as_json:
        show(found, as_json=True)
    elif dot or svg:
        sys.stdout.write(as_svg(name, nodes) if svg else as_dot(name, nodes))
    else:
        out.print(as_text(nodes), markup=False, highlight=False)


# --- changing --------------------------------------------------------------------------------------------------
@production.command("start")
def start(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Start a production that was held back, or go on with one that was stopped."""
    with client() as api:
        n = api.start_production(name, dry_run=dry_run)
    _say("started", n, "steps go on", "nothing was held back or stopped", as_json)


@production.command("set")
def set_(
    name: Name,
    group: Annotated[str, typer.Option("--group", metavar="GROUP", help="Group of people that it is of.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have a production get the share of another group, also for the jobs that wait already. Shares are given by
    'share set group', priorities by 'transformation priority'."""
    with client() as api:
        before = api.set_group(name, group, dry_run=dry_run)
    if as_json:
        show({"before": before, "group": group}, as_json=True)
    else:
        out.print(f"{name} {'would be' if dry_run else 'is'} of group {group}; it was of {before}", markup=False)


@production.command("stop")
def stop(
    name: Name,
    why: Annotated[str, typer.Option(help="The reason, for its history.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start no more work of a production; jobs that run are finished."""
    with client() as api:
        n = api.stop_production(name, why, dry_run=dry_run)
    _say("stopped", n, "steps stop", "it was stopped already", as_json)


@production.command("close")
def close(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take no more files into an open production, so that it ends when its work is done."""
    with client() as api:
        n = api.close_production(name, dry_run=dry_run)
    _say("closed", n, "transformations take no more files", "it was not open", as_json)


@production.command("extend")
def extend(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Its document with more steps; what is there stays.")
    ] = None,
    match_again: Annotated[
        bool, typer.Option("--match-again", help="Take also the files that match now and that it has not had.")
    ] = False,
    step: Annotated[int | None, typer.Option(min=1, help="Step that gets --tasks.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="So many more jobs of a step without input.")] = None,
    open_: Open = False,
    match: Matching = Match.LINEAGE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add steps, files or jobs to production NAME while it runs."""
    if (tasks is None) is not (step is None) or (file is not None) + match_again + (tasks is not None) != 1:
        raise Invalid("say what to add", hint="a FILE with more steps, or --match-again, or --step N --tasks N")
    with client() as api:
        if tasks is not None and step is not None:
            n = api.more_tasks(name, step, tasks, dry_run=dry_run)
            _say("tasks", n, f"jobs of step {step} in all", "", as_json)
        elif match_again:
            n = api.match_again(name, dry_run=dry_run)
            _say("files", n, "more files are taken", "no other file matches", as_json)
        elif file is not None:
            document, sandbox = read(file)
            with _told_of(file):
                added = api.extend(name, document, sandbox, open_=open_, match=match, dry_run=dry_run)
            rows = [{"step": s["number"], "name": s["name"], "type": s["job_type"], "takes": _takes(s)} for s in added]
            columns = ("step", "name", "type", "takes")
            show(added if as_json else rows, as_json=as_json, columns=columns, empty="there is no step to add")


@production.command("clone")
def clone(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new production.")],
    changes: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting in Common, or with 2.KEY in step 2."),
    ] = [],  # noqa: B006
    open_: Open = False,
    match: Matching = Match.LINEAGE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make production NAME once more as NEW, with its document and other settings."""
    with client() as api:
        made = api.clone_production(name, new, dict(map(_pair, changes)), open_=open_, match=match, dry_run=dry_run)
    if as_json:
        show(made, as_json=True)
    elif dry_run:
        sys.stdout.write(made["document"])
        _show_plans([made["plan"]], as_json=False)
    else:
        _show_one(made)


# --- showing ---------------------------------------------------------------------------------------------------
def _summary(one: dict[str, Any]) -> dict[str, Any]:
    return one | {
        "steps": f"{one['completed']} of {one['transformations']} done",
        "progress": _percent(one["share"], one["state"]),
    }


def _show_one(one: dict[str, Any]) -> None:
    warnings = f", {len(one['warnings'])} warnings" if one["warnings"] else ""
    title = (
        f"{one['name']} is {one['state']}: campaign {one['campaign']}, group {one['group']}, "
        f"{_percent(one['share'], one['state'])}{warnings}"
    )
    rows = [
        step
        | {
            "state": step["status"],
            "takes": _parents(step["parents"]),
            "progress": "-" if step["share"] is None else _percent(step["share"], step["status"]),
        }
        for step in one["steps"]
    ]
    show(rows, as_json=False, columns=STEPS, title=title)


def _percent(share: float | None, state: str) -> str:
    """Rounded down: 100 % is said of what is whole only."""
    return "100 %" if state == "Completed" else f"{int((share or 0) * 100)} %"


def _show_plans(plans: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show(plans, as_json=True)
        return
    for plan in plans:
        _warn(plan["warnings"])
        rows: list[dict[str, Any]] = []
        for step in plan["steps"]:
            estimate = step["estimate"]
            most = "" if estimate["known"] else "≤ "
            rows.append(
                {
                    "step": step["number"],
                    "name": step["name"],
                    "type": step["job_type"],
                    "takes": _takes(step),
                    "input": elided(estimate["sample"][0]) if estimate["sample"] else "-",
                    "files": f"{most}{estimate['files']}",
                    "bytes": "-" if estimate["bytes"] is None else readable_bytes(estimate["bytes"]),
                    "tasks": f"{most}{estimate['tasks']}",
                    "processor time": "not known"
                    if estimate["seconds"] is None
                    else readable_time(estimate["seconds"]),
                }
            )
        name = plan["name"].removeprefix("plan").lstrip("_")
        show(rows, as_json=False, columns=PLAN, title=f"{name} campaign {plan['campaign']}".strip())
        total = plan["total"]
        cpu = "not known" if total["cpu_seconds"] is None else f"about {readable_time(total['cpu_seconds'])}"
        known = f"{total['files']} files, {readable_bytes(total['bytes'])}, {total['tasks']} tasks"
        out.print(f"in all {known}; processor time: {cpu}")
        for sentence in plan["missing"]:
            out.print(f"[yellow]missing:[/] {_plain(sentence)}")


def _takes(step: dict[str, Any]) -> str:
    if step["without_input"]:
        return "nothing"
    parents = [step["parent"]] if step["parent"] is not None else step["feeders"]
    return f"dataset {step['dataset']}" if step["dataset"] else _parents(parents)


def _parents(parents: Sequence[int]) -> str:
    if not parents:
        return "files"
    return f"what {parents[0]} makes" if len(parents) == 1 else f"what {', '.join(map(str, parents))} make"


def _say(key: str, n: int, some: str, none: str, as_json: bool) -> None:
    if as_json:
        show({key: n}, as_json=True)
    else:
        out.print(f"{n} {some}" if n else none)


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        err.print(f"[yellow]warning:[/] {_plain(warning)}")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


# --- reading ---------------------------------------------------------------------------------------------------
class _told_of:  # noqa: N801  # used as a word
    """Name the file in what is told of it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, LightkeeperError) and error.message.startswith(("line ", "the document", "the template")):
            lines = error.message.splitlines()
            told = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} things to look at", *lines])
            raise type(error)(f"{self._file}: {told}", hint=error.hint) from None


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise Invalid(f"'{text}' is not KEY=VALUE")
    return key, value


def _values(given: Sequence[str]) -> dict[str, list[str]]:
    """`layout=Alpha,Beta`, once for each word."""
    values: dict[str, list[str]] = {}
    for word, choices in map(_pair, given):
        if word in values:
            raise Invalid(f"${word} is given twice", hint=f"--for {word}=A,B")
        values[word] = choices.split(",")
    return values


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(production, name="production")
