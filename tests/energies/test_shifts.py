"""Sums over pairs of atoms against loops over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax.energies.shifts import over_pairs


@pytest.mark.parametrize(
    "num_atoms", [1, 2, 3, 8, 9, 10, 16, 17]
)  # none, one and several groups of shifts, odd and even
def test_every_pair_is_met_once_and_what_is_kept_comes_back(num_atoms):
    # Whole numbers: sums are exact in any order.
    rng = np.random.default_rng(num_atoms)
    values, table = rng.integers(-9, 9, (num_atoms, 2)), rng.integers(-9, 9, (num_atoms, num_atoms))
    x = jnp.asarray(values, jnp.float32)

    def meet(met, tables, _):
        product = tables["table"] * x * met  # not symmetric: of an atom (row) and its partner (column)
        return {"mine": product, "both": product}, {"both": 3.0 * product + tables["table"] * met}, product

    def take(_, tables, kept):
        return {"sum": kept}, {"sum": -kept}, None

    def all_others(met, tables, _):
        return {"sum": tables["table"] * met}, {}, None

    zero = jnp.zeros_like(x)

    @jax.jit
    def run():
        tables = {"table": table.astype(np.float64)}
        sums, kept = over_pairs(meet, {"mine": zero + 1.0, "both": zero}, ("both",), x, tables, x.dtype)
        again, _ = over_pairs(take, {"sum": zero}, ("sum",), x, {}, x.dtype, kept)
        sums["twice"] = over_pairs(all_others, {"sum": zero}, (), x, tables, x.dtype, from_both_sides=True)[0]["sum"]
        return sums, again["sum"]

    sums, again = jax.device_get(run())
    pairs = [(i, (i + s) % num_atoms) for s in range(1, num_atoms // 2 + 1) for i in range(num_atoms)]
    pairs = [pair for n, pair in enumerate(pairs) if set(pair) not in [set(other) for other in pairs[:n]]]
    assert len(pairs) == num_atoms * (num_atoms - 1) // 2
    mine, both, difference = np.ones_like(values), np.zeros_like(values), np.zeros_like(values)
    for i, j in pairs:
        product = table[i, j] * values[i] * values[j]
        mine[i] += product
        both[i] += product
        both[j] += 3 * product + table[i, j] * values[j]
        difference[i] += product
        difference[j] -= product
    np.testing.assert_array_equal(sums["mine"], mine)
    np.testing.assert_array_equal(sums["both"], both)
    np.testing.assert_array_equal(again, difference)
    np.testing.assert_array_equal(sums["twice"], (table - np.diag(np.diag(table))) @ values)
