"""The graph of a production, drawn: as text, for Graphviz, and as a picture that needs no program."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import shorten


@dataclass(frozen=True, slots=True)
class Node:
    """A step. `share` of its work that is done, from 0 to 1, None when nothing is known of it; `told`: how far it is,
    in words. `parents`: the steps whose products it takes, the first of them the one it hangs from."""

    number: int
    name: str
    state: str
    parents: tuple[int, ...] = ()
    share: float | None = None
    told: str = ""
    failed: int = 0


# --- text ------------------------------------------------------------------------------------------------------
BAR = 10


def as_text(nodes: Sequence[Node]) -> str:
    """A tree, children below their parents."""
    width = max((len(line) for line, _ in _lines(nodes)), default=0)
    return "\n".join(f"{line.ljust(width)}  {_progress(node)}".rstrip() for line, node in _lines(nodes))


def _lines(nodes: Sequence[Node]) -> Iterator[tuple[str, Node]]:
    children: dict[int | None, list[Node]] = {}
    known = {node.number for node in nodes}
    for node in nodes:
        above = node.parents[0] if node.parents and node.parents[0] in known else None
        children.setdefault(above, []).append(node)

    def below(number: int | None, indent: str) -> Iterator[tuple[str, Node]]:
        mine = children.get(number, [])
        for node in mine:
            last = node is mine[-1]
            branch, deeper = ("", "") if number is None else ("└─ " if last else "├─ ", "   " if last else "│  ")
            also = f" (and step {', '.join(map(str, node.parents[1:]))})" if len(node.parents) > 1 else ""
            yield f"{indent}{branch}{node.number} {node.name}{also}", node
            yield from below(node.number, indent + deeper)

    yield from below(None, "")


def _progress(node: Node) -> str:
    if node.share is None:
        return f"{node.state}  {node.told}".rstrip()
    full = int(node.share * BAR)
    failed = f", {node.failed} failed" if node.failed else ""
    return f"{'█' * full}{'░' * (BAR - full)} {_percent(node.share)}  {node.state}  {node.told}{failed}"


def _percent(share: float) -> str:
    """Rounded down: 100 % is said of what is whole only."""
    return f"{int(share * 100):3d} %"


# --- Graphviz --------------------------------------------------------------------------------------------------
COLOURS: Mapping[str, str] = {
    "Active": "#dbe9ff",
    "Flush": "#dbe9ff",
    "Completed": "#d9f2dd",
    "Archived": "#d9f2dd",
    "Stopped": "#f3e6cf",
}
OTHER = "#eeeeee"
FAILED = "#f6d5d5"


def _colour(node: Node) -> str:
    return FAILED if node.failed else COLOURS.get(node.state, OTHER)


def as_dot(name: str, nodes: Sequence[Node]) -> str:
    """A document for Graphviz."""
    lines = [
        f"digraph {_quoted(name)} {{",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    for node in nodes:
        share = "" if node.share is None else f"{_percent(node.share).strip()}, "
        label = _quoted(f"{node.number} {node.name}\n{share}{node.state}\n{node.told}".rstrip())
        lines.append(f"  s{node.number} [label={label}, fillcolor={_quoted(_colour(node))}];")
    lines += [f"  s{parent} -> s{node.number};" for node in nodes for parent in node.parents]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    inside = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{inside}"'


# --- picture ---------------------------------------------------------------------------------------------------
WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 230, 62, 60, 18, 10
LETTERS = 30
"""Of a name that are shown in a box."""


def as_svg(name: str, nodes: Sequence[Node]) -> str:
    """A picture: steps from left to right, each behind those whose products it takes. It has no style sheet and no
    script, so that it can be shown anywhere."""
    places = _places(nodes)
    columns = max((column for column, _ in places.values()), default=0) + 1
    rows = max((row for _, row in places.values()), default=0) + 1
    width = 2 * EDGE + columns * WIDTH + (columns - 1) * ACROSS
    height = 2 * EDGE + rows * HEIGHT + (rows - 1) * DOWN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(name)}</title>",
    ]
    for node in nodes:
        parts += [_arrow(places[parent], places[node.number]) for parent in node.parents if parent in places]
    parts += [_box(node, places[node.number]) for node in nodes]
    return "\n".join([*parts, "</svg>", ""])


def _places(nodes: Sequence[Node]) -> dict[int, tuple[int, int]]:
    """Column and row of each step: behind its parents, and beside the first of them where there is room."""
    places: dict[int, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    lowest = -1
    for _, node in _lines(nodes):
        before = [places[parent] for parent in node.parents if parent in places]
        column = max((place[0] for place in before), default=-1) + 1
        row = before[0][1] if before else lowest + 1
        if (column, row) in taken:
            row = lowest + 1
        places[node.number] = column, row
        taken.add((column, row))
        lowest = max(lowest, row)
    return places


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return EDGE + place[0] * (WIDTH + ACROSS), EDGE + place[1] * (HEIGHT + DOWN)


def _arrow(source: tuple[int, int], target: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = _corner(source), _corner(target)
    x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT // 2, y2 + HEIGHT // 2
    middle = (x1 + x2) // 2
    head = f"M{x2 - 7},{y2 - 4} L{x2},{y2} L{x2 - 7},{y2 + 4}"
    return (
        f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2} {head}" fill="none" stroke="#7a8699" '
        'stroke-width="1.5"/>'
    )


def _box(node: Node, place: tuple[int, int]) -> str:
    x, y = _corner(place)
    name = shorten(f"{node.number} {node.name}", LETTERS, placeholder="…")
    share = "" if node.share is None else f"{_percent(node.share).strip()} · "
    failed = f", {node.failed} failed" if node.failed else ""
    parts = [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{_colour(node)}" stroke="#7a8699"/>',
        f'<text x="{x + 10}" y="{y + 20}" font-weight="bold" fill="#1c2430">{escape(name)}</text>',
        f'<text x="{x + 10}" y="{y + 38}" fill="#1c2430">{escape(share + node.state)}</text>',
        f'<text x="{x + 10}" y="{y + 53}" font-size="11" fill="#46536a">{escape(node.told + failed)}</text>',
    ]
    if node.share is not None:
        done = round(node.share * (WIDTH - 20))
        parts.append(f'<rect x="{x + 10}" y="{y + HEIGHT - 5}" width="{done}" height="3" fill="#3a6fd8"/>')
    return "\n".join(parts)
