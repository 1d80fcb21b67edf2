"""lightkeeper night: what was expected, came, was refused, is preserved and freed; and the receipt at the end."""

import codecs
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lightkeeper import signing
from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, cell, out, show
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.units import readable_bytes

night = typer.Typer(help="Observing nights: what came in, and receipts.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NIGHT", help="Evening of the night, like 2026-03-14.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")]


@night.command("list")
def list_(limit: Limit = 100, as_json: AsJson = False) -> None:
    """List observing nights: what came in, and how far it is preserved."""
    with client() as api:
        found = api.nights(limit)
    columns = ("night", "state", "files", "bytes", "refused", "on_site", "preserved")
    show(found, as_json=as_json, columns=columns, empty="no night has come in yet")


@night.command("show")
def show_(name: Name, as_json: AsJson = False) -> None:
    """Show a night: expected, received, refused, preserved, freed; by array element and by division."""
    with client() as api:
        report = api.night(name)
        refused = [] if as_json else api.night_refused(name, 10)
    if as_json:
        show(report, as_json=True)
    else:
        tell(report, refused)


def tell(report: dict[str, Any], refused: list[dict[str, Any]]) -> None:
    """Print the report of a night for a person."""
    of = report["summary"]
    since = cell("at", of["since"])
    out.print(f"[bold]Night {cell('', of['night'])}[/]: {of['state']} since {since} UTC")
    how = "as listed" if report["by_list"] else "by the observation blocks"
    out.print(f"  expected   {_n(report['expected'])} {how}; {report['missing']} missing, {of['differing']} differing")
    out.print(f"  received   {_n(of['files'])}, {readable_bytes(of['bytes'])}; {report['open']} being verified")
    out.print(f"  refused    {of['refused']}")
    out.print(f"  preserved  {of['preserved']}")
    out.print(f"  on site    {of['on_site']}, of which {of['to_free']} are to be freed")
    out.print(f"  freed      {of['freed']}")
    for sentence in report["lacks"]:
        out.print(f"  [yellow]lacks:[/] {cell('', sentence)}")
    for sentence in report["alarms"]:
        out.print(f"  [yellow]quality:[/] {cell('', sentence)}", soft_wrap=True)
    for gap in report["gaps"][:10]:
        out.print(f"  [yellow]gap:[/] block {cell('', gap['block']) or '-'}: {cell('', gap['what'])}", soft_wrap=True)
    for one in refused:
        out.print(f"  [yellow]refused:[/] {cell('', one['path'])}: {cell('', one['reason'])}", soft_wrap=True)
    for what, parts in (("array element", report["elements"]), ("division", report["divisions"])):
        lines = [{what: part["name"] or "-", "share": _share(part, of)} | part for part in parts]
        columns = (what, "files", "bytes", "share", "on_site", "preserved", "freed")
        show(lines, as_json=False, columns=columns, empty=f"nothing by {what}")
    for made in report["products"]:
        size = readable_bytes(made["bytes"])
        out.print(
            f"  level {made['level']}: {_n(made['files'])}, {size}: {made['reduction']:.3g} times smaller than raw"
        )
    for one in report["receipts"]:
        by = f"by {cell('', one['closed_by'])}" + (f": {cell('', one['why'])}" if one["why"] else "")
        out.print(f"  receipt {one['revision']} of {cell('at', one['made'])} UTC, {_n(one['files'])}, {by}")


def _share(part: dict[str, Any], of: dict[str, Any]) -> str:
    return f"{100 * part['bytes'] / of['bytes']:.1f} %" if of["bytes"] else "-"


@night.command("missing")
def missing(name: Name, limit: Limit = 1000, as_json: AsJson = False) -> None:
    """List the files that a list said would come and that did not, one on each line."""
    with client() as api:
        found = api.night_missing(name, limit)
    if as_json:
        show(found, as_json=True)
    else:
        sys.stdout.writelines(f"{lfn}\n" for lfn in found)


@night.command("expect")
def expect(
    name: Name,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Names, one on each line; or lines of `sha256sum`; '-' for standard input.",
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget what was said before.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Say which files a night will have. Without a list its observation blocks say what to expect."""
    if file is None and not clear:
        raise Invalid("there is no list", hint="give a FILE, or --clear")
    files = list(_listed(file)) if file else []
    with client() as api:
        forgotten = api.expect_nothing(name) if clear and not dry_run else 0
        new = api.expect(name, files, dry_run=dry_run) if files else 0
    if as_json:
        show({"forgotten": forgotten, "new": new}, as_json=True)
    else:
        would = "would be" if dry_run else "are"
        out.print(
            f"{_n(new)} more {would} expected in night {cell('', name)}" + f"; {forgotten} forgotten" * bool(clear)
        )


def _listed(file: Path) -> Iterator[dict[str, Any]]:
    """Names with leading slash, or lines of `sha256sum`."""
    with sys.stdin if str(file) == "-" else file.open() as lines:
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            summed = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", text)
            lfn = summed[2] if summed else text
            yield {"lfn": lfn if lfn.startswith("/") else f"/{lfn.removeprefix('./')}"} | (
                {"sha256": summed[1]} if summed else {}
            )


@night.command("close")
def close(
    name: Name,
    as_it_is: Annotated[bool, typer.Option("--as-it-is", help="Although it is not complete; needs --why.")] = False,
    why: Annotated[str, typer.Option(help="Why; it stands in the receipt.")] = "",
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Your name; it stands in the receipt.")] = "operator",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Close a night with a signed receipt. Complete nights are closed by themselves when nothing comes for a while."""
    with client() as api:
        report = api.close_night(name, by=by, why=why, as_it_is=as_it_is, dry_run=dry_run)
    if as_json:
        show(report, as_json=True)
        return
    of = report["summary"]
    if dry_run:
        out.print(f"night {cell('', name)} would be closed with {_n(of['files'])}, {readable_bytes(of['bytes'])}")
    elif of["state"] == "Closed":
        revision = report["receipts"][0]["revision"]
        out.print(f"night {cell('', name)} is closed; receipt {revision} names {_n(report['receipts'][0]['files'])}")
    else:
        out.print(f"night {cell('', name)} was closed, and files came at once: it is open again")


@night.command("receipt")
def receipt(
    name: Annotated[str | None, typer.Argument(metavar="NIGHT", help="Evening of a night that was closed.")] = None,
    revision: Annotated[int | None, typer.Option(min=1, help="Not the last one, but this.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there, and FILE.sig beside it.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="FILE", help="Check FILE against FILE.sig; no NIGHT.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The public key; else this instance's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the receipt of a closed night, or write it with its signature, or check one."""
    if (name is None) == (verify is None):
        raise Invalid("name a NIGHT, or a FILE to --verify")
    if verify is not None:
        _verify(verify, key, as_json)
    elif name is not None and output is not None:
        _write(name, revision, output, as_json)
    elif name is not None:
        with client() as api, api.night_receipt(name, revision) as pieces:
            sys.stdout.writelines(codecs.iterdecode(pieces, "utf-8"))


def _write(name: str, revision: int | None, output: Path, as_json: bool) -> None:
    beside = output.with_name(output.name + ".sig")
    with client() as api:
        with api.night_receipt(name, revision) as pieces, output.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        beside.write_bytes(api.night_signature(name, revision))
    if as_json:
        show({"receipt": str(output), "signature": str(beside)}, as_json=True)
    else:
        out.print(f"the receipt is in {cell('', str(output))}, its signature in {cell('', str(beside))}")


def _verify(receipt: Path, key: Path | None, as_json: bool) -> None:
    """Raises Corrupt when it is not what was signed."""
    signature = receipt.with_name(receipt.name + ".sig").read_bytes()
    if key is not None:
        pem = key.read_text()
    else:
        with client() as api:
            pem = api.receipt_key()
    with receipt.open("rb") as file:
        digest = signing.digest_of(file)
    signing.verify(pem, digest, signature)
    with receipt.open("rb") as file:
        files = sum(not line.startswith(b"#") for line in file)
    told = {"sha256": digest.hex(), "files": files, "key": signing.fingerprint(pem)}
    if as_json:
        show(told, as_json=True)
    else:
        out.print(f"{cell('', str(receipt))} is as it was signed, with {_n(files)}, by the key {told['key'][:16]}…")


@night.command("key")
def key_(as_json: AsJson = False) -> None:
    """Print the public key that receipts are checked with; `openssl dgst -sha256 -verify` takes it too."""
    with client() as api:
        pem = api.receipt_key()
    if as_json:
        show({"key": pem}, as_json=True)
    else:
        sys.stdout.write(pem)


def _n(n: int) -> str:
    return f"{n} file{'' if n == 1 else 's'}"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(night, name="night")
