"""The importance-weighted forward-KL fit of a flow to a buffer of samples, which the methods share."""

from __future__ import annotations

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cmtjax.flows.flow import Flow, Params


class FitInfo(NamedTuple):
    """Diagnostics of one fit.

    Attributes:
      training_loss: () self-normalized weighted mean of −log q_u over the mini-batches of the last pass.
      gradient_norm: () mean global norm before clipping, over the steps with a finite gradient.
      num_skipped_updates: () int32, steps whose gradient was not finite; they changed nothing.
    """

    training_loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    num_skipped_updates: Int[Array, ""]


class BatchSums(NamedTuple):
    """Sums over a batch: of the weights, and of weight times −log q_u."""

    weight: Float[Array, ""]
    weighted_loss: Float[Array, ""]


def batch_sums(
    flow: Flow,
    params: Params,
    u: Float[Array, "n d"],
    log_weights: Float[Array, " n"],
    log_q: Float[Array, " n"] | None = None,
    control_variate: float = 1.0,
) -> tuple[Float[Array, ""], BatchSums]:
    """The loss of ``weighted_forward_kl_loss`` with the sums that a self-normalized mean needs."""
    chex.assert_rank([u, log_weights], [2, 1])
    chex.assert_equal_shape_prefix([u, log_weights], 1)
    log_prob = flow.log_prob(params, u)
    weights = jnp.exp(log_weights)
    losses = jnp.where(weights > 0.0, -weights * log_prob, 0.0)
    sums = BatchSums(jnp.sum(weights), jax.lax.stop_gradient(jnp.sum(losses)))
    if log_q is not None:
        chex.assert_equal_shape([log_weights, log_q])
        ratios = jnp.exp(jnp.minimum(jax.lax.stop_gradient(log_prob) - log_q, log_weights))
        pull = weights - control_variate * ratios
        losses = jnp.where(weights > 0.0, -pull * log_prob, 0.0)
    return jnp.mean(losses), sums


def weighted_forward_kl_loss(
    flow: Flow,
    params: Params,
    u: Float[Array, "n d"],
    log_weights: Float[Array, " n"],
    log_q: Float[Array, " n"] | None = None,
    control_variate: float = 1.0,
) -> Float[Array, ""]:
    """−(1/B) Σ w_n log q_u(u_n), the loss of every flow fit in this package ([CMT] Algorithm 2).

    Up to a constant, and with the weights of the next density against the buffer's, this is KL(q_{i+1} ‖ q_θ). The
    log-determinant to physical positions does not depend on θ and is left out.

    With ``log_q``, the density that the points were drawn from, the gradient has a one-sided control variate:

        −(1/B) Σ (w_n − c min(w_n, r_n)) ∇ log q_θ(u_n),  r_n = q_θ(u_n) / q_i(u_n).

    As q_θ is normalized, the mean of (q_θ/q_i) ∇ log q_θ over points of q_i is zero, so to take off c r_n would not
    change the mean and would, with c = 1, take all noise from a flow that is the density of the weights; but then
    points without weight push the flow away from themselves, to where the buffer has no points that could tell of it,
    and it leaks. Here no point pushes. Over the density of the weights, π = w q_i, with t = r/w = q_θ/π, it is the
    gradient of the f-divergence (1 − c) KL(π ‖ q_θ) + c ⟨−log t + t − 1⟩ over t < 1, which is zero for q_θ = π
    alone; its noise there is (1 − c)² of that of maximum likelihood. The loss has that gradient but not that value.

    Args:
      flow: the flow.
      params: its parameters.
      u: (n, d) points on the box.
      log_weights: (n,) log-weights with mean weight one over the buffer; −inf leaves a point out.
      log_q: (n,) log density on the box, normalized, of which the points are samples; None for no control variate.
      control_variate: c, from 0 to 1.

    Returns:
      () the loss.
    """
    return batch_sums(flow, params, u, log_weights, log_q, control_variate)[0]


def minibatch_indices(
    key: PRNGKeyArray, num_samples: int, batch_size: int, num_steps: int
) -> Int[Array, "num_steps batch_size"]:
    """Shuffled passes over a buffer: mini-batches without replacement within a pass.

    A pass drops the num_samples mod batch_size points at its end, other ones each time.
    """
    batches_per_pass = num_samples // batch_size
    num_passes = math.ceil(num_steps / batches_per_pass)
    keys = jax.random.split(key, num_passes)
    passes = jax.lax.map(lambda k: jax.random.permutation(k, num_samples)[: batches_per_pass * batch_size], keys)
    return passes.reshape(-1, batch_size)[:num_steps]


def fit_flow(
    flow: Flow,
    optimizer: optax.GradientTransformation,
    params: Params,
    optimizer_state: optax.OptState,
    key: PRNGKeyArray,
    u: Float[Array, "n d"],
    log_weights: Float[Array, " n"],
    *,
    batch_size: int,
    num_steps: int,
    log_q: Float[Array, " n"] | None = None,
    control_variate: float = 1.0,
) -> tuple[Params, optax.OptState, FitInfo]:
    """``num_steps`` gradient steps of ``weighted_forward_kl_loss`` as one ``lax.scan``.

    A step whose gradient is not finite leaves parameters and optimizer state as they are and is counted.

    Args:
      flow: the flow.
      optimizer: an optax transformation.
      params: parameters to start from.
      optimizer_state: the optimizer's state to start from.
      key: random key for the shuffling.
      u: (n, d) the buffer's points on the box.
      log_weights: (n,) their log-weights, mean weight one.
      batch_size: points of a mini-batch, at most n.
      num_steps: gradient steps.
      log_q: (n,) log density on the box that the points were drawn from, for the control variate; None for none.
      control_variate: its factor c, from 0 to 1, see ``weighted_forward_kl_loss``.

    Returns:
      Parameters, optimizer state and ``FitInfo``.

    Raises:
      ValueError: if batch_size exceeds n, or a number is below 1.
    """
    num_samples = u.shape[0]
    if not 1 <= batch_size <= num_samples:
        raise ValueError(f"batch_size must be from 1 to the {num_samples} points of the buffer, got {batch_size}.")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    indices = minibatch_indices(key, num_samples, batch_size, num_steps)

    def step(
        carry: tuple[Params, optax.OptState], batch: Int[Array, " batch_size"]
    ) -> tuple[tuple[Params, optax.OptState], tuple[BatchSums, Array]]:
        params, optimizer_state = carry
        log_q_batch = None if log_q is None else log_q[batch]
        gradient, sums = jax.grad(
            lambda p: batch_sums(flow, p, u[batch], log_weights[batch], log_q_batch, control_variate), has_aux=True
        )(params)
        norm = optax.tree.norm(gradient)

        def apply(params: Params, optimizer_state: optax.OptState) -> tuple[Params, optax.OptState]:
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return optax.apply_updates(params, updates), optimizer_state

        # A conditional works in place; to select among results, XLA copies parameters and moments in every step.
        carry = jax.lax.cond(jnp.isfinite(norm), apply, lambda *unchanged: unchanged, params, optimizer_state)
        return carry, (sums, norm)

    (params, optimizer_state), (sums, norms) = jax.lax.scan(step, (params, optimizer_state), indices)
    last = slice(-min(num_steps, num_samples // batch_size), None)
    finite = jnp.isfinite(norms)
    num_finite = jnp.sum(finite)
    info = FitInfo(
        training_loss=jnp.sum(sums.weighted_loss[last]) / jnp.sum(sums.weight[last]),
        gradient_norm=jnp.sum(jnp.where(finite, norms, 0.0)) / jnp.maximum(num_finite, 1),
        num_skipped_updates=(num_steps - num_finite).astype(jnp.int32),
    )
    return params, optimizer_state, info


def select(condition: Array, if_true: chex.ArrayTree, if_false: chex.ArrayTree) -> chex.ArrayTree:
    """One of two pytrees, by a scalar condition under jit; typed random keys included."""
    return jax.tree.map(lambda a, b: jax.lax.select(condition, jnp.asarray(a), jnp.asarray(b)), if_true, if_false)
