"""Small panels of the distributions of single internal coordinates."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from cmtjax.coordinates.domain import Domain
from cmtjax.evaluation.figures.style import BLUE, GRAY, VERMILION, new_figure
from cmtjax.evaluation.histograms import BlockHistogram
from cmtjax.evaluation.marginals import marginal_total_variation

_COLORS = (BLUE, VERMILION)


def worst_marginals(
    truth: BlockHistogram, model: BlockHistogram, dims: Sequence[int] | Int[np.ndarray, " n"], num_worst: int = 12
) -> list[int]:
    """The dimensions whose marginals differ most in total variation, the worst first.

    Args:
      truth: marginals of the truth.
      model: those of the model.
      dims: which to choose from.
      num_worst: how many at most.
    """
    distances = marginal_total_variation(truth.masses, model.masses)[np.asarray(dims)]
    return [int(dim) for dim in np.asarray(dims)[np.argsort(-distances, kind="stable")][:num_worst]]


def plot_marginals(
    truth: BlockHistogram,
    variants: Mapping[str, BlockHistogram],
    path: str | os.PathLike[str],
    *,
    dims: Sequence[int],
    names: Sequence[str],
    domain: Domain,
    window_center: Float[np.ndarray, " d"],
    window_width: Float[np.ndarray, " d"],
    num_columns: int = 4,
) -> pathlib.Path:
    """Probability densities of single coordinates: truth filled, the model's samples as lines.

    Bonds and angles are shown where the truth or a variant has all but 0.02 % of its weight; torsions over their whole
    window. Each title gives the total variation distance of the variants.

    Args:
      truth: marginals of the truth (``marginal_block_histogram``).
      variants: one or two of the model by label, such as "plain" and "reweighted".
      path: where the PNG goes.
      dims: which dimensions, in the order of the panels.
      names: of all dimensions (``coordinate_names``).
      domain: the box.
      window_center: (d,) coordinate at u = ½, in nm or rad.
      window_width: (d,) extent of the box.
      num_columns: panels a row.

    Returns:
      The path written.

    Raises:
      ValueError: if there is nothing to show, more than two variants, or path is not a PNG.
    """
    if len(dims) == 0 or not 1 <= len(variants) <= len(_COLORS):
        raise ValueError(
            f"dims must not be empty and variants must be one or two, got {list(dims)} and {list(variants)}."
        )
    num_columns = min(num_columns, len(dims))
    num_rows = -(-len(dims) // num_columns)
    num_bins = truth.sums.shape[-1]
    masses = {label: histogram.masses for label, histogram in {"truth": truth, **variants}.items()}
    distances = {label: marginal_total_variation(masses["truth"], masses[label]) for label in variants}
    with new_figure(path, (3.1 * num_columns, 2.15 * num_rows + 0.7)) as figure:
        panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
        for panel in panels[len(dims) :]:
            panel.set_axis_off()
        for panel, dim in zip(panels, dims, strict=False):
            is_bond, is_torsion = domain.groups[dim] == Domain.BONDS, domain.groups[dim] == Domain.TORSIONS
            unit, scale = ("nm", 1.0) if is_bond else ("degrees", 180 / np.pi)
            edges = scale * (window_center[dim] + window_width[dim] * (np.linspace(0, 1, num_bins + 1) - 0.5))
            of_dim = {label: values[dim] for label, values in masses.items()}
            if domain.is_periodic[dim] and num_bins % 2 == 0 and _is_around_edge(of_dim["truth"]):
                # From 0 to 360 degrees instead of −180 to 180, so that a mode at ±180 degrees is in one piece.
                edges = edges + scale * np.pi
                of_dim = {label: np.roll(values, num_bins // 2) for label, values in of_dim.items()}
            densities = {label: values / np.diff(edges) for label, values in of_dim.items()}
            panel.stairs(densities["truth"], edges, color=GRAY, fill=True, alpha=0.35, label="truth")
            for label, color in zip(variants, _COLORS, strict=False):
                panel.stairs(densities[label], edges, color=color, linewidth=1.2, label=label)
            lower, upper = edges[[0, -1]] if is_torsion else _range(list(of_dim.values()), edges)
            panel.set(xlim=(lower, upper), yticks=[])
            panel.set_ylim(bottom=0.0)
            if is_torsion:
                panel.locator_params(axis="x", nbins=5, steps=[1, 1.5, 3, 6, 9, 10])
            else:
                panel.locator_params(axis="x", nbins=4)
            values = [100 * distances[label][dim] for label in variants]
            shares = ", ".join(f"{value:.0f} %" if value >= 10 else f"{value:.2g} %" for value in values)
            # A kind and four atoms: too long for one line.
            kind, *atoms = names[dim].split(" ")
            panel.set_title(f"{kind} ({unit}), TV {shares}\n{' '.join(atoms)}", fontsize=8.0)
            panel.tick_params(labelsize=8.0)
            panel.grid(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return pathlib.Path(path)


def _range(masses: Sequence[np.ndarray], edges: np.ndarray) -> tuple[float, float]:
    """Where all but the outermost 0.01 % on either side of every histogram lies."""
    cumulative = np.cumsum(np.stack(masses), axis=1)
    first = np.min(np.argmax(cumulative > 1e-4, axis=1))
    last = np.max(np.argmax(cumulative >= 1 - 1e-4, axis=1))
    return float(edges[first]), float(edges[last + 1])


def _is_around_edge(masses: np.ndarray) -> bool:
    """Whether most of a histogram over the circle lies around its ends."""
    turns = (np.arange(masses.size) + 0.5) / masses.size
    return bool(np.sum(masses * np.cos(2 * np.pi * turns)) > 0.5)
