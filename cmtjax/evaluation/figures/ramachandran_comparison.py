"""Ramachandran plots of several runs side by side."""

from __future__ import annotations

import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cmtjax.evaluation.figures.samples import draw_free_energy
from cmtjax.evaluation.figures.style import new_figure, say_empty
from cmtjax.evaluation.ramachandran import free_energy_kj_mol

# Characters of a panel's title that fit over it.
_TITLE_WIDTH = 30
_TITLE_LINE_INCHES = 0.16


class RamachandranPlots(NamedTuple):
    """One (φ, ψ) pair of one run; masses are probabilities of the bins over [−π, π)², φ along axis 0.

    Attributes:
      label: of the run or its group.
      model_masses: of plain samples; None if there are none.
      reweighted_masses: of reweighted samples; None if there are none.
      model_remark: a line below the label, such as the divergence of the plain samples from the truth.
      reweighted_remark: likewise for the reweighted samples.
    """

    label: str
    model_masses: Float[np.ndarray, "bins bins"] | None
    reweighted_masses: Float[np.ndarray, "bins bins"] | None
    model_remark: str = ""
    reweighted_remark: str = ""


def plot_ramachandran_comparison(
    truth_masses: Float[np.ndarray, "bins bins"] | None,
    plots: Sequence[RamachandranPlots],
    path: str | os.PathLike[str],
    *,
    temperature_kelvin: float,
    title: str = "",
    max_kj_mol: float = 25.0,
) -> pathlib.Path:
    """Free energies over (φ, ψ) side by side (CMT, Figures 3 and 4): the truth, then plain and reweighted samples.

    Args:
      truth_masses: plot of the truth; None without one.
      plots: of each run.
      path: where the PNG goes.
      temperature_kelvin: temperature of the target.
      title: of the figure, such as the system and the pair.
      max_kj_mol: end of the color scale, which all panels share.

    Returns:
      The path written.

    Raises:
      ValueError: if there is nothing to draw or path is not a PNG.
    """
    truth = [] if truth_masses is None else [("truth", truth_masses)]
    rows = [truth + [(_title(plot.label, plot.model_remark), plot.model_masses) for plot in plots]]
    if any(plot.reweighted_masses is not None for plot in plots):
        # The truth again, so that each row can be compared with it at a glance.
        reweighted = [(_title("reweighted", plot.reweighted_remark), plot.reweighted_masses) for plot in plots]
        rows.append(truth + reweighted)
    if all(masses is None for row in rows for _, masses in row):
        raise ValueError("plots and truth_masses must have at least one Ramachandran plot, got none.")
    num_columns = len(rows[0])
    # Room for titles of any length, else the panels would shrink and the titles meet.
    title_lines = sum(max(name.count("\n") for name, _ in row) for row in rows)
    height = 3.3 * len(rows) + 0.5 + _TITLE_LINE_INCHES * title_lines
    with new_figure(path, (3.1 * num_columns + 1.3, height), layout="compressed") as figure:
        panels = figure.subplots(len(rows), num_columns, squeeze=False, sharex=True, sharey=True)
        image = None
        for row, row_panels in zip(rows, panels, strict=True):
            for (name, masses), panel in zip(row, row_panels, strict=True):
                panel.set_title(name, fontsize=9)
                if masses is None:
                    say_empty(panel, "no plot")
                else:
                    image = draw_free_energy(panel, free_energy_kj_mol(masses, temperature_kelvin), max_kj_mol)
                    panel.set(xticks=(-120, 0, 120), yticks=(-120, 0, 120))
            row_panels[0].set_ylabel("ψ (degrees)")
        for panel in panels[-1]:
            panel.set_xlabel("φ (degrees)")
        if title:
            figure.suptitle(title)
        if image is not None:
            figure.colorbar(image, ax=panels, label="free energy (kJ/mol)", extend="max", extendfrac=0.03, aspect=30)
    return pathlib.Path(path)


def _title(label: str, remark: str) -> str:
    return "\n".join([*textwrap.wrap(label, _TITLE_WIDTH, break_long_words=True), *([remark] if remark else [])])
