"""Forward metrics: how likely a model finds samples of the truth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from cmtjax.evaluation.blocks import chain_blocks, weighted_mean


def forward_metrics(
    log_q: Float[np.ndarray, "draws chains"],
    log_p: Float[np.ndarray, "draws chains"],
    in_domain: Bool[np.ndarray, "draws chains"],
    *,
    log_z: float | None = None,
    log_z_standard_error: float = 0.0,
) -> dict[str, float]:
    """NLL, EUBO and forward KL divergence over samples of the target (CMT, D.3.1), under flat names.

    Frames outside the flow's box have no density of their own: by this package's convention (``Sampler.log_prob``),
    as in the public TA-BG code, log q_u is then that of the nearest point of the box, the volume factor that of the
    frame itself. They are part of the means, and their share and the means without them stand beside.

    Args:
      log_q: (draws, chains) log density of the model at the truth's samples; log q_u is that of clipped points.
      log_p: (draws, chains) unnormalized log density of the target there, in the same measure; NaN for failed ones.
      in_domain: (draws, chains) whether a frame lies in the box.
      log_z: log of the target's normalizer, which turns EUBO into the divergence.
      log_z_standard_error: of it.

    Returns:
      - ``nll`` = −mean log q; ``eubo`` = mean(log p̃ − log q); both in nats with ``_standard_error`` from blocks of
        whole chains, and ``nll_in_domain``, ``eubo_in_domain`` over frames of the box alone (if there are any).
      - ``forward_kl`` = eubo − log Z with ``_standard_error``, if log Z is given.
      - ``share_outside_domain``, with ``_standard_error``.
      - ``num_truth_samples``, ``num_truth_failed``: all of them, and those with a NaN, which are left out.

    Raises:
      ValueError: if the shapes are not the same (draws, chains), or all samples failed.
    """
    log_q, log_p = np.asarray(log_q, np.float64), np.asarray(log_p, np.float64)
    in_domain = np.asarray(in_domain, bool)
    if log_q.ndim != 2 or not log_q.shape == log_p.shape == in_domain.shape:
        raise ValueError(
            "log_q, log_p and in_domain must share a shape (draws, chains), "
            f"got {log_q.shape}, {log_p.shape} and {in_domain.shape}."
        )
    is_failed = np.isnan(log_q) | np.isnan(log_p)
    if np.all(is_failed):
        raise ValueError(f"All {log_q.size} samples failed: each has a NaN in log_q or log_p.")
    log_q = np.where(is_failed, np.nan, log_q)
    blocks = chain_blocks(*log_q.shape)
    means = {
        "nll": -log_q,
        "eubo": log_p - log_q,
        "share_outside_domain": np.where(is_failed, np.nan, ~in_domain),
    }
    metrics: dict[str, float] = {}
    for name, values in means.items():
        metrics[name], metrics[f"{name}_standard_error"] = weighted_mean(values, None, blocks)
    if np.any(in_domain & ~is_failed):
        for name in ("nll", "eubo"):
            values = np.where(in_domain, means[name], np.nan)
            metrics[f"{name}_in_domain"], metrics[f"{name}_in_domain_standard_error"] = weighted_mean(
                values, None, blocks
            )
    if log_z is not None:
        metrics["forward_kl"] = metrics["eubo"] - log_z
        metrics["forward_kl_standard_error"] = float(np.hypot(metrics["eubo_standard_error"], log_z_standard_error))
    return metrics | {"num_truth_samples": log_q.size, "num_truth_failed": int(is_failed.sum())}
