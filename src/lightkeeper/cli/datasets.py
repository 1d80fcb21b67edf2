"""lightkeeper dataset: named queries, dynamic or frozen."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, cell, out, show
from lightkeeper.domain.errors import Invalid, LightkeeperError, NotFound
from lightkeeper.domain.names import printable
from lightkeeper.domain.units import readable_bytes

dataset = typer.Typer(help="Datasets: named queries, dynamic or frozen.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name, or its last part if only one has it.")]
Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Names, with * and ? for several; @FILE for a list of names; all if not given."
    ),
]
Long = Annotated[bool, typer.Option("--long", "-l", help="Every detail.")]


@dataset.command("create")
def create(
    given: Annotated[
        list[str],
        typer.Argument(metavar="NAME QUERY | @FILE...", help="A name and a query; or files of descriptions."),
    ],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Create a dynamic dataset from a query, or one for each description in @FILEs as `dataset describe` writes them.

    A @FILE that holds only a query, as JSON or text, becomes a dataset of the file's name without its ending.
    """
    if given[0].startswith("@"):
        wanted = [one for name in given for one in _descriptions(name)]
    elif len(given) == 2:
        wanted = [{"name": given[0], "query": given[1], "description": description}]
    else:
        raise Invalid("a dataset needs a name and a query", hint="lightkeeper dataset create NAME 'data_level = 0'")
    made: list[dict[str, Any]] = []
    failed: list[LightkeeperError] = []
    with client() as api:
        for one in wanted:
            try:
                made.append(
                    api.create_dataset(one["name"], one["query"], description=one["description"], dry_run=dry_run)
                )
            except LightkeeperError as error:
                if len(wanted) == 1:
                    raise
                failed.append(error)
        if dry_run and not as_json and len(wanted) == 1:
            for found in api.find(wanted[0]["query"], names=True):
                sys.stdout.write(found["lfn"] + "\n")
    if as_json:
        show(made, as_json=True)
    else:
        for one in made:
            verb = "would hold" if dry_run else "holds"
            out.print(f"{one['name']} {verb} {_files(one['files'])}, {readable_bytes(one['bytes'])}")
    if failed:
        raise type(failed[0])(
            f"{len(failed)} of {len(wanted)} datasets were not created; the first: {failed[0].message}",
            hint=failed[0].hint,
        )


_DESCRIPTION = {"name", "query", "description"}


def _descriptions(name: str) -> Iterator[dict[str, Any]]:
    path = Path(name.removeprefix("@"))
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    text = path.read_text()
    if not text.strip():
        raise Invalid(f"{path} is empty", hint="a query, or a description on each line")
    lines: list[Any]
    try:
        lines = [json.loads(text)]
    except ValueError:
        try:
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            lines = [text.strip()]  # a query as text
    for one in (inner for line in lines for inner in (line if isinstance(line, list) else [line])):
        if isinstance(one, dict) and {"name", "query"} <= one.keys() <= _DESCRIPTION and isinstance(one["name"], str):
            yield {"description": ""} | one
        elif len(lines) == 1 and isinstance(one, dict | str):
            yield {"name": path.stem, "query": one, "description": ""}
        else:
            raise Invalid(
                f"{path} holds something that describes no dataset: {printable(json.dumps(one))[:80]}",
                hint='{"name": …, "query": …, "description": …} on each line, or a query alone',
            )


@dataset.command("list")
def list_(patterns: Patterns = None, long: Long = False, as_json: AsJson = False) -> None:
    """List datasets with their number of files and bytes."""
    with client() as api:
        found = _matching(api, patterns or ["*"], texts=long or as_json)
    columns = ("name", "status", "files", "bytes", *(("created", "text", "description") if long else ()))
    show(found, as_json=as_json, columns=columns, empty="no dataset: lightkeeper dataset create NAME QUERY")


@dataset.command("show")
def show_(patterns: Patterns = None, long: Long = False, as_json: AsJson = False) -> None:
    """Show datasets; one, or with --long, with all that is known of it."""
    with client() as api:
        found = _matching(api, patterns or ["*"])
        if not found:
            raise NotFound("no dataset matches", hint="lightkeeper dataset list")
    if as_json:
        show(found, as_json=True)
    elif len(found) == 1 or long:
        for one in found:
            told = {k: v for k, v in one.items() if v not in ("", None) and k != "query"}
            show({"query" if k == "text" else k: v for k, v in told.items()}, as_json=False)
    else:
        show(found, as_json=False, columns=("name", "status", "files", "bytes"))


def _matching(api: Any, patterns: Sequence[str], *, texts: bool = True) -> list[dict[str, Any]]:
    """Datasets that any pattern means, each once; a plain name that none has is an error."""
    found: dict[str, dict[str, Any]] = {}
    for pattern in _names(patterns):
        wild = "*" in pattern or "?" in pattern
        for one in api.datasets(pattern, texts=texts) if wild else [api.dataset(pattern)]:
            found[one["name"]] = one
    return [found[name] for name in sorted(found)]


def _names(given: Sequence[str]) -> Iterator[str]:
    for text in given:
        if text == "-" or text.startswith("@"):
            lines = sys.stdin.read() if text == "-" else Path(text[1:]).read_text()
            yield from (line.strip() for line in lines.splitlines() if line.strip() and not line.startswith("#"))
        else:
            yield text


@dataset.command("dump")
def dump(
    name: Name,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file, not to the terminal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the names of all files, sorted, one on each line: the same list as long as the files are the same."""
    with client() as api:
        names = api.dataset_names(name)
        if as_json and to is None:
            show(list(names), as_json=True)
            return
        if to is None:
            for lfn in names:
                sys.stdout.write(lfn + "\n")
            return
        beside = to.with_name(to.name + ".incomplete")
        n = 0
        try:
            with beside.open("w") as file:
                for lfn in names:
                    file.write(lfn + "\n")
                    n += 1
            beside.replace(to)
        finally:
            beside.unlink(missing_ok=True)
        out.print(f"{_files(n)} in {to}")


@dataset.command("update")
def update(
    name: Name,
    description: Annotated[str | None, typer.Option(help="Say anew what it is for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count the files of a dataset one by one and mend its counters; or describe it anew."""
    with client() as api:
        if description is not None:
            api.describe_dataset(name, description)
        told = api.update_dataset(name)
    if as_json:
        show(told, as_json=True)
        return
    size = told["counted"]
    right = "as its counters said" if told["said"] == size else f"[yellow]its counters said {told['said']['files']}[/]"
    out.print(f"{told['dataset']}: {_files(size['files'])}, {readable_bytes(size['bytes'])}, {right}")


@dataset.command("freeze")
def freeze(name: Name, as_json: AsJson = False) -> None:
    """Make a dataset the list of the files that it means now, for ever."""
    with client() as api:
        told = api.freeze_dataset(name)
    _tell(told, as_json)


@dataset.command("release")
def release(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Throw a frozen dataset's list away: it is its query again."""
    with client() as api:
        told = api.release_dataset(name, dry_run=dry_run)
    _tell(told, as_json, verb="would be" if dry_run else "is")


def _tell(told: dict[str, Any], as_json: bool, *, verb: str = "is") -> None:
    if as_json:
        show(told, as_json=True)
    else:
        out.print(f"{told['name']} {verb} {told['status']}: {_files(told['files'])}, {readable_bytes(told['bytes'])}")


@dataset.command("split")
def split(
    name: Name,
    fractions: Annotated[str, typer.Option(metavar="LIST", help="Parts of the whole, like 0.5,0.25,0.25.")],
    names: Annotated[
        str, typer.Option(metavar="LIST", help="Names of the parts; train_en,train_cl,test when not given.")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="Also files that are split otherwise already.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cut a dataset in parts by the order of names: sets the key `split` of its files, and makes a dataset of each."""
    labels = [label.strip() for label in names.split(",")] if names else []
    with client() as api:
        parts = api.split_dataset(name, fractions, labels, again=again, dry_run=dry_run)
    show(parts, as_json=as_json, columns=("dataset", "value", "files"))


@dataset.command("find")
def find(
    values: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="What its query must say.")] = None,
    file: Annotated[str | None, typer.Option(metavar="NAME", help="A file that it must hold.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find datasets by what their queries say, like particle=gamma zenith=20; or by a file that is in them."""
    wanted = dict(_pair(text) for text in values or [])
    if not wanted and file is None:
        raise Invalid("nothing to find datasets by", hint="KEY=VALUE, or --file NAME")
    with client() as api:
        found = api.datasets_fixing(wanted) if wanted else api.datasets_holding(file or "")
        if wanted and file is not None:
            holding = {one["name"] for one in api.datasets_holding(file)}
            found = [one for one in found if one["name"] in holding]
    columns = ("name", "status", "files", "bytes", "text")
    show(found, as_json=as_json, columns=columns, empty="no dataset is like that")


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise Invalid(f"'{printable(text)}' is not KEY=VALUE", hint="like particle=gamma")
    return key.strip(), value.strip()


@dataset.command("usage")
def usage(name: Name, as_json: AsJson = False) -> None:
    """Show what each storage holds of a dataset."""
    with client() as api:
        found = api.dataset_usage(name)
    show(found, as_json=as_json, columns=("storage", "site", "files", "bytes"), empty="no copy anywhere")


@dataset.command("remove")
def remove(name: Name, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Forget a dataset; its files stay. One that is not there is forgotten already."""
    with client() as api:
        try:
            removed: str | None = api.remove_dataset(name, dry_run=dry_run)
        except NotFound:
            removed = None
    if as_json:
        show({"removed": removed}, as_json=True)
    elif removed is None:
        out.print(f"there is no dataset {printable(name)}")
    else:
        out.print(f"{removed} {'would be' if dry_run else 'is'} forgotten; its files stay")


@dataset.command("describe")
def describe(
    given: Annotated[
        list[str],
        typer.Argument(metavar="NAME... | QUERY", help="Datasets to describe; with --vary the query that all share."),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="KEY=A,B,…", help="One description for each value; as often as needed."),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="Their names, like 'Prod6_{particle}_{thetaP}deg'.")
    ] = "",
) -> None:
    """Write descriptions, one JSON object on each line, for `dataset create @FILE`: of datasets that exist, or with
    --vary of a family of new ones."""
    if vary:
        if len(given) != 1 or not name:
            raise Invalid(
                "--vary needs one query and --name", hint="--name 'Prod6_{particle}' --vary particle=gamma,proton"
            )
        lines = list(_family(given[0], dict(_pair(text) for text in vary), name))
    else:
        with client() as api:
            lines = [
                {"name": one["name"], "query": one["text"], "description": one["description"]}
                for one in _matching(api, given)
            ]
    for line in lines:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


def _family(query: str, vary: dict[str, str], template: str) -> Iterator[dict[str, str]]:
    """One description for every combination of values."""
    names: set[str] = set()
    for chosen in product(*([value.strip() for value in values.split(",")] for values in vary.values())):
        values = dict(zip(vary, chosen, strict=True))
        try:
            name = template.format_map(values)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise Invalid(
                f"the template '{printable(template)}' cannot be filled: {error}", hint=f"keys are: {', '.join(vary)}"
            ) from None
        if name in names:
            raise Invalid(
                f"the template '{printable(template)}' gives the name {name} twice", hint="name every key in it"
            )
        names.add(name)
        conditions = [f'"{key}" = {_literal(value)}' for key, value in values.items()]
        yield {"name": name, "query": " and ".join([f"({query})"] * bool(query) + conditions), "description": ""}


def _literal(value: str) -> str:
    """Numbers as they are, everything else as a quoted text."""
    try:
        float(value)
    except ValueError:
        return json.dumps(value)
    return value


def _files(n: int) -> str:
    return f"{cell('files', n)} file{'' if n == 1 else 's'}"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(dataset, name="dataset")
