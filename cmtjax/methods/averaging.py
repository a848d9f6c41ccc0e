"""A running average of the parameters beside the optimizer's own, as an optax transformation."""

from __future__ import annotations

from typing import NamedTuple

import optax

from cmtjax.flows.flow import Params


class AveragedState(NamedTuple):
    """State of ``average_parameters``.

    Attributes:
      average: the average, a pytree like the parameters.
      optimizer_state: of the optimizer underneath.
    """

    average: Params
    optimizer_state: optax.OptState


def average_parameters(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The same moves, with an exponential moving average of the parameters in the state.

    At a high learning rate the parameters of single steps jitter around those that fit best; their average does not
    (Polyak and Juditsky 1992). It is what ``averaged_params`` gives; gradients are still to be taken at the parameters.

    Args:
      optimizer: an optax transformation.
      decay: a ← decay·a + (1 − decay)·θ in every step, from the initial parameters on; some 1/(1 − decay) steps count.

    Raises:
      ValueError: if decay is not in (0, 1).
    """
    if not 0.0 < decay < 1.0:
        raise ValueError(f"decay must be between 0 and 1, got {decay!r}.")

    def init(params: Params) -> AveragedState:
        return AveragedState(params, optimizer.init(params))

    def update(
        gradient: optax.Updates, state: AveragedState, params: Params | None = None
    ) -> tuple[optax.Updates, AveragedState]:
        moves, optimizer_state = optimizer.update(gradient, state.optimizer_state, params)
        moved = optax.apply_updates(params, moves)
        average = optax.incremental_update(moved, state.average, 1.0 - decay)
        return moves, AveragedState(average, optimizer_state)

    return optax.GradientTransformation(init, update)


def averaged_params(optimizer_state: optax.OptState, params: Params) -> Params:
    """The average of the parameters, or without ``average_parameters`` the parameters themselves."""
    return optimizer_state.average if isinstance(optimizer_state, AveragedState) else params
