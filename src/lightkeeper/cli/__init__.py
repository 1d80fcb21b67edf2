"""The command line: `lightkeeper NOUN VERB`, or `lk`. Each command parses, makes one call, and shows what came back.

Exit status: 0 done; 1 something is wrong with what was looked at; 2 invalid input; 3 not found; 4 conflict; 5 refused;
6 not available now; 7 corrupt.
"""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import structlog
import typer

from lightkeeper import __version__
from lightkeeper.cli import (
    datasets,
    deletions,
    demo,
    files,
    ingest,
    instance,
    jobs,
    keeper,
    metadata,
    nights,
    operations,
    productions,
    quality,
    quarantine,
    rules,
    stage,
    topology,
    transfers,
    work,
)
from lightkeeper.cli.home import use_home
from lightkeeper.cli.output import fail
from lightkeeper.domain.errors import Invalid, LightkeeperError

app = typer.Typer(
    name="lightkeeper",
    help="Data processing and preservation for a telescope observatory.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lightkeeper {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    home: Annotated[
        Path | None,
        typer.Option(envvar="LIGHTKEEPER_HOME", help="Folder of the instance; ~/.lightkeeper when not given."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    use_home(home)


instance.add_to(app)
demo.add_to(app)
topology.add_to(app)
files.add_to(app)
nights.add_to(app)
quality.add_to(app)
ingest.add_to(app)
quarantine.add_to(app)
datasets.add_to(app)
metadata.add_to(app)
rules.add_to(app)
transfers.add_to(app)
stage.add_to(app)
deletions.add_to(app)
operations.add_to(app, datasets.dataset)
productions.add_to(app)
work.add_to(app)
jobs.add_to(app)
keeper.add_to(app)
for plug_in in entry_points(group="lightkeeper.commands"):
    plug_in.load()(app)  # what an observatory adds: a function like the add_to above


def main() -> None:
    """Entry point of `lightkeeper` and `lk`."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for answers
    try:
        app()
    except LightkeeperError as error:
        sys.exit(fail(error))
    except BrokenPipeError:
        sys.exit(1)
    except FileNotFoundError as error:
        sys.exit(fail(Invalid(f"there is no file {error.filename}")))
    except UnicodeEncodeError as error:
        sys.exit(fail(Invalid(f"a text on the command line is not UTF-8: {error.reason}")))
    except UnicodeDecodeError as error:
        sys.exit(fail(Invalid(f"this is not a text file: {error}")))
    except OSError as error:
        sys.exit(fail(Invalid(f"{error.filename}: {error.strerror}")))
