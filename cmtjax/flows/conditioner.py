"""The network that turns the conditioning part of a coupling into spline parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class FeatureFirstDense(nn.Module):
    """A dense layer on arrays whose *first* axis holds the features: W^T x + b.

    Same parameters and names as ``flax.linen.Dense``; splines want their batch last (see ``splines.py``), and a
    matrix product can deliver either order for the same price.

    Attributes:
      features: rows of the output.
      kernel_init: initializer of the (inputs, features) kernel.
      bias_init: initializer of the (features,) bias.
    """

    features: int
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Float[Array, "inputs n"]) -> Float[Array, "features n"]:
        """Applies the layer."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[0], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        return jax.lax.dot_general(kernel, x, (((0,), (0,)), ((), ()))) + bias[:, None]


class Conditioner(nn.Module):
    """A ReLU network ([CMT] D.1); circular inputs enter as cosine and sine.

    The last layer starts with a zero kernel, so that the flow starts as the spline of ``initial_output``.

    Attributes:
      num_bounded: leading rows of the input that are not circular.
      hidden_sizes: widths of the hidden layers.
      initial_output: (rows,) the bias of the last layer at the start.
      feature_scale: bounded inputs u enter as (u − 0.5) · feature_scale + 0.5. The papers feed u itself (scale 1);
        bonds and angles fill a small part of their window, so a larger scale lets the network see them from the first
        step.
    """

    num_bounded: int
    hidden_sizes: Sequence[int]
    initial_output: np.ndarray
    feature_scale: float = 1.0

    @nn.compact
    def __call__(self, u: Float[Array, "dims n"]) -> Float[Array, "rows n"]:
        """Maps points, (dims, n), to raw spline parameters, (rows, n)."""
        bounded, angle = u[: self.num_bounded], 2.0 * jnp.pi * u[self.num_bounded :]
        scaled = (bounded - 0.5) * self.feature_scale + 0.5
        x = jnp.concatenate([scaled, jnp.cos(angle), jnp.sin(angle)])
        for size in self.hidden_sizes:
            x = nn.relu(FeatureFirstDense(size)(x))
        return FeatureFirstDense(
            self.initial_output.size,
            kernel_init=nn.initializers.zeros_init(),
            bias_init=lambda key, shape: jnp.asarray(self.initial_output, jnp.float32).reshape(shape),
        )(x)
