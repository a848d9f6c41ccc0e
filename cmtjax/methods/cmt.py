"""Constrained Mass Transport: Algorithm 2 of [CMT] as an init/update pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cmtjax import annealing
from cmtjax.annealing.dual import NO_FINITE_SAMPLES
from cmtjax.flows.flow import Flow, Params
from cmtjax.methods.averaging import AveragedState, averaged_params
from cmtjax.methods.buffer import Buffer, draw_buffer, in_chunks
from cmtjax.methods.weighted_fit import batch_sums, fit_flow, select
from cmtjax.targets.target import Target


@dataclasses.dataclass(frozen=True)
class CMTConfig:
    """Sizes and bounds of Constrained Mass Transport; the defaults are the dipeptide's of [CMT] Table 7.

    Attributes:
      buffer_size: N, fresh samples an annealing step.
      batch_size: B, points of a mini-batch.
      num_gradient_steps: K, gradient steps an annealing step.
      trust_region_bound: ε_tr in nats; None switches the constraint off.
      entropy_bound: ε_ent in nats; None switches the constraint off. With both off, the method is importance-weighted
        forward KL.
      weight_clip_fraction: the share of the largest training weights that is set to the smallest of them; 0 for none.
      control_variate: how much of the flow's own density is taken off the weights in the gradient of the fit, from 0
        (weighted maximum likelihood, as published) to 1: less noise (see ``weighted_forward_kl_loss``).
      held_out_fraction: the share of the buffer that is not trained on and only measures overfitting.
      chunk_size: samples drawn and evaluated at a time; bounds the memory of sampling.
      num_diagnostic_samples: fresh samples of the fitted flow (no energies) that measure the KL and the entropy decay
        reached.
    """

    buffer_size: int = 500_000
    batch_size: int = 1000
    num_gradient_steps: int = 2000
    trust_region_bound: float | None = 0.3
    entropy_bound: float | None = 0.8
    weight_clip_fraction: float = 0.0
    control_variate: float = 0.0
    held_out_fraction: float = 0.02
    chunk_size: int = 10_000
    num_diagnostic_samples: int = 10_000

    def __post_init__(self) -> None:
        for name in ("buffer_size", "batch_size", "num_gradient_steps", "chunk_size", "num_diagnostic_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        for name in ("trust_region_bound", "entropy_bound"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, or None for no bound; got {value!r}.")
        for name in ("weight_clip_fraction", "held_out_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}.")
        if not 0.0 <= self.control_variate <= 1.0:
            raise ValueError(f"control_variate must be from 0 to 1, got {self.control_variate!r}.")
        if self.batch_size > self.num_training_samples:
            raise ValueError(
                f"batch_size must be at most the {self.num_training_samples} training samples of the buffer "
                f"(buffer_size minus the held-out share), got {self.batch_size}."
            )

    @property
    def num_training_samples(self) -> int:
        """Samples of the buffer that are fitted."""
        return self.buffer_size - round(self.held_out_fraction * self.buffer_size)


class CMTState(NamedTuple):
    """What an annealing step starts from; everything that a checkpoint needs.

    Attributes:
      key: random key of all steps to come.
      params: the flow's parameters, q_i; their average if the optimizer keeps one (``average_parameters``).
      iterate: then, the parameters that the optimizer goes on from; None if they are ``params``.
      optimizer_state: of the optimizer; carries over from step to step.
      path: α_i, β_i of Theorem 2.4.
      dual: the multipliers of the previous step, a start for the next solve.
      annealing_step: () int32, steps done.
    """

    key: PRNGKeyArray
    params: Params
    iterate: Params | None
    optimizer_state: optax.OptState
    path: annealing.PathState
    dual: annealing.DualSolution
    annealing_step: Int[Array, ""]


class CMTInfo(NamedTuple):
    """Diagnostics of the step from q_i to q_{i+1}; scalars but for the last. The buffer is drawn from q_i.

    Attributes:
      trust_region_multiplier: λ_i.
      entropy_multiplier: η_i.
      dual_status: see ``cmtjax.annealing.describe_status``.
      kl: KL(q_{i+1} ‖ q_i) that the dual asks for, nats.
      kl_reached: KL of the fitted flow against q_i, from fresh samples of the fitted flow.
      entropy_decay: H(q_i) − H(q_{i+1}) that the dual asks for, nats.
      entropy_decay_reached: H(q_i) − H of the fitted flow, from fresh samples.
      alpha: α_{i+1}.
      beta: β_{i+1}.
      ess_next: effective sample size of q_{i+1} against the buffer, a fraction (unclipped).
      ess_target: effective sample size of the target against the buffer, a fraction, the top 0.01 % of weights clipped.
      ess_target_raw: likewise, unclipped.
      log_z: log Z of the target from the buffer, unclipped.
      log_z_standard_error: of log_z.
      entropy: H(q_i) from the buffer, nats, with respect to the physical measure.
      training_loss: self-normalized weighted −log q_u over the last pass of the fit. Where the optimizer keeps an
        average, that is the fitted flow: then its loss on as many trained points as there are held out.
      held_out_loss: the same for the fitted flow on the held-out share; NaN without one.
      gradient_norm: mean over the fit, before clipping.
      num_failed: samples whose log p̃ is NaN.
      num_skipped_updates: gradient steps skipped for a gradient that is not finite.
      observed: what ``observe`` makes of the buffer, a pytree of arrays; None without it.
    """

    trust_region_multiplier: Float[Array, ""]
    entropy_multiplier: Float[Array, ""]
    dual_status: Int[Array, ""]
    kl: Float[Array, ""]
    kl_reached: Float[Array, ""]
    entropy_decay: Float[Array, ""]
    entropy_decay_reached: Float[Array, ""]
    alpha: Float[Array, ""]
    beta: Float[Array, ""]
    ess_next: Float[Array, ""]
    ess_target: Float[Array, ""]
    ess_target_raw: Float[Array, ""]
    log_z: Float[Array, ""]
    log_z_standard_error: Float[Array, ""]
    entropy: Float[Array, ""]
    training_loss: Float[Array, ""]
    held_out_loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    num_failed: Int[Array, ""]
    num_skipped_updates: Int[Array, ""]
    observed: Any = None


class Method(NamedTuple):
    """A training method as pure functions.

    Attributes:
      init: (key, params=None) -> state; params are those of a flow to start from instead of a fresh one.
      update: state -> (state, info), one annealing step. The caller jits it.
      num_target_evaluations: target evaluations an update.
      num_gradient_steps: gradient steps an update.
    """

    init: Callable[..., CMTState]
    update: Callable[[CMTState], tuple[CMTState, CMTInfo]]
    num_target_evaluations: int
    num_gradient_steps: int


# The share of weights that the papers clip in the effective sample size ([CMT] D.3.1).
_ESS_CLIP_FRACTION = 1e-4


def cmt(
    target: Target,
    flow: Flow,
    optimizer: optax.GradientTransformation,
    config: CMTConfig,
    observe: Callable[[Float[Array, "N d"], Float[Array, " N"]], Any] | None = None,
) -> Method:
    """Constrained Mass Transport with a normalizing flow ([CMT] Algorithm 2).

    One update draws a buffer from q_i, solves the dual for (λ_i, η_i), and fits the flow to q_{i+1} by weighted maximum
    likelihood. If nothing can be learned from the buffer (every evaluation failed), the step changes no parameter and
    its ``dual_status`` says why.

    Args:
      target: what to sample.
      flow: the family of densities, on the target's domain.
      optimizer: an optax transformation, its schedule counting gradient steps.
      config: sizes and bounds.
      observe: traceable, of the (N, d) samples of q_i on the unit box and their (N,) log-weights to q_{i+1} (NaN for
        failed samples) -> pytree of arrays for ``CMTInfo.observed``, such as histograms that follow a mode along the
        path; it costs no sample of its own.

    Returns:
      The init/update pair.

    Raises:
      ValueError: if flow and target live on boxes of different sizes.
    """
    if flow.domain.num_dims != target.domain.num_dims:
        raise ValueError(
            f"flow must have the target's {target.domain.num_dims} dimensions, got {flow.domain.num_dims}."
        )

    def init(key: PRNGKeyArray, params: Params | None = None) -> CMTState:
        key, init_key = jax.random.split(key)
        # Of a given flow a copy, since the caller may donate the state.
        params = flow.init(init_key) if params is None else jax.tree.map(jnp.copy, params)
        optimizer_state = optimizer.init(params)
        return CMTState(
            key=key,
            params=params,
            # A copy: the caller may donate the state, and no buffer can be given away twice.
            iterate=jax.tree.map(jnp.copy, params) if isinstance(optimizer_state, AveragedState) else None,
            optimizer_state=jax.tree.map(jnp.copy, optimizer_state),
            path=annealing.initial_path(),
            dual=annealing.DualSolution(
                trust_region_multiplier=jnp.zeros(()),
                entropy_multiplier=jnp.zeros(()),
                log_normalizer=jnp.zeros(()),
                kl=jnp.zeros(()),
                entropy_decay=jnp.zeros(()),
                status=jnp.zeros((), jnp.int32),
            ),
            annealing_step=jnp.zeros((), jnp.int32),
        )

    def update(state: CMTState) -> tuple[CMTState, CMTInfo]:
        key, buffer_key, fit_key, diagnostic_key = jax.random.split(state.key, 4)
        buffer = draw_buffer(target, flow, state.params, buffer_key, config.buffer_size, config.chunk_size)
        dual = annealing.solve_dual(
            buffer.log_q, buffer.log_p, config.trust_region_bound, config.entropy_bound, initial=state.dual
        )
        log_weights = annealing.importance_log_weights(buffer.log_q, buffer.log_p, dual)
        training_weights = annealing.clip_top_fraction(log_weights, config.weight_clip_fraction)

        # The buffer's samples are independent, so its last ones are as good a held-out share as any.
        split = config.num_training_samples
        iterate, optimizer_state, fit = fit_flow(
            flow,
            optimizer,
            state.params if state.iterate is None else state.iterate,
            state.optimizer_state,
            fit_key,
            buffer.u[:split],
            training_weights[:split],
            batch_size=config.batch_size,
            num_steps=config.num_gradient_steps,
            log_q=buffer.log_q_u[:split] if config.control_variate else None,
            control_variate=config.control_variate,
        )
        # NaN weights would have reached every parameter; a buffer without a single finite sample gives none.
        usable = dual.status != NO_FINITE_SAMPLES
        fitted = (
            averaged_params(optimizer_state, iterate),
            None if state.iterate is None else iterate,
            optimizer_state,
        )
        params, iterate, optimizer_state = select(usable, fitted, (state.params, state.iterate, state.optimizer_state))
        path = annealing.advance_path(state.path, dual.trust_region_multiplier, dual.entropy_multiplier)
        path, next_dual = select(usable, (path, dual), (state.path, state.dual))

        training_loss, held_out_loss = fit.training_loss, _held_out_loss(params, buffer, training_weights)
        if iterate is not None and split < config.buffer_size:
            training_loss = _trained_loss(params, buffer, training_weights)

        entropy = _mean_where(-buffer.log_q, ~jnp.isnan(buffer.log_p))
        kl_reached, entropy_reached = _step_reached(params, state.params, diagnostic_key)
        target_weights = buffer.log_p - buffer.log_q
        log_z, log_z_standard_error = annealing.estimate_log_z(target_weights)
        info = CMTInfo(
            trust_region_multiplier=dual.trust_region_multiplier,
            entropy_multiplier=dual.entropy_multiplier,
            dual_status=dual.status,
            kl=dual.kl,
            kl_reached=kl_reached,
            entropy_decay=dual.entropy_decay,
            entropy_decay_reached=entropy - entropy_reached,
            alpha=path.alpha,
            beta=path.beta,
            ess_next=annealing.effective_sample_size(log_weights),
            ess_target=annealing.effective_sample_size(annealing.clip_top_fraction(target_weights, _ESS_CLIP_FRACTION)),
            ess_target_raw=annealing.effective_sample_size(target_weights),
            log_z=log_z,
            log_z_standard_error=log_z_standard_error,
            entropy=entropy,
            training_loss=training_loss,
            held_out_loss=held_out_loss,
            gradient_norm=fit.gradient_norm,
            num_failed=jnp.sum(jnp.isnan(buffer.log_p)).astype(jnp.int32),
            num_skipped_updates=fit.num_skipped_updates,
            observed=None if observe is None else observe(buffer.u, log_weights),
        )
        return CMTState(key, params, iterate, optimizer_state, path, next_dual, state.annealing_step + 1), info

    def _step_reached(params: Params, old_params: Params, key: PRNGKeyArray) -> tuple[Array, Array]:
        def chunk(key: PRNGKeyArray, size: int) -> tuple[Array, Array]:
            u, log_q_u = flow.sample_and_log_prob(params, key, size)
            # Only the log-determinant is used: the positions are never computed.
            return log_q_u - flow.log_prob(old_params, u), log_q_u - target.to_physical(u)[1]

        log_ratio, log_q = in_chunks(chunk, key, config.num_diagnostic_samples, config.chunk_size)
        return jnp.mean(log_ratio), -jnp.mean(log_q)

    def _held_out_loss(params: Params, buffer: Buffer, log_weights: Array) -> Array:
        split = config.num_training_samples
        if split == config.buffer_size:
            return jnp.full((), jnp.nan)
        _, sums = batch_sums(flow, params, buffer.u[split:], log_weights[split:])
        return sums.weighted_loss / sums.weight

    def _trained_loss(params: Params, buffer: Buffer, log_weights: Array) -> Array:
        num_points = min(config.buffer_size - config.num_training_samples, config.num_training_samples)
        _, sums = batch_sums(flow, params, buffer.u[:num_points], log_weights[:num_points])
        return sums.weighted_loss / sums.weight

    return Method(init, update, config.buffer_size, config.num_gradient_steps)


def _mean_where(values: Array, valid: Array) -> Array:
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(jnp.sum(valid), 1)
