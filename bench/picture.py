"""The picture of `bench.spot_chaos`: every flow run of both sides over time, and where the time goes after a fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

WIDTH, MARGIN, LABELS, GAP, ROW = 1120, 24, 150, 28, 15
PANEL = (WIDTH - 2 * MARGIN - LABELS - GAP) / 2
TOP = 104
WORDS = {
    "stop": "the task stops",
    "reschedule": "rescheduling",
    "poll": "the worker polls",
    "start": "task and flow start",
}
INK, FAINT, SPOT, ON_DEMAND, RED, GREEN = "#1f2933", "#8a949e", "#e8a33d", "#3d7de8", "#d64545", "#2f9e5b"
COLOURS = {"stop": "#b0b8c1", "reschedule": RED, "poll": "#7ba7e8", "start": "#3d7de8"}


class Drawing:
    """An SVG under way."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, *, size: float = 11, colour: str = INK, more: str = "") -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" {more}>{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, colour: str, opacity: float = 1) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.8):.1f}" height="{height:.1f}" rx="1.5" '
            f'fill="{colour}" fill-opacity="{opacity}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>')

    def shape(self, path: str, colour: str) -> None:
        self._parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')

    def filled(self, path: str, colour: str) -> None:
        self._parts.append(f'<path d="{path}" fill="{colour}"/>')

    def svg(self, height: float) -> str:
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            'font-family="system-ui, sans-serif">\n'
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


def draw(report: Mapping[str, Any]) -> str:
    """The picture of a report, as SVG."""
    drawing = Drawing()
    sides: Mapping[str, Any] = report["sides"]
    runs = {name: sorted(report["flow_runs"][name], key=lambda run: run["name"]) for name in sides}
    count = int(report["flow_runs_per_side"])
    last = max(run["attempts"][-1]["stopped"] or 0 for side in runs.values() for run in side if run["attempts"])
    scale = (PANEL - 16) / max(last, 1)
    drawing.text(MARGIN, 34, "Flow runs on Fargate Spot, with the same faults on both sides", size=19)
    _legend(drawing, 58)
    rows = next(iter(runs.values()))
    for row, run in enumerate(rows):
        if row == 0 or rows[row - 1]["fault"] != run["fault"]:
            drawing.text(MARGIN, TOP + row * ROW + 10, run["fault"], colour=INK)
    for column, (name, side) in enumerate(sides.items()):
        left = MARGIN + LABELS + column * (PANEL + GAP)
        drawing.text(left, TOP - 12, name, size=13, more='font-weight="600"')
        drawing.text(
            left + PANEL, TOP - 12, f"{side['completed']} of {count} completed", size=13, more='text-anchor="end"'
        )
        for row, run in enumerate(runs[name]):
            _row(drawing, run, left, TOP + row * ROW, scale)
        bottom = TOP + count * ROW + 4
        for seconds in range(0, int(last) + 1, 30):
            x = left + seconds * scale
            drawing.line(x, TOP - 4, x, bottom, FAINT, 'stroke-opacity="0.25"')
            drawing.text(x, bottom + 12, f"{seconds} s", size=9, colour=FAINT, more='text-anchor="middle"')
    y = TOP + count * ROW + 52
    drawing.text(MARGIN, y, "From an interruption to user code running again, medians", size=13)
    for name, side in sides.items():
        y += 30
        _split(drawing, name, side, y)
    return drawing.svg(y + 36)


def _legend(drawing: Drawing, y: float) -> None:
    x = float(MARGIN)
    for colour, words in ((SPOT, "on Spot"), (ON_DEMAND, "on demand")):
        drawing.box(x, y, 22, 9, colour, 0.3)
        drawing.box(x + 22, y, 22, 9, colour)
        drawing.text(x + 50, y + 9, f"{words}: ECS task, user code in it")
        x += 268
    _fault(drawing, x + 4, y)
    drawing.text(x + 14, y + 9, "interrupted")
    for offset, outcome in ((92, "completed"), (178, "crashed"), (254, "stuck")):
        _end(drawing, x + offset, y + 4.5, outcome)
        drawing.text(x + offset + 10, y + 9, outcome)


def _row(drawing: Drawing, run: Mapping[str, Any], left: float, y: float, scale: float) -> None:
    end = 0.0
    for attempt in run["attempts"]:
        colour = ON_DEMAND if attempt["provider"] == "FARGATE" else SPOT
        start, stop = attempt["created"], attempt["stopped"] or attempt["created"]
        drawing.box(left + start * scale, y + 1, (stop - start) * scale, 10, colour, 0.3)
        end = max(end, stop)
        for first, last in run["code"]:
            if start <= first <= stop:
                drawing.box(left + first * scale, y + 1, (last - first) * scale, 10, colour)
    for interruption in run["interruptions"]:
        _fault(drawing, left + interruption["at"] * scale, y)
    end = max(end, run["states"][-1]["at"])
    if run["outcome"] == "stuck":
        drawing.line(left + end * scale, y + 6, left + PANEL, y + 6, FAINT, 'stroke-dasharray="2 4"')
        _end(drawing, left + PANEL, y + 6, "stuck")
    else:
        _end(drawing, left + end * scale + 7, y + 6, run["outcome"])


def _fault(drawing: Drawing, x: float, y: float) -> None:
    drawing.filled(f"M{x - 4:.1f} {y - 2:.1f}h8l-4 8z", RED)


def _end(drawing: Drawing, x: float, y: float, outcome: str) -> None:
    if outcome == "completed":
        drawing.shape(f"M{x - 3.5:.1f} {y:.1f}l2.5 3l5 -6.5", GREEN)
    elif outcome == "stuck":
        drawing.text(x, y + 4, "?", size=12, colour=FAINT, more='font-weight="700" text-anchor="middle"')
    else:
        drawing.shape(f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6", RED)


def _split(drawing: Drawing, name: str, side: Mapping[str, Any], y: float) -> None:
    drawing.text(MARGIN, y + 11, name)
    x = float(MARGIN + LABELS)
    if side["median_seconds"] is None:
        drawing.text(x, y + 11, f"never: none of {side['interruptions']} interrupted attempts was followed by another")
        return
    scale = (WIDTH - MARGIN - x - 90) / sum(side["median_parts"].values())
    for part, seconds in side["median_parts"].items():
        drawing.box(x, y, seconds * scale, 14, COLOURS[part])
        if seconds * scale > 130:
            drawing.text(x + 4, y + 11, f"{WORDS[part]} {seconds:.1f} s", size=10, colour="#ffffff")
        else:
            drawing.text(x, y + 26, f"{WORDS[part]} {seconds:.1f} s", size=10)
        x += seconds * scale
    drawing.text(x + 8, y + 11, f"{side['median_seconds']:.1f} s", more='font-weight="600"')
