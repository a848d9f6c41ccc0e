"""What a method needs to know of the density that it samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from cmtjax.coordinates.domain import Domain


class Target(NamedTuple):
    """An unnormalized density of physical points and its map from the unit box.

    Attributes:
      domain: what the box is.
      to_physical: u (…, d) -> physical points (…, *event) and log|dx/du| (…,).
      from_physical: physical points (…, *event) -> u (…, d) (unclipped), log|dx/du| of ``to_physical`` there (…,),
        and whether the point lies in the box, (…,) bool.
      log_prob: physical points (…, *event) -> log p̃ (…,) with respect to the physical measure, up to a constant;
        NaN marks a failed evaluation, +inf never occurs.
    """

    domain: Domain
    to_physical: Callable[[Array], tuple[Array, Float[Array, "*batch"]]]
    from_physical: Callable[[Array], tuple[Float[Array, "*batch d"], Float[Array, "*batch"], Bool[Array, "*batch"]]]
    log_prob: Callable[[Array], Float[Array, "*batch"]]


def tempered(target: Target, factor: float) -> Target:
    """The target at ``factor`` times its temperature: log p̃ / factor.

    Args:
      target: the target at its own temperature.
      factor: positive; 4.0 makes 1200 K of 300 K.

    Raises:
      ValueError: if the factor is not positive and finite.
    """
    if not 0.0 < factor < float("inf"):
        raise ValueError(f"factor must be positive and finite, got {factor!r}.")
    return target._replace(log_prob=lambda x: target.log_prob(x) / factor)
