"""Replica exchange on the device: many ladders of temperatures in one batch, moved by HMC on the box.

The density of rung k is p̃(x)^(1/f_k) |dx/du|: the target at f_k times its temperature, with its volume factor, on the
box of a flow. So constrained bonds, half-range torsions and windows are those of the flow, and every move is
Metropolized: there is no error of a step size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cmtjax.mcmc.hmc import Point, hmc_move
from cmtjax.targets.target import Target

#: The papers' replica-exchange temperatures in kelvin (TA-BG, Table 4; CMT, D.2).
TEMPERATURES_KELVIN = (300.0, 332.0, 368.0, 408.0, 451.0, 500.0)


@dataclasses.dataclass(frozen=True)
class ReplicaExchangeConfig:
    """Sizes of the moves.

    Attributes:
      num_leapfrog_steps: gradients a trajectory.
      moves_per_sweep: trajectories between two attempts to exchange.
      target_acceptance: of the trajectories; warm-up adapts the step size of each temperature to it.
      step_size_jitter: half the width of the interval around 1 from which each trajectory's step size is drawn, which
        keeps trajectories from closing upon themselves.
    """

    num_leapfrog_steps: int = 8
    moves_per_sweep: int = 2
    target_acceptance: float = 0.8
    step_size_jitter: float = 0.3

    def __post_init__(self) -> None:
        for name in ("num_leapfrog_steps", "moves_per_sweep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if not 0.0 < self.target_acceptance < 1.0:
            raise ValueError(f"target_acceptance must be in (0, 1), got {self.target_acceptance!r}.")
        if not 0.0 <= self.step_size_jitter < 1.0:
            raise ValueError(f"step_size_jitter must be in [0, 1), got {self.step_size_jitter!r}.")


class Evaluation(NamedTuple):
    """The two parts of every rung's log density at a point, apart, so that an exchange needs no evaluation.

    Attributes:
      log_p: (…) log p̃ at the target's own temperature.
      log_det: (…) log|dx/du|.
      log_p_gradient: (…, d) with respect to u.
      log_det_gradient: (…, d).
    """

    log_p: Float[Array, "*batch"]
    log_det: Float[Array, "*batch"]
    log_p_gradient: Float[Array, "*batch d"]
    log_det_gradient: Float[Array, "*batch d"]


class ReplicaExchangeState(NamedTuple):
    """Everything that the next sweep depends on.

    Attributes:
      key: random key of all sweeps to come.
      u: (ladders, temperatures, d) points of the box.
      evaluated: of u, (ladders, temperatures, …).
      walker: (ladders, temperatures) int32, which of a ladder's walkers is at a temperature; they begin in order.
      last_end: (ladders, walkers) int32, the end that a walker visited last: 0 neither, 1 coldest, 2 hottest.
      num_round_trips: (ladders,) int32, journeys from the coldest temperature to the hottest and back.
      log_step_size: (temperatures,) log of the leapfrog step, in units of the scale.
      mean_square_gradient: (temperatures, d) of the rung's log density, whose root is one over the scale: the diagonal
        of the Fisher information, which for a Gaussian is that of the inverse covariance.
      num_sweeps: () int32.
    """

    key: PRNGKeyArray
    u: Float[Array, "ladders temperatures d"]
    evaluated: Evaluation
    walker: Int[Array, "ladders temperatures"]
    last_end: Int[Array, "ladders temperatures"]
    num_round_trips: Int[Array, " ladders"]
    log_step_size: Float[Array, " temperatures"]
    mean_square_gradient: Float[Array, "temperatures d"]
    num_sweeps: Int[Array, ""]


class SweepInfo(NamedTuple):
    """What happened in a sweep, averaged over the ladders.

    Attributes:
      acceptance: (temperatures,) mean acceptance probability of the trajectories.
      exchange: (temperatures − 1,) mean acceptance probability of the exchange of neighbors k and k + 1; NaN where
        this sweep did not try that pair.
    """

    acceptance: Float[Array, " temperatures"]
    exchange: Float[Array, " neighbors"]


class ReplicaExchange(NamedTuple):
    """Replica exchange as pure functions; the caller jits them.

    Attributes:
      init: key and points (ladders, temperatures, d) -> state.
      update: state and ``is_warm_up`` (a bool, traced or not) -> state after one sweep, and what happened. In warm-up
        step sizes and scales are adapted, and the points are no samples; else they are fixed, and the sweep leaves all
        rungs' densities invariant.
      evaluations_per_sweep: energies with gradients that a sweep of one ladder costs.
    """

    init: Callable[[PRNGKeyArray, Array], ReplicaExchangeState]
    update: Callable[[ReplicaExchangeState, Bool[Array, ""] | bool], tuple[ReplicaExchangeState, SweepInfo]]
    evaluations_per_sweep: int


def replica_exchange(
    target: Target,
    temperature_factors: Sequence[float],
    config: ReplicaExchangeConfig = ReplicaExchangeConfig(),
) -> ReplicaExchange:
    """Parallel tempering (Swendsen and Wang 1986; Geyer 1991) over HMC moves.

    Neighbors exchange in turns, even pairs and odd pairs, which carries walkers along the ladder faster than random
    pairs do (Okabe et al. 2001; Syed et al. 2022).

    Args:
      target: what the coldest rung samples, if its factor is 1.
      temperature_factors: f_k of the rungs in ascending order, temperatures over that of the target; one of them
        alone makes plain HMC.
      config: sizes of the moves.

    Raises:
      ValueError: if the factors are not positive and ascending.
    """
    factors = tuple(float(factor) for factor in temperature_factors)
    if not factors or not all(a < b for a, b in zip((0.0, *factors), (*factors, float("inf")), strict=True)):
        raise ValueError(f"temperature_factors must be positive, finite and ascending, got {temperature_factors!r}.")
    num_temperatures, domain = len(factors), target.domain
    inverse_factors = jnp.asarray([1.0 / factor for factor in factors], jnp.float32)

    def evaluate(u: Float[Array, "n d"]) -> Evaluation:
        log_p, log_p_gradient = _value_and_gradient(lambda v: target.log_prob(target.to_physical(v)[0]), u)
        log_det, log_det_gradient = _value_and_gradient(lambda v: target.to_physical(v)[1], u)
        return Evaluation(log_p, log_det, log_p_gradient, log_det_gradient)

    def rung_density(evaluated: Evaluation, inverse_factor: Array) -> tuple[Array, Array]:
        value = inverse_factor * evaluated.log_p + evaluated.log_det
        return value, inverse_factor[..., None] * evaluated.log_p_gradient + evaluated.log_det_gradient

    def init(key: PRNGKeyArray, u: Float[Array, "ladders temperatures d"]) -> ReplicaExchangeState:
        if u.ndim != 3 or u.shape[1:] != (num_temperatures, domain.num_dims):
            raise ValueError(f"u must have shape (ladders, {num_temperatures}, {domain.num_dims}), got {u.shape}.")
        ladders = u.shape[0]
        evaluated = _unflatten(evaluate(u.reshape(-1, domain.num_dims)), u.shape[:2])
        walker = jnp.broadcast_to(jnp.arange(num_temperatures, dtype=jnp.int32), u.shape[:2])
        return ReplicaExchangeState(
            key=key,
            u=u,
            evaluated=evaluated,
            walker=walker,
            last_end=jnp.zeros_like(walker),
            num_round_trips=jnp.zeros(ladders, jnp.int32),
            log_step_size=jnp.full(num_temperatures, jnp.log(0.5), jnp.float32),
            mean_square_gradient=_mean_square(rung_density(evaluated, inverse_factors)[1]),
            num_sweeps=jnp.zeros((), jnp.int32),
        )

    def update(
        state: ReplicaExchangeState, is_warm_up: Bool[Array, ""] | bool
    ) -> tuple[ReplicaExchangeState, SweepInfo]:
        adapts = jnp.asarray(is_warm_up, jnp.float32)
        ladders = state.u.shape[0]

        def over_chains(values: Array) -> Array:
            """(temperatures, …) -> one row a chain, (ladders · temperatures, …)."""
            return jnp.broadcast_to(values, (ladders, *values.shape)).reshape(-1, *values.shape[1:])

        chain_factors = over_chains(inverse_factors)

        def move(carry: tuple[Point, Array, Array, Array], key: PRNGKeyArray) -> tuple[Any, Array]:
            point, log_step_size, mean_square, count = carry
            jitter_key, move_key = jax.random.split(key)
            low, high = 1.0 - config.step_size_jitter, 1.0 + config.step_size_jitter
            jitter = jax.random.uniform(jitter_key, chain_factors.shape, minval=low, maxval=high)
            point, acceptance = hmc_move(
                move_key,
                point,
                evaluate,
                lambda evaluated: rung_density(evaluated, chain_factors),
                domain,
                over_chains(jnp.exp(log_step_size)) * jitter,
                over_chains(_scale(mean_square)),
                config.num_leapfrog_steps,
            )
            acceptance = jnp.mean(acceptance.reshape(ladders, -1), axis=0)
            error = acceptance - config.target_acceptance
            log_step_size += adapts * 0.5 * jax.lax.rsqrt(1.0 + 0.1 * count) * error
            gradient = rung_density(point.evaluated, chain_factors)[1]
            now = _mean_square(gradient.reshape(ladders, num_temperatures, -1))
            # A mean whose memory is the last third of all moves: the clashes of the start are forgotten.
            mean_square += adapts * 3.0 / (count + 3.0) * (now - mean_square)
            return (point, log_step_size, mean_square, count + 1.0), acceptance

        key, move_key, exchange_key = jax.random.split(state.key, 3)
        point = Point(*(_flatten(part) for part in (state.u, state.evaluated)))
        count = (state.num_sweeps * config.moves_per_sweep).astype(jnp.float32)
        (point, log_step_size, mean_square, _), acceptances = jax.lax.scan(
            move,
            (point, state.log_step_size, state.mean_square_gradient, count),
            jax.random.split(move_key, config.moves_per_sweep),
        )
        shape = state.u.shape[:2]
        chains = (_unflatten(point.u, shape), _unflatten(point.evaluated, shape), state.walker)
        (u, evaluated, walker), exchange = _exchange(
            exchange_key, chains, point.evaluated.log_p.reshape(shape), inverse_factors, state.num_sweeps % 2
        )
        last_end, num_round_trips = _count_round_trips(walker, state.last_end, state.num_round_trips)
        state = ReplicaExchangeState(
            key, u, evaluated, walker, last_end, num_round_trips, log_step_size, mean_square, state.num_sweeps + 1
        )
        return state, SweepInfo(jnp.mean(acceptances, axis=0), exchange)

    return ReplicaExchange(
        init=init,
        update=update,
        evaluations_per_sweep=num_temperatures * config.moves_per_sweep * config.num_leapfrog_steps,
    )


def _value_and_gradient(function: Callable[[Array], Array], u: Float[Array, "n d"]) -> tuple[Array, Array]:
    """Of a function that acts on each row by itself."""
    value, pull_back = jax.vjp(function, u)
    return value, pull_back(jnp.ones_like(value))[0]


def _mean_square(gradient: Float[Array, "ladders temperatures d"]) -> Float[Array, "temperatures d"]:
    is_finite = jnp.isfinite(gradient)
    squares = jnp.where(is_finite, gradient, 0.0) ** 2
    return jnp.sum(squares, axis=0) / jnp.maximum(jnp.sum(is_finite, axis=0), 1)


def _scale(mean_square_gradient: Array) -> Array:
    """At most the width of the box, for dimensions whose density is flat."""
    return jax.lax.rsqrt(jnp.maximum(mean_square_gradient, 1.0))


def _exchange(
    key: PRNGKeyArray,
    chains: Any,
    log_p: Float[Array, "ladders temperatures"],
    inverse_factors: Float[Array, " temperatures"],
    parity: Int[Array, ""],
) -> tuple[Any, Float[Array, " neighbors"]]:
    """Metropolis exchange of the neighbors k and k + 1, k of the given parity.

    Returns:
      ``chains``, a pytree of (ladders, temperatures, …), exchanged; mean acceptance probability, NaN where not tried.
    """
    # The volume factor is the same on both rungs and drops out.
    log_ratio = (inverse_factors[:-1] - inverse_factors[1:]) * (log_p[:, 1:] - log_p[:, :-1])
    probability = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    is_tried = jnp.arange(log_ratio.shape[1]) % 2 == parity
    is_exchanged = is_tried & (jax.random.uniform(key, probability.shape) < probability)
    up = jnp.pad(is_exchanged, ((0, 0), (0, 1))).astype(jnp.int32)
    down = jnp.pad(is_exchanged, ((0, 0), (1, 0))).astype(jnp.int32)
    source = jnp.arange(log_p.shape[1]) + up - down

    def take(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, source.reshape(source.shape + (1,) * (leaf.ndim - 2)), axis=1)

    return jax.tree.map(take, chains), jnp.where(is_tried, jnp.mean(probability, axis=0), jnp.nan)


def _count_round_trips(
    walker: Int[Array, "ladders temperatures"],
    last_end: Int[Array, "ladders walkers"],
    num_round_trips: Int[Array, " ladders"],
) -> tuple[Array, Array]:
    """A round trip ends when a walker that visited the hottest temperature after the coldest is at the coldest again.

    A first arrival from the hottest end is half a trip and not counted, nor is anything with one temperature.
    """
    if walker.shape[1] == 1:
        return last_end, num_round_trips
    row = jnp.arange(walker.shape[0])
    cold, hot = walker[:, 0], walker[:, -1]
    num_round_trips = num_round_trips + (last_end[row, cold] == 2)
    # A walker is marked as hot only if it had been cold.
    last_end = last_end.at[row, cold].set(1)
    last_end = last_end.at[row, hot].set(jnp.where(last_end[row, hot] > 0, 2, 0))
    return last_end, num_round_trips.astype(jnp.int32)


def _flatten(tree: Any) -> Any:
    """(ladders, temperatures, …) -> one row a chain."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _unflatten(tree: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)
