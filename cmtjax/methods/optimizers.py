"""Optimizers as optax transformations: that of the papers, and one that learns from fewer samples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib


def adam_with_cosine(
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    max_gradient_norm: float | None = None,
    final_learning_rate: float = 0.0,
    constant_share: float = 0.0,
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
      constant_share: share of the steps after the warm-up that keep the peak rate; the cosine falls over the others. 0
        as published.

    Raises:
      ValueError: if a number is out of range.
    """
    _check(learning_rate, num_steps, warmup_steps, weight_decay, max_gradient_norm, final_learning_rate, constant_share)
    schedule = _cosine(learning_rate, num_steps, warmup_steps, final_learning_rate, constant_share)
    return optax.chain(
        _clip(max_gradient_norm),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(schedule),
    )


def muon_with_cosine(
    *,
    learning_rate: float,
    matrix_learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    max_gradient_norm: float | None = None,
    final_learning_rate: float = 0.0,
    constant_share: float = 0.0,
) -> optax.GradientTransformation:
    """Muon for the hidden matrices, Adam for everything else, with linear warm-up and one cosine over the whole run.

    Muon (Jordan et al. 2024) moves a matrix along its momentum with all singular values set to one. Adam moves vectors,
    and the matrix of each conditioner's last layer, which begins at zero.

    Args:
      learning_rate: peak learning rate of Adam.
      matrix_learning_rate: peak learning rate of Muon.
      num_steps: gradient steps of the whole run, warm-up included.
      warmup_steps: steps of the linear rise from zero.
      max_gradient_norm: bound of the global norm; None for none.
      final_learning_rate: where Adam's cosine ends; Muon's ends at the same share of its peak.
      constant_share: share of the steps after the warm-up that keep the peak rates; the cosines fall over the others.

    Raises:
      ValueError: if a number is out of range.
    """
    _check(learning_rate, num_steps, warmup_steps, 0.0, max_gradient_norm, final_learning_rate, constant_share)
    if not 0.0 < matrix_learning_rate < float("inf"):
        raise ValueError(f"matrix_learning_rate must be positive and finite, got {matrix_learning_rate!r}.")

    def schedule(peak: float) -> optax.Schedule:
        end = final_learning_rate / learning_rate * peak
        return _cosine(peak, num_steps, warmup_steps, end, constant_share)

    return optax.chain(
        _clip(max_gradient_norm),
        optax.partition(
            {
                "muon": _on_stacked_matrices(
                    optax.contrib.muon(
                        schedule(matrix_learning_rate),
                        muon_weight_dimension_numbers=lambda stacks: jax.tree.map(
                            lambda _: optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2), stacks
                        ),
                    )
                ),
                "adam": optax.adam(schedule(learning_rate)),
            },
            _labels,
        ),
    )


def _on_stacked_matrices(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same moves by one product for all matrices of a shape, where one for each matrix would keep a GPU waiting."""

    def stack(matrices: Any) -> dict[str, Any]:
        by_shape: dict[str, list[Any]] = {}
        for matrix in jax.tree.leaves(matrices):
            by_shape.setdefault(str(matrix.shape), []).append(matrix)
        return {shape: jnp.stack(of_shape) for shape, of_shape in by_shape.items()}

    def init(params: Any) -> Any:
        return optimizer.init(stack(params))

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, state = optimizer.update(stack(gradient), state, stack(params))
        in_order = {shape: iter(of_shape) for shape, of_shape in moves.items()}
        return jax.tree.map(lambda matrix: next(in_order[str(matrix.shape)]), gradient), state

    return optax.GradientTransformation(init, update)


def _labels(params: Any) -> Any:
    """Which optimizer moves a parameter: Muon the matrices of each conditioner's layers but the last."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        *conditioner, layer, _ = path
        layers = {other[-2].key for other in paths if other[:-2] == tuple(conditioner)}
        is_last = layer.key == max(layers, key=lambda name: (len(name), name))
        return "muon" if leaf.ndim == 2 and not is_last else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _clip(max_gradient_norm: float | None) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(max_gradient_norm) if max_gradient_norm is not None else optax.identity()


def _cosine(peak: float, num_steps: int, warmup_steps: int, end: float, constant_share: float) -> optax.Schedule:
    num_falling = max(num_steps - warmup_steps - round(constant_share * (num_steps - warmup_steps)), 1)
    num_constant = num_steps - warmup_steps - num_falling
    cosine = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else peak,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=num_steps - num_constant,
        end_value=end,
    )

    def wait_at_the_peak(count: Any) -> Any:
        return cosine(jnp.where(count < warmup_steps, count, jnp.maximum(count - num_constant, warmup_steps)))

    return wait_at_the_peak if num_constant else cosine


def _check(
    learning_rate: float,
    num_steps: int,
    warmup_steps: int,
    weight_decay: float,
    max_gradient_norm: float | None,
    final_learning_rate: float,
    constant_share: float,
) -> None:
    for name, value, legal in (
        ("learning_rate", learning_rate, 0.0 < learning_rate < float("inf")),
        ("num_steps", num_steps, num_steps >= 1),
        ("warmup_steps", warmup_steps, 0 <= warmup_steps < num_steps),
        ("weight_decay", weight_decay, 0.0 <= weight_decay < float("inf")),
        ("max_gradient_norm", max_gradient_norm, max_gradient_norm is None or max_gradient_norm > 0.0),
        ("final_learning_rate", final_learning_rate, 0.0 <= final_learning_rate <= learning_rate),
        ("constant_share", constant_share, 0.0 <= constant_share < 1.0),
    ):
        if not legal:
            raise ValueError(
                f"{name} is out of range, got {value!r}: rates and norms must be positive, decay and final rate not "
                "negative, the constant share in [0, 1), and the warm-up shorter than the run."
            )
