"""What the pages of productions show: all of them with their progress; one of them with its graph and its steps."""

from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from lightkeeper.context import Context
from lightkeeper.domain.graph import Node, as_svg
from lightkeeper.steps import productions
from lightkeeper.steps.productions import Shown
from lightkeeper.store import db
from lightkeeper.store import productions as store
from lightkeeper.store.productions import ProductionSummary
from lightkeeper.store.reports import TransformationSummary

SHOWN = 100
"""How many productions are listed; the page says where the others are."""


@dataclass(frozen=True, slots=True)
class ProductionsPage:
    """The latest productions."""

    at: datetime
    productions: list[ProductionSummary]
    n_productions: int


def look(ctx: Context) -> ProductionsPage:
    """The facts of now."""
    with ctx.db.transaction() as conn:
        return ProductionsPage(db.now(conn), store.summaries(conn, limit=SHOWN), store.number(conn))


@dataclass(frozen=True, slots=True)
class ProductionPage:
    """One production; `drawing` is its graph, made by us, every name in it escaped."""

    at: datetime
    shown: Shown
    drawing: Markup

    @property
    def steps(self) -> list[tuple[TransformationSummary, Node]]:
        """Its steps, each with its place in the graph."""
        return list(zip(self.shown.steps, self.shown.nodes, strict=True))


def look_at(ctx: Context, name: str) -> ProductionPage:
    """How far a production is; raises NotFound."""
    with ctx.db.transaction() as conn:
        at = db.now(conn)
    shown = productions.show(ctx, name)
    return ProductionPage(at, shown, Markup(as_svg(name, shown.nodes)))  # noqa: S704  # escaped where it is drawn
