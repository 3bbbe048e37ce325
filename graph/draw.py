"""Graphs as pictures: Mermaid text, and SVG laid out in layers. Draws what there is and knows no node type."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from .dag import Graph, each_link
from .wording import shown

_WIDTH, _ROW, _HEAD = 210, 18, 26  # pixels: a node's width, one line of text, its title
_GAP_X, _GAP_Y, _MARGIN = 70, 24, 24
_MAX_TEXT = 30


def mermaid(graph: Graph) -> str:
    """Returns the graph as a Mermaid flowchart."""
    ids = {id: f"n{index}" for index, id in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for id, node in graph.nodes.items():
        lines.append(f'    {ids[id]}["{_mermaid_text(id)}<br/><small>{node.cls.__name__}</small>"]')
    for id, node in graph.nodes.items():
        for name, links in node.links.items():
            lines += [f'    {ids[link.node]} -- "{_mermaid_text(name)}" --> {ids[id]}' for link in each_link(links)]
    for index, (name, links) in enumerate(graph.outputs.items()):
        lines.append(f'    o{index}(["{_mermaid_text(name)}"])')
        lines += [f"    {ids[link.node]} --> o{index}" for link in each_link(links)]
    return "\n".join(lines) + "\n"


def svg(graph: Graph) -> str:
    """Returns the graph as an SVG picture: nodes in layers from left to right, with their literals and links."""
    import networkx

    layers = list(networkx.topological_generations(graph.as_networkx()))
    rows = {id: _rows(graph, id) for id in graph.nodes}
    heights = {id: _HEAD + _ROW * len(lines) + 8 for id, lines in rows.items()}
    places: dict[str, tuple[int, int]] = {}
    for column, layer in enumerate(layers):
        y = _MARGIN
        for id in sorted(layer, key=lambda id: _centre(graph, id, places)):
            places[id] = (_MARGIN + column * (_WIDTH + _GAP_X), y)
            y += heights[id] + _GAP_Y
    width = 2 * _MARGIN + len(layers) * (_WIDTH + _GAP_X) - _GAP_X
    height = max((y + heights[id] for id, (_, y) in places.items()), default=0) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(graph.name)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for id, node in graph.nodes.items():
        for name, links in node.links.items():
            parts += [_edge(places[link.node], places[id], _anchor(rows[id], name)) for link in each_link(links)]
    parts += [_box(graph, id, places[id], heights[id], rows[id]) for id in graph.nodes]
    return "\n".join([*parts, "</svg>\n"])


def _rows(graph: Graph, id: str) -> list[tuple[str, str]]:
    node = graph.nodes[id]
    links = [(name, ", ".join(map(str, each_link(links)))) for name, links in node.links.items()]
    files = [(name, path.name) for name, path in node.files.items()]
    defaults = node.cls.spec.inputs
    literals = [
        (name, shown(v, 40))
        for name, v in node.literals.items()
        if defaults[name].required or v != defaults[name].default
    ]
    return [*links, *files, *literals]


def _centre(graph: Graph, id: str, places: Mapping[str, tuple[int, int]]) -> float:
    above = [places[link.node][1] for link in graph.nodes[id].sources() if link.node in places]
    return sum(above) / len(above) if above else 0.0


def _anchor(rows: list[tuple[str, str]], name: str) -> int:
    return _HEAD + 13 + _ROW * next(index for index, row in enumerate(rows) if row[0] == name)


def _edge(start: tuple[int, int], end: tuple[int, int], anchor: int) -> str:
    x1, y1 = start[0] + _WIDTH, start[1] + _HEAD // 2
    x2, y2 = end[0], end[1] + anchor - 4
    bend = max(40, (x2 - x1) // 2)
    path = f"M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}"
    return f'<path d="{path}" fill="none" stroke="#7a869a" stroke-width="1.5"/>'


def _box(graph: Graph, id: str, place: tuple[int, int], height: int, rows: list[tuple[str, str]]) -> str:
    x, y = place
    fill = "#b3541e" if graph.nodes[id].cls.spec.effect else "#2f5d8a"
    lines = [
        f'<g><rect x="{x}" y="{y}" width="{_WIDTH}" height="{height}" rx="6" fill="#f4f6f9" stroke="#c3cad5"/>',
        f'<path d="M{x},{y + _HEAD} v-{_HEAD - 6} a6,6 0 0 1 6,-6 h{_WIDTH - 12} a6,6 0 0 1 6,6 v{_HEAD - 6} z" '
        f'fill="{fill}"/>',
        f'<text x="{x + 8}" y="{y + 17}" fill="#ffffff"><tspan font-weight="600">{_cut(id, 20)}</tspan> '
        f'<tspan opacity="0.8">{escape(graph.nodes[id].cls.__name__)}</tspan></text>',
    ]
    for index, (name, value) in enumerate(rows):
        text = f'<tspan fill="#5b6678">{escape(name)}</tspan> {_cut(value, _MAX_TEXT - len(name))}'
        lines.append(f'<text x="{x + 8}" y="{y + _HEAD + 13 + _ROW * index}" fill="#1c2430">{text}</text>')
    return "\n".join([*lines, "</g>"])


def _cut(text: str, limit: int) -> str:
    limit = max(limit, 6)
    return escape(text if len(text) <= limit else text[: limit - 1] + "…")


def _mermaid_text(text: str) -> str:
    return escape(text, quote=True).replace("#", "#35;")
