"""What is wrong with an annealing step, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cmtjax.annealing.dual import describe_status

# A held-out loss this many nats above the training loss, with noise allowed for, says that the buffer is overfitted.
_OVERFITTING_NATS = 1.0
# A step is taken for a leak where the flow moves by more than 3 kl + 0.2 nats. Overfitted buffers stay below: in ten
# runs of the dipeptide and the tetrapeptide the largest was 0.9 of it; with a leak of 0.3 % it was 1 to 6 times that.
_LEAK_FACTOR, _LEAK_NATS = 3.0, 0.2


def describe_problems(info: Mapping[str, float]) -> list[str]:
    """What to tell the user about one annealing step.

    Args:
      info: the scalars of ``CMTInfo`` by name, as in ``info._asdict()``, as numbers.

    Returns:
      A sentence or two for each problem; empty if there is none.
    """
    problems = []
    if info["dual_status"]:
        problems.append(describe_status(int(info["dual_status"])))
    gap = info["held_out_loss"] - info["training_loss"]
    if math.isfinite(gap) and gap > _OVERFITTING_NATS:
        problems.append(
            f"the held-out loss is {gap:.1f} nats above the training loss: the flow overfits its buffer. Use a larger "
            "buffer, fewer gradient steps or a smaller learning rate."
        )
    kl, reached = info["kl"], info["kl_reached"]
    if math.isfinite(kl) and not reached <= _LEAK_FACTOR * kl + _LEAK_NATS:
        problems.append(
            f"the flow moved by {reached:.2f} nats where {kl:.2f} were asked for (kl_reached against kl): it puts "
            "density where its buffer has no points. Neither ESS nor log Z shows that; look at the ELBO and the energy "
            "histogram."
        )
    for name, what in (("num_failed", "failed energy evaluations"), ("num_skipped_updates", "skipped updates")):
        if info[name]:
            problems.append(f"{int(info[name])} {what}.")
    return problems
