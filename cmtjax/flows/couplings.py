"""Coupling layers: half of the dimensions is transformed by splines whose parameters depend on the other half."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.coordinates.domain import Domain
from cmtjax.flows import splines
from cmtjax.flows.conditioner import Conditioner


@dataclasses.dataclass(frozen=True, eq=False)
class CouplingLayout:
    """Which dimensions a coupling transforms, and how it turns the circle afterwards.

    Attributes:
      transformed: indices of the transformed dimensions, bounded ones first.
      conditioning: indices of the others, bounded ones first.
      num_bounded_transformed: bounded dimensions among ``transformed``.
      num_bounded_conditioning: bounded dimensions among ``conditioning``.
      shift: (d,) added modulo one to the circular dimensions after the coupling; zero on the others.
    """

    transformed: np.ndarray
    conditioning: np.ndarray
    num_bounded_transformed: int
    num_bounded_conditioning: int
    shift: np.ndarray


def coupling_layouts(domain: Domain, num_couplings: int, seed: int) -> list[CouplingLayout]:
    """Random masks and shifts of a flow ([CMT] D.1).

    Couplings come in pairs: the first of a pair transforms a random half of each group of ``domain`` (n // 2 of n
    dimensions), the second the other half. Shifts are uniform on [0, 1), one for every circular dimension after every
    coupling.

    Args:
      domain: the box.
      num_couplings: how many couplings; an odd number leaves the last pair without its second.
      seed: fixes masks and shifts.

    Raises:
      ValueError: if a coupling would have nothing to transform or to condition on.
    """
    rng = np.random.default_rng(seed)
    layouts: list[CouplingLayout] = []
    while len(layouts) < num_couplings:
        first: list[int] = []
        for group in np.unique(domain.groups):
            members = rng.permutation(np.flatnonzero(domain.groups == group))
            first.extend(members[: members.size // 2])
        second = np.setdiff1d(np.arange(domain.num_dims), first)
        if not first or not second.size:
            raise ValueError(
                "domain must have a group of two or more dimensions for couplings to split; "
                f"got groups {domain.groups.tolist()}."
            )
        parts = [_bounded_first(domain, part) for part in (np.array(first), second)]
        for (transformed, bounded_t), (conditioning, bounded_c) in (tuple(parts), tuple(parts[::-1])):
            shift = np.where(domain.is_circular, rng.random(domain.num_dims), 0.0).astype(np.float32)
            layouts.append(CouplingLayout(transformed, conditioning, bounded_t, bounded_c, shift))
    return layouts[:num_couplings]


def _bounded_first(domain: Domain, part: np.ndarray) -> tuple[np.ndarray, int]:
    part = np.sort(part)
    circular = domain.is_circular[part]
    return np.concatenate([part[~circular], part[circular]]), int(np.sum(~circular))


class SplineCoupling(nn.Module):
    """One coupling followed by its circular shift, on arrays (d, n) with the batch last.

    The cheap direction of the spline, ``to_base``, is the one that evaluates densities, and so the one that is trained.

    Attributes:
      layout: masks and shift.
      num_bins: bins of the splines.
      hidden_sizes: of the conditioner.
      feature_scale: of the conditioner.
    """

    layout: CouplingLayout
    num_bins: int
    hidden_sizes: Sequence[int]
    feature_scale: float = 1.0

    def setup(self) -> None:
        """Creates the conditioner."""
        num_bounded = self.layout.num_bounded_transformed
        self.conditioner = Conditioner(
            self.layout.num_bounded_conditioning,
            self.hidden_sizes,
            splines.identity_parameters(self.num_bins, num_bounded, self.layout.transformed.size - num_bounded),
            self.feature_scale,
        )

    def to_base(self, u: Float[Array, "d n"]) -> tuple[Float[Array, "d n"], Float[Array, " n"]]:
        """Data to base direction; returns the point and the log-determinant of this map."""
        u, log_det = self._transform(u, splines.spline_forward)
        return self._turn(u, self.layout.shift), log_det

    def from_base(self, z: Float[Array, "d n"]) -> tuple[Float[Array, "d n"], Float[Array, " n"]]:
        """Base to data direction; the log-determinant returned is that of ``to_base`` at the result."""
        return self._transform(self._turn(z, -self.layout.shift), splines.spline_inverse)

    def _transform(self, u: Array, spline: Callable[..., tuple[Array, Array]]) -> tuple[Array, Array]:
        layout = self.layout
        order = np.concatenate([layout.transformed, layout.conditioning])
        split = layout.transformed.size
        permuted = _take_rows(u, order)
        transformed, conditioning = permuted[:split], permuted[split:]
        transformed, log_slopes = spline(self.conditioner(conditioning), transformed, self.num_bins)
        u = _take_rows(jnp.concatenate([transformed, conditioning]), np.argsort(order))
        return u, jnp.sum(log_slopes, axis=0)

    def _turn(self, u: Array, shift: np.ndarray) -> Array:
        # Only rows with a shift are wrapped: a bounded dimension at exactly 1 must stay there.
        turned = u + shift[:, None]
        return jnp.where((shift != 0.0)[:, None], turned - jax.lax.stop_gradient(jnp.floor(turned)), u)


def _take_rows(x: Array, permutation: np.ndarray) -> Array:
    """x[permutation], whose transpose is again a gather (the default one would be a scatter-add, slow on CPUs)."""

    @jax.custom_vjp
    def take(x: Array) -> Array:
        return x[permutation]

    def forward(x: Array) -> tuple[Array, None]:
        return x[permutation], None

    def backward(_: None, cotangent: Array) -> tuple[Array]:
        return (cotangent[np.argsort(permutation)],)

    take.defvjp(forward, backward)
    return take(x)
