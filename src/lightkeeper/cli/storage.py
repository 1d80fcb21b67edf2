"""lightkeeper storage scrub, compare, dark …, mark, manifests, rebuild, and lightkeeper recovery: whether storages hold
what the catalogue says, and the other way round."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import typer

from lightkeeper.cli.home import client
from lightkeeper.cli.names import Meta, read_values
from lightkeeper.cli.output import AsJson, DryRun, err, out, show
from lightkeeper.client import Client
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import exact_rate, readable_bytes

Name = Annotated[str, typer.Argument(metavar="NAME", help="A storage.", show_default=False)]
Paths = Annotated[
    list[str] | None, typer.Argument(metavar="PATH", help="Paths as `dark list` shows them.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="Every dark file of the storage.")]
PART = 1000

recovery = typer.Typer(help="While the catalogue is behind its storages.", no_args_is_help=True)
dark = typer.Typer(help="Files on a storage that the catalogue does not know.", no_args_is_help=True)


# --- copies ----------------------------------------------------------------------------------------------------
def scrub(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A storage; all when not given.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Begin a pass over NAME, whenever the next one is due.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far the copies on storages were read again, and what was found."""
    if now and name is None:
        raise Invalid("a pass begins over one storage", hint="lightkeeper storage scrub NAME --now")
    with client() as api:
        if now and name is not None and not api.begin_scrub(name):
            err.print(f"a pass over {name} is under way already")
        found = api.scrubs(name)
    columns = ("storage", "state", "progress", "copies_read", "read", "faults", "complete", "next", "rate", "days")
    show(found if as_json else [_line(one) for one in found], as_json=as_json, columns=columns, empty="no storage yet")
    for one in found if not as_json else ():
        if one["trouble"]:
            err.print(f"{one['storage']}: {one['trouble']}")
        if one["every_days"] and one["days"] > one["every_days"]:
            err.print(
                f"{one['storage']}: a pass takes longer than its period of {one['every_days']:g} days: raise the rate"
            )


def _line(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "storage": one["storage"],
        "state": one["state"],
        "progress": None if one["progress"] is None else f"{one['progress']:.1%}",
        "copies_read": one["read"],
        "read": readable_bytes(one["bytes_read"]),
        "faults": one["faults"],
        "complete": one["complete"] and one["complete"][:10],
        "next": one["next"] and one["next"][:10],
        "rate": exact_rate(one["rate"]),
        "days": "<0.1" if 0 < one["days"] < 0.1 else f"{one['days']:.1f}",
    }


def suspicious(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A storage; all when not given.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many copies.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the copies that somebody failed to read and that were not read in order since."""
    with client() as api:
        found = api.suspicious(name, limit)
    columns = ("storage", "lfn", "state", "failures", "last", "readers", "why")
    lines = [one | {"last": one["last"][:19], "readers": ", ".join(one["readers"])} for one in found["copies"]]
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no copy is in doubt")
    for storage, n in found["storages"].items() if not as_json else ():
        err.print(f"{storage}: {n} files failed within ten minutes: look at the storage, not at the files")


def compare(
    name: Name,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Names that are shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a storage and compare it with the catalogue: dark files are noted, lost copies are read again. Exit status 1
    when there are any."""
    with client() as api:
        found = api.compare_storage(name, limit)
    counts = found["counts"]
    if as_json:
        show(found, as_json=True)
    else:
        for path in found["dark"]:
            out.print(f"dark  {path}", markup=False, soft_wrap=True)
        for copy in found["lost"]:
            out.print(f"lost  {copy['lfn']}: {copy['fault']}", markup=False, soft_wrap=True)
        if counts["dark"] + counts["lost"] > len(found["dark"]) + len(found["lost"]):
            out.print("…     and more: --limit")
        out.print(
            f"{counts['listed']} files, {readable_bytes(counts['bytes'])}: {counts['dark']} dark "
            f"({readable_bytes(counts['dark_bytes'])}), {counts['lost']} lost; {counts['young']} too young to say"
        )
        if counts["unnamed"]:
            err.print(f"{counts['unnamed']} files have names that are no text: look at them by hand")
    if counts["dark"] or counts["lost"]:
        raise typer.Exit(1)


def manifests(
    again: Annotated[
        str | None, typer.Option("--again", metavar="NAME", help="Tell of every copy on this storage anew.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the manifests beside the data, from which a storage's rows in the catalogue can be made again."""
    with client() as api:
        if again is not None:
            err.print(f"{api.tell_again(again)} copies on {again} are told of anew")
        found = api.manifests()
    columns = ("storage", "manifests", "copies", "gone", "size", "last", "due", "oldest")
    lines = [
        one | {"size": readable_bytes(one["bytes"])} | {key: (one[key] or "")[:19] for key in ("last", "oldest")}
        for one in found
    ]
    show(found if as_json else lines, as_json=as_json, columns=columns, empty="no storage yet")


def rebuild(
    name: Name,
    dry_run: DryRun = False,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Differences that are shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Make the catalogue's rows of a storage again from the manifests there, into an empty or an old catalogue.

    What the catalogue knows is never overwritten: where it differs it is shown, and the exit status is 1. Nothing is
    deleted from now on, until `lightkeeper recovery end`."""
    with client() as api:
        found = api.rebuild_storage(name, dry_run=dry_run, limit=limit)
    if as_json:
        show(found, as_json=True)
    else:
        _tell_rebuilt(found, dry_run)
    if found["differences"] or found["faults"]:
        raise typer.Exit(1)


DIFFERS = {
    "content": "the catalogue has another content under this name",
    "metadata": "the catalogue has other metadata",
    "state": "the catalogue has another state",
    "provenance": "the catalogue says that another activity made it",
    "gone": "the copy is gone, and the catalogue believes in it: it is read now",
}


def _tell_rebuilt(found: dict[str, Any], dry_run: bool) -> None:
    for one in found["first"]:
        what = one["why"] or DIFFERS.get(one["what"], one["what"])
        out.print(f"{one['what']:<10}  {one['lfn']}: {what}", markup=False, soft_wrap=True)
    if sum(found["differences"].values()) > len(found["first"]):
        out.print("…           and more: --limit")
    for fault in found["faults"]:
        err.print(fault, markup=False)
    would = "would be made again" if dry_run else "made again"
    out.print(
        f"{found['manifests']} manifests tell of {found['told']} copies: {found['agree']} agree; "
        f"{found['files']} files and {found['copies']} copies of known files {would}; "
        f"{sum(found['differences'].values())} differences"
    )
    if not dry_run:
        out.print("a recovery is under way: nothing is deleted until lightkeeper recovery end", soft_wrap=True)


def mark(name: Name) -> None:
    """Say that the disk below a storage's root is the storage's, though it has no marker: after a disk was replaced.

    Copies that are not on it are then found lost, and made again from others."""
    with client() as api:
        api.mark_storage(name)
    out.print(f"{name} is marked")


# --- dark files ------------------------------------------------------------------------------------------------
@dark.command("list")
def dark_list(name: Name, as_json: AsJson = False) -> None:
    """List dark files as the last comparison found them."""
    with client() as api:
        columns = ("path", "size", "modified", "first_seen", "last_seen")
        found = list(api.dark(name))
    for one in found if not as_json else ():
        for key in ("modified", "first_seen", "last_seen"):
            one[key] = one[key][:19].replace("T", " ")
    show(found, as_json=as_json, columns=columns, empty=f"no dark file is known: lightkeeper storage compare {name}")


@dark.command("adopt")
def dark_adopt(
    name: Name,
    paths: Paths = None,
    every: All = False,
    meta: Meta = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Read dark files and register each under its path."""
    with client() as api:
        values = read_values(meta or [], api.metadata_keys()) if meta else {}
        parts = _parts(_meant(api, name, paths or [], every))
        dealt = [api.adopt_dark(name, part, values, dry_run=dry_run) for part in parts]
    _tell(dealt, "would be adopted" if dry_run else "adopted", as_json)


@dark.command("delete")
def dark_delete(
    name: Name,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; it is kept.")],
    paths: Paths = None,
    every: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete dark files that are dark still, unchanged, and older than the time of grace."""
    with client() as api:
        parts = _parts(_meant(api, name, paths or [], every))
        dealt = [api.delete_dark(name, part, why, dry_run=dry_run) for part in parts]
    _tell(dealt, "would be deleted" if dry_run else "deleted", as_json)


def _meant(api: Client, name: str, paths: Sequence[str], every: bool) -> Iterable[str]:
    if bool(paths) is every:
        raise Invalid("no dark file is named", hint=f"give paths or --all: lightkeeper storage dark list {name}")
    return (one["path"] for one in api.dark(name)) if every else paths


def _parts(paths: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(paths)
    while part := list(islice(rest, PART)):
        yield part


def _tell(dealt: Sequence[dict[str, list[Any]]], what: str, as_json: bool) -> None:
    done = [path for part in dealt for path in part["done"]]
    failed = [failure for part in dealt for failure in part["failed"]]
    if as_json:
        show({"done": done, "failed": failed}, as_json=True)
    else:
        for path in done:
            out.print(path, markup=False, soft_wrap=True)
        for failure in failed:
            err.print(f"{failure['path']}: {failure['error']}", markup=False)
            if failure["hint"]:
                err.print(f"→ {failure['hint']}", markup=False)
        out.print(f"{len(done)} {what}, {len(failed)} left")
    if failed:
        raise typer.Exit(1)


# --- recovery --------------------------------------------------------------------------------------------------
@recovery.command("begin")
def recovery_begin(
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; it is kept.")],
) -> None:
    """Have nothing deleted from now on: before or after a backup of the catalogue is restored."""
    with client() as api:
        begun = api.begin_recovery(why)
    out.print("nothing is deleted until: lightkeeper recovery end" if begun else "a recovery is under way already")


@recovery.command("status")
def recovery_status(as_json: AsJson = False) -> None:
    """Show whether a recovery is under way, and how far each storage is known again."""
    with client() as api:
        found = api.recovery()
    if as_json:
        show(found, as_json=True)
        return
    if not found["under_way"]:
        out.print("no recovery is under way" + (f"; the last ended {found['ended'][:19]}" if found["ended"] else ""))
        return
    out.print(
        f"under way since {found['began'][:19]}, nothing is deleted: {found['why']}", markup=False, soft_wrap=True
    )
    lines = [one | {"compared": (one["compared"] or "not yet")[:19]} for one in found["storages"]]
    show(lines, as_json=False, columns=("storage", "compared", "dark", "lost", "unread"), empty="no storage yet")


@recovery.command("end")
def recovery_end(
    why: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="Needed when a storage was not compared; it is kept.")
    ] = "",
) -> None:
    """Allow deletions again. Refused while a storage was not compared since the recovery began."""
    with client() as api:
        ended = api.end_recovery(why)
    out.print("the recovery has ended: what is due is deleted" if ended else "no recovery is under way")


def add_to(app: typer.Typer, storage: typer.Typer) -> None:
    """Add these commands to `lightkeeper storage`, and `lightkeeper recovery`."""
    for command in (scrub, suspicious, compare, mark, manifests, rebuild):
        storage.command()(command)
    storage.add_typer(dark, name="dark")
    app.add_typer(recovery, name="recovery")
