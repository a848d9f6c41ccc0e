"""What all figures share: colors, fonts, saving."""

from __future__ import annotations

import contextlib
import os
import pathlib
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with every common color blindness (https://jfly.uni-koeln.de/color/).
BLUE, VERMILION, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"

# Of a legend, at its font size; and what a handle and the gap to the next column take.
_CHARACTERS_AN_INCH, _HANDLE_CHARACTERS = 11.5, 8

_SETTINGS: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


@contextlib.contextmanager
def new_figure(
    path: str | os.PathLike[str],
    size_inches: tuple[float, float],
    layout: Literal["constrained", "compressed"] = "constrained",
) -> Iterator[Figure]:
    """A figure in the style of this package, written to path as PNG when the block ends without an error.

    Args:
      path: where the PNG goes; its directory must exist.
      size_inches: width and height.
      layout: matplotlib's layout engine.

    Yields:
      An empty figure, laid out so that labels neither overlap nor are cut.

    Raises:
      ValueError: if path does not end in .png.
    """
    if pathlib.Path(path).suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {os.fspath(path)!r}.")
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size_inches, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=150, format="png")


def plot_series(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str, style: str = "-") -> bool:
    """Draw one curve, leaving out what is not finite; a point alone gets a marker.

    Returns:
      Whether there was anything to draw.
    """
    is_finite = np.isfinite(values)
    if not np.any(is_finite):
        return False
    # NaN leaves a gap in the line, and markers keep a point visible whose neighbors are both missing.
    shown = np.where(is_finite, values, np.nan)
    neighbors = np.concatenate([[False], is_finite[:-1]]) | np.concatenate([is_finite[1:], [False]])
    axes.plot(steps, shown, style, color=color, label=label)
    is_alone = is_finite & ~neighbors
    axes.plot(steps[is_alone], values[is_alone], "o", markersize=4, color=color)
    return True


def legend_below(figure: Figure, handles: Mapping[str, Any], max_columns: int) -> None:
    """One legend for all panels, in as many columns as its longest label allows; what is longer is wrapped."""
    width = int(_CHARACTERS_AN_INCH * figure.get_figwidth()) - _HANDLE_CHARACTERS
    labels = [textwrap.fill(label, width, break_on_hyphens=False) for label in handles]
    longest = max((len(line) for label in labels for line in label.splitlines()), default=0)
    columns = max(1, min(len(handles), max_columns, (width + _HANDLE_CHARACTERS) // (longest + _HANDLE_CHARACTERS)))
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=columns)


def say_empty(axes: Axes, text: str = "no values to show") -> None:
    """Say in the middle of an empty panel why there is nothing."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GRAY)


def padded_limits(*values: np.ndarray, min_span: float = 0.0) -> tuple[float, float] | None:
    """Limits that hold every finite value with a margin, at least min_span apart; None if no value is finite."""
    finite = np.concatenate([np.ravel(value)[np.isfinite(np.ravel(value))] for value in values])
    if finite.size == 0:
        return None
    lower, upper = float(finite.min()), float(finite.max())
    span = max(upper - lower, min_span, 1e-6 * max(abs(lower), abs(upper), 1e-6))
    center = 0.5 * (lower + upper)
    return center - 0.55 * span, center + 0.55 * span
