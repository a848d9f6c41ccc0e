"""Regularization of the energies of clashing atoms."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

#: The regularizations, see ``regularize_energy``.
SCHEMES = ("additive_log", "multiplicative_log")


def regularize_energy(
    reduced_energy: Float[Array, "*batch"],
    *,
    high: float = 1e8,
    maximum: float = 1e20,
    scheme: str = "additive_log",
) -> Float[Array, "*batch"]:
    """Lets energies above ``high`` grow only logarithmically.

    Up to ``high`` an energy stays as it is. Above, with E' = min(E, maximum), it becomes

    - ``"additive_log"``: high + log(E' − high + 1), Eq. (22) of Constrained Mass Transport: at most
      ``high`` + 46.05 with the published ``high`` and ``maximum``, the defaults here;
    - ``"multiplicative_log"``: high (1 + log(E' / high)), continuous in value and slope. With ``high`` about 1e3 it
      leaves the Boltzmann weights as they are (e^−1000 = 0) and keeps clashes ordered, so that fewer annealing steps
      are spent on removing them.

    +inf is a clash like any other and lands on the plateau of ``maximum`` with gradient 0. NaN, a failed evaluation,
    stays NaN. In float32 neighbors of 1e8 are 8 apart: the published scheme flattens clashes to a few values there.

    Args:
      reduced_energy: energies over kT at the temperature of the run.
      high: largest energy that is left alone, in kT.
      maximum: energies above are treated as this one, in kT.
      scheme: one of ``SCHEMES``.

    Returns:
      Regularized energies in kT, of the dtype of ``reduced_energy``; gradients are finite wherever the energy is not
      NaN.

    Raises:
      ValueError: unless 0 < high < maximum < inf and the scheme is known.
    """
    if not 0.0 < high < maximum < float("inf"):
        raise ValueError(f"high and maximum must satisfy 0 < high < maximum < inf, got {high!r} and {maximum!r}.")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {SCHEMES}, got {scheme!r}.")
    energy = jnp.asarray(reduced_energy)
    is_high = energy > high
    # The logarithm must not see what its branch is not taken for: an untaken NaN still spoils the gradient.
    clash = jnp.where(is_high, jnp.minimum(energy, maximum), high)
    additive = scheme == "additive_log"
    regularized = high + jnp.log1p(clash - high) if additive else high * (1.0 + jnp.log(clash / high))
    return jnp.where(is_high, regularized, energy)
