"""A figure of matplotlib as SVG: in a page its colors are CSS variables, in a file of its own they are fixed.

matplotlib writes colors into every element. Each color here is a placeholder that nothing else uses, and is replaced in
the text of the SVG. So one drawing serves light and dark, the screen and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

from exporter.dependencies import require
from exporter.errors import printable

WIDTH, HEIGHT = 380, 240  # little, so that the labels are still readable on a phone
FONT = 12
_LINE, _SPACING = 72, 14  # of a note: characters of a line, and pixels from line to line
FIXED = {
    "ink": "#16191d",
    "muted": "#59626d",
    "line": "#d5dae0",
    "series": "#2457c5",
    "second": "#a8500a",
    "bad": "#b3261e",
}
"""The colors of a plot, as in a page with a light background."""
PLACEHOLDER = {name: f"#0000{number:02x}" for number, name in enumerate(FIXED, start=1)}


@dataclass(frozen=True)
class Plot:
    """A plot, and what it shows as a table.

    Attributes:
        name: A word that no other plot of the page has.
        title: What it shows.
        description: What can be seen in it, for those who cannot see it.
        svg: The drawing, an element of HTML.
        legend: (mark, meaning) of each kind of mark; ``page.css`` has the marks.
        note: How to read it.
        header: Titles of the table.
        rows: Its rows.
    """

    name: str
    title: str
    description: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Canvas:
    """One empty figure with quiet axes.

    Args:
        name: Of the plot; two plots of a page must differ in it.
        height: In pixels; the width is ``WIDTH``.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """

    def __init__(self, name: str, height: int = HEIGHT) -> None:
        require("matplotlib", "report")
        from matplotlib.figure import Figure  # noqa: PLC0415 - only where a plot is drawn

        self._name, self._height = name, height
        with self._style():
            self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
            self.axes: Any = self.figure.add_subplot()
        for side in ("top", "right", "left"):
            self.axes.spines[side].set_visible(False)
        self.axes.spines["bottom"].set_color(PLACEHOLDER["line"])
        self.axes.grid(axis="y", color=PLACEHOLDER["line"], linewidth=0.8)
        self.axes.set_axisbelow(True)
        for axis in (self.axes.xaxis, self.axes.yaxis):
            axis.set_ticks_position("none")
        self.axes.tick_params(colors=PLACEHOLDER["muted"])

    def label(self, x: str, y: str) -> None:
        """Write what the axes are."""
        self.axes.set_xlabel(x, color=PLACEHOLDER["muted"])
        self.axes.set_title(y, loc="left", color=PLACEHOLDER["muted"], fontsize=FONT, pad=10, x=-0.02)

    def dots(self, x: Sequence[float], y: Sequence[float], color: str, *, size: float, square: bool = False) -> None:
        """Draw points as lines without length, whose round or square ends are the points: one element for all."""
        from matplotlib.patches import PathPatch  # noqa: PLC0415
        from matplotlib.path import Path  # noqa: PLC0415

        if not x:
            return
        places = [place for point in zip(x, y, strict=True) for place in (point, point)]
        path = Path(places, [Path.MOVETO, Path.LINETO] * len(x))
        path.should_simplify = False  # it would leave out lines without length
        self.axes.add_patch(
            PathPatch(
                path,
                edgecolor=PLACEHOLDER[color],
                facecolor="none",
                linewidth=size,
                capstyle="projecting" if square else "round",
                clip_on=False,
            )
        )

    def bound(self, x: float | None = None, y: float | None = None) -> None:
        """Draw a bound across the plot."""
        style = {"color": PLACEHOLDER["bad"], "linestyle": (0, (4, 3)), "linewidth": 1.4}
        if x is not None:
            self.axes.axvline(x, **style)
        if y is not None:
            self.axes.axhline(y, **style)

    def inline(self, title: str, description: str) -> str:
        """Return an ``svg`` element for a page, whose colors are the variables of ``page.css``."""
        text = self._svg()
        for name, color in PLACEHOLDER.items():
            text = text.replace(color, f"var(--{name})")
        inner = text[text.index(">", text.index("<svg")) + 1 :]
        head = (
            f'<svg viewBox="0 0 {WIDTH} {self._height}" role="img" aria-labelledby="{self._name}-t {self._name}-d">'
            f'<title id="{self._name}-t">{escape(title)}</title><desc id="{self._name}-d">{escape(description)}</desc>'
        )
        return head + inner

    def file(self, title: str, description: str, note: str) -> bytes:
        """Return a file, on white, with a note below the plot; equal figures give equal bytes."""
        text = self._svg()
        for name, color in PLACEHOLDER.items():
            text = text.replace(color, FIXED[name])
        inner = text[text.index(">", text.index("<svg")) + 1 :]
        lines = wrap(printable(note), _LINE)  # XML has no control characters, and the name of a file may have them
        height = self._height + (_SPACING * len(lines) + _SPACING if lines else 0)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" role="img" '
            f'font-family="system-ui, sans-serif"><title>{escape(title)}</title><desc>{escape(description)}</desc>'
            '<rect width="100%" height="100%" fill="#ffffff"/>'
        )
        below = "".join(
            f'<text x="8" y="{self._height + _SPACING * number}" font-size="10" fill="{FIXED["muted"]}">'
            f"{escape(line)}</text>"
            for number, line in enumerate(lines, start=1)
        )
        return f"{head}{inner.removesuffix('</svg>')}{below}</svg>\n".encode()

    def _svg(self) -> str:
        buffer = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        with self._style():
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        return _compact(buffer.getvalue().decode())

    def _style(self) -> Any:
        import matplotlib as mpl  # noqa: PLC0415

        return mpl.rc_context(
            {
                "svg.hashsalt": self._name,
                "svg.fonttype": "none",
                "font.family": "DejaVu Sans",  # matplotlib's own: what is laid out depends on no font of the system
                "font.size": FONT,
                "axes.labelsize": FONT,
                "xtick.labelsize": FONT,
                "ytick.labelsize": FONT,
            }
        )


_REWRITES = (
    (r"<!--.*?-->", ""),
    (r"<style.*?</style>", ""),
    (r' id="(?![mp][0-9a-f]{10}")[^"]*"', ""),  # figure_1, axes_1: the same in every figure; what is referred to stays
    (r"xlink:href", "href"),
    (r"font-family: [^;\"]*;?", ""),
    (r"(?<![>\d.])-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.1f}".removesuffix(".0")),
    (r"\s+", " "),
    (r"> <", "><"),
    (r'(style="[^"]*?);? ?"', r'\1"'),
    (r'd=" ?([^"]*?) ?"', r'd="\1"'),
    (r"M ([\d. -]+?) L \1(?= |\")", r"M \1h0"),
    (r" transform=\"rotate\(-?0 [^\"]*\)\"", ""),
    (r"<g></g>|<g/>", ""),
    (r"</svg>\s+", "</svg>"),
)


def _compact(text: str) -> str:
    """Return an SVG without what a page has already, and with one digit behind the point."""
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text
