"""lightkeeper heal, decision, message: what the keeper does, what a person must decide, what people were told."""

import typer
from rich.markup import escape

from lightkeeper.cli.home import client
from lightkeeper.cli.output import AsJson, DryRun, out, show

decision = typer.Typer(help="What a person must decide.", no_args_is_help=True)
message = typer.Typer(help="Messages to people.", no_args_is_help=True)


def heal(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Look at all work now: complete, flush, repair contradictions, take back what was lost; say why.

    The keeper does this by itself. With --dry-run it says what it would do, and does nothing.
    """
    with client() as api:
        made = api.heal(dry_run=dry_run)
    if as_json:
        show(made, as_json=True)
        return
    for one in made["transformations"]:
        verb = {"decide": "a person must decide", "leave": "is left to people"}.get(one["what"], one["what"])
        tense = "" if one["done"] or one["what"] in ("decide", "leave") else ("would " if dry_run else "could not ")
        out.print(
            f"transformation {one['id']} {escape(one['name'])}: {tense}{verb}, because {escape(one['why'])}",
            soft_wrap=True,
        )
        for choice in one["choices"]:
            out.print(f"  {escape(choice)}", soft_wrap=True)
    for found in made["contradictions"]:
        out.print(f"{found['kind']} {found['id']}: {found['what']}, because {escape(found['why'])}", soft_wrap=True)
    n = made["waiting"]
    if n:
        goes = "1 transformation goes" if n == 1 else f"{n} transformations go"
        out.print(f"{goes} on by itself" if n == 1 else f"{goes} on by themselves")
    if not made["transformations"] and not made["contradictions"] and not n:
        out.print("nothing is to be done")


@decision.command("list")
def decisions(as_json: AsJson = False) -> None:
    """List what a person must decide now, and how; each was told once."""
    with client() as api:
        found = api.decisions()
    if as_json:
        show(found, as_json=True)
        return
    for one in found:
        out.print(f"since {one['since'][:19].replace('T', ' ')}  {escape(one['sentence'])}", soft_wrap=True)
        for choice in one["choices"]:
            out.print(f"  {escape(choice)}", soft_wrap=True)
    if not found:
        out.print("nobody is needed")


@message.command("list")
def messages(as_json: AsJson = False) -> None:
    """List messages, those that are still to be sent first, with what the server said last."""
    with client() as api:
        columns = ("message_id", "condition", "address", "created", "sent", "attempts", "items", "error")
        show(api.messages(), as_json=as_json, columns=columns, empty="nobody was told anything yet")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(heal)
    app.add_typer(decision, name="decision")
    app.add_typer(message, name="message")
