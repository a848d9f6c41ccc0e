"""The optimizer of the papers as an optax transformation."""

from __future__ import annotations

import optax


def adam_with_cosine(
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    max_gradient_norm: float | None = None,
    final_learning_rate: float = 0.0,
) -> optax.GradientTransformation:
    """Adam with linear warm-up and one cosine over the whole run ([CMT] Table 7).

    In this order: clip the global norm, add the L2 penalty's gradient (weight decay inside the gradient, not decoupled
    as in AdamW), Adam, learning rate.

    Args:
      learning_rate: peak learning rate.
      num_steps: gradient steps of the whole run, warm-up included.
      warmup_steps: steps of the linear rise from zero.
      weight_decay: coefficient of the parameters added to the gradient.
      max_gradient_norm: bound of the global norm; None for none.
      final_learning_rate: where the cosine ends.

    Raises:
      ValueError: if a number is out of range.
    """
    for name, value, legal in (
        ("learning_rate", learning_rate, learning_rate > 0.0),
        ("num_steps", num_steps, num_steps >= 1),
        ("warmup_steps", warmup_steps, 0 <= warmup_steps < num_steps),
        ("weight_decay", weight_decay, weight_decay >= 0.0),
        ("max_gradient_norm", max_gradient_norm, max_gradient_norm is None or max_gradient_norm > 0.0),
        ("final_learning_rate", final_learning_rate, 0.0 <= final_learning_rate <= learning_rate),
    ):
        if not legal:
            raise ValueError(
                f"{name} is out of range, got {value!r}: rates and norms must be positive, decay and final rate not "
                "negative, and the warm-up shorter than the run."
            )
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else learning_rate,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
        end_value=final_learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(max_gradient_norm) if max_gradient_norm is not None else optax.identity(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(schedule),
    )
