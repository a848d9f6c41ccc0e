"""Cis peptide bonds: a flow may sample them, a simulation started in trans hardly ever crosses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cmtjax.evaluation.basin_report import _percent, _status
from cmtjax.evaluation.blocks import Blocks, weighted_mean


def cis_weights(
    omegas_rad: Float[np.ndarray, "*samples bonds"],
    weights: Float[np.ndarray, "*samples"] | None,
    blocks: Blocks,
) -> list[tuple[float, float]]:
    """Probability of cis, |ω| < 90°, of each peptide bond, with standard errors from blocks.

    Args:
      omegas_rad: ω = CA-C-N-CA in rad, of any range: 0 is cis, π is trans. NaN is left out.
      weights: not negative, up to a constant; None for equal weights.
      blocks: labels of the samples' shape.

    Returns:
      (weight, standard error) for each bond. An error of zero with a weight of zero means that none was seen.
    """
    is_cis = np.where(np.isfinite(omegas_rad), np.cos(omegas_rad) > 0, np.nan)
    return [weighted_mean(is_cis[..., bond], weights, blocks) for bond in range(is_cis.shape[-1])]


#: What names of weights end in, and the title of their column.
_COLUMNS = {"_truth": "truth", "": "plain", "_reweighted": "reweighted", "_reweighted_raw": "reweighted, unclipped"}


def cis_report(names: Sequence[str], summary: Mapping[str, Any]) -> str:
    """Weights of cis as a Markdown table, a row a peptide bond, and below it what they mean where they disagree.

    Args:
      names: of the bonds, such as "ACE0-ALA1", at least one.
      summary: as ``compare`` gives it, of which are used ``num_samples`` and ``cis_<b>_weight`` with its standard error
        of the truth, of the plain samples and of those reweighted ones that are there.

    Returns:
      Lines of text. Where the truth has no cis and the plain samples have, the truth does not decide: simulations do
      not cross. Where it has, that of the plain samples is "lost", "undecided", "underweighted" or "overweighted" by
      the rules for basins (``basin_report``), or right, which needs no sentence.
    """
    suffixes = [suffix for suffix in _COLUMNS if f"cis_0_weight{suffix}" in summary]
    rows = [["peptide bond", *(f"cis: {_COLUMNS[suffix]}" for suffix in suffixes)], ["---"] * (1 + len(suffixes))]
    rows += [
        [name, *(_percent(*_weight(summary, bond, suffix)) for suffix in suffixes)] for bond, name in enumerate(names)
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    uncrossed = []
    for bond, name in enumerate(names):
        truth, plain = (_weight(summary, bond, suffix) for suffix in ("_truth", ""))
        if truth[0] == 0:
            uncrossed += [name] if plain[0] > 0 else []
            continue
        # Without a single sample in cis the blocks do not scatter; the noise of so many samples of the truth is there.
        noise = math.sqrt(truth[0] * (1 - truth[0]) / summary["num_samples"])
        status = _status(truth[0], plain[0], math.hypot(truth[1], max(plain[1], noise)))
        if status != "found":
            words = "undecided, for want of samples" if status == "undecided" else status
            lines.append(f"{name}: cis, weight {_percent(*truth)}, is {words}: plain samples have {_percent(*plain)}.")
    if uncrossed:
        lines.append(
            f"{', '.join(uncrossed)}: the plain samples have cis, the truth none. The simulation cannot cross: its "
            "chains never left trans, and it does not tell what the weight of cis is."
        )
    return "\n".join(lines)


def _weight(summary: Mapping[str, Any], bond: int, suffix: str) -> tuple[float, float]:
    name = f"cis_{bond}_weight{suffix}"
    return summary[name], summary[f"{name}_standard_error"]
