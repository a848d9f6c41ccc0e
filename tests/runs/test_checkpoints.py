"""Checkpoints: bit-exact round trips, retention, damage, templates that do not fit."""

import logging
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtjax.runs import (
    DamagedCheckpointError,
    RunDirectoryError,
    checkpoints,
    load_checkpoint,
    open_run,
    restore_params,
)

CONFIG = {"seed": 0}


class State(NamedTuple):
    params: dict
    optimizer_state: optax.OptState
    key: jax.Array
    old_key: jax.Array
    extras: dict


def _state(seed=0):
    rng = np.random.default_rng(seed)
    params = {"Dense_0": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "bias": jnp.zeros(4)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-3, 10)))
    return State(
        params=params,
        optimizer_state=optimizer.init(params),
        key=jax.random.split(jax.random.key(seed), 2),
        old_key=jax.random.key(seed, impl="rbg"),
        extras={
            "bfloat16": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
            "bool": jnp.asarray([True, False]),
            "count": jnp.asarray(2**31 - 1, jnp.int32),
            "empty": jnp.zeros((0, 3)),
            "float64": np.asarray(rng.normal(size=3)),
            "int64": np.asarray(2**62 + seed),
            "with.dot/and slash": np.asarray([np.nan, -0.0, np.inf, 1e-45], np.float32),
            "with": {"dot": np.zeros(2, np.uint32)},
            "complex": jnp.asarray([1 + 2j], jnp.complex64),
            "nothing": None,
            "pair": (np.float32(0.1), np.ones((2, 1), np.float16)),
        },
    )


def _assert_identical(actual, expected):
    """Same structure, dtypes and bytes, NaN payloads and signs of zero included."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("as_shapes", [False, True])
def test_round_trip_is_bit_exact(tmp_path, as_shapes):
    state = _state()
    with open_run(tmp_path, CONFIG) as run:
        assert run.restore_checkpoint(state) is None
        run.save_checkpoint(7, state)
        if as_shapes:  # what programs have before the first step; it makes jax arrays of all leaves
            jax_state = state._replace(extras={"bool": state.extras["bool"]})
            run.save_checkpoint(8, jax_state)
            step, restored = run.restore_checkpoint(jax.eval_shape(lambda: jax_state))
            assert step == 8
            _assert_identical(restored, jax_state)
        else:
            step, restored = run.restore_checkpoint(_state(seed=1))
            assert step == 7
            _assert_identical(restored, state)
            # A restored key draws the same numbers.
            np.testing.assert_array_equal(jax.random.normal(restored.old_key), jax.random.normal(state.old_key))


def test_restored_state_can_be_donated(tmp_path):
    checkpoints.save(tmp_path, 1, _state().params)
    _, restored = checkpoints.load_newest(tmp_path, _state().params)
    doubled = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)(restored)
    chex.assert_trees_all_equal(doubled, jax.tree.map(lambda x: 2 * x, _state().params))


def test_parameters_can_be_read_alone(tmp_path):
    state = _state()
    with open_run(tmp_path, CONFIG) as run:
        run.save_checkpoint(3, state)
    step, params = restore_params(tmp_path)
    assert step == 3
    _assert_identical(params, jax.tree.map(np.asarray, state.params))
    step, params = restore_params(tmp_path, jax.eval_shape(lambda: state.params))
    _assert_identical(params, state.params)
    with pytest.raises(RunDirectoryError, match=r"Dense_0/bias is float32\[4\], not float32\[5\]"):
        restore_params(tmp_path, {"Dense_0": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(5)}})
    with open_run(tmp_path, CONFIG) as run:
        run.save_checkpoint(4, {"weights": jnp.zeros(2)})
    with pytest.raises(RunDirectoryError, match="no entry 'params'"):
        restore_params(tmp_path)


def test_newest_two_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, step)})
    assert checkpoints.steps(tmp_path) == [15, 20]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["000015", "000020"]
    # A run that went back to an earlier step gives the later ones up.
    checkpoints.save(tmp_path, 17, {"x": jnp.full(2, 17)})
    assert checkpoints.steps(tmp_path) == [15, 17]
    checkpoints.save(tmp_path, 17, {"x": jnp.full(2, 99)})
    assert checkpoints.steps(tmp_path) == [15, 17]
    step, state = checkpoints.load_newest(tmp_path, {"x": jnp.zeros(2, int)})
    assert (step, state["x"].tolist()) == (17, [99, 99])


def test_a_run_can_go_back_further_than_its_newest_checkpoint(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        for step in (1, 2, 3):
            run.append_metrics({"annealing_step": step, "loss": 1.0 / step})
            run.save_checkpoint(step, {"x": jnp.full(2, step)})
        template = {"x": jnp.zeros(2, int)}
        directory = run.checkpoints_directory
        assert [checkpoints.load_newest(directory, template, step)[0] for step in (2, 3, 4, None)] == [2, 3, 3, 3]
        assert checkpoints.load_newest(directory, template, 1) is None
        assert checkpoints.steps(directory) == [2, 3]  # reading removes nothing
        step, state = run.restore_checkpoint(template, max_step=2)
        assert (step, state["x"].tolist()) == (2, [2, 2])
        assert run.read_metrics()["annealing_step"].tolist() == [1, 2]
        assert checkpoints.steps(directory) == [2]
        run.append_metrics({"annealing_step": 3, "loss": 0.0})
        assert run.restore_checkpoint(template, max_step=0) is None
        assert run.read_metrics() == {}
        assert checkpoints.steps(directory) == []


def _files(directory):
    return sorted((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _flip_byte(directory):
    largest = _files(directory)[-1]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)


def _truncate(directory):
    largest = _files(directory)[-1]
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _delete_largest(directory):
    _files(directory)[-1].unlink()


def _delete_manifest(directory):
    for path in (directory / "manifest").iterdir():
        path.unlink()


def _delete_all(directory):
    for path in _files(directory):
        path.unlink()


@pytest.mark.parametrize("damage", [_flip_byte, _truncate, _delete_largest, _delete_manifest, _delete_all])
def test_damaged_newest_falls_back_with_a_warning(tmp_path, caplog, damage):
    rng = np.random.default_rng(0)
    states = {step: {"params": rng.normal(size=(50, 50)).astype(np.float32)} for step in (1, 2)}
    with open_run(tmp_path, CONFIG) as run:
        for step, state in states.items():
            run.append_metrics({"annealing_step": step, "loss": 1.0 / step})
            run.append_timings({"annealing_step": step, "seconds": 2.0})
            run.save_checkpoint(step, state)
        damage(run.checkpoints_directory / "000002")
        step, state = run.restore_checkpoint(states[1])
        assert step == 1
        _assert_identical(state, states[1])
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "000002 is damaged" in caplog.text
        assert run.read_metrics()["annealing_step"].tolist() == [1]
        assert run.read_timings()["annealing_step"].tolist() == [1]
        # The lost step is done again in the ordinary way.
        run.append_metrics({"annealing_step": 2, "loss": 0.5})
        run.save_checkpoint(2, states[2])
        assert run.restore_checkpoint(states[1])[0] == 2
        # Nothing whole: say so rather than begin anew silently.
        for name in ("000001", "000002"):
            damage(run.checkpoints_directory / name)
        with pytest.raises(RunDirectoryError, match="every checkpoint"):
            run.restore_checkpoint(states[1])


def test_leftovers_of_killed_saves_are_ignored_and_removed(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        run.save_checkpoint(1, {"x": jnp.ones(2)})
    leftover = run.checkpoints_directory / "000002.orbax-checkpoint-tmp"
    (leftover / "arrays").mkdir(parents=True)
    assert load_checkpoint(tmp_path, {"x": jnp.ones(2)})[0] == 1
    assert leftover.exists()  # readers do not write
    open_run(tmp_path, CONFIG).close()
    assert not leftover.exists()


def test_template_that_does_not_fit_is_no_damage(tmp_path):
    checkpoints.save(tmp_path, 1, {"a": jnp.zeros(2), "key": jax.random.key(0)})
    for template, match in (
        ({"a": jnp.zeros(2)}, "key is not expected"),
        ({"a": jnp.zeros(2), "key": jax.random.key(0), "b": jnp.zeros(1)}, "b is missing"),
        ({"a": jnp.zeros(2, int), "key": jax.random.key(0)}, r"a is float32\[2\], not int32\[2\]"),
        ({"a": jnp.zeros(2), "key": jax.random.key(0, impl="rbg")}, r"key is key<fry>\[\], not key<rbg>\[\]"),
    ):
        with pytest.raises(RunDirectoryError, match=match) as error:
            checkpoints.load_newest(tmp_path, template)
        assert not isinstance(error.value, DamagedCheckpointError)


def test_leaves_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 3 at state/count"):
        checkpoints.save(tmp_path, 1, {"state": {"count": 3}})
    assert checkpoints.steps(tmp_path) == []


def test_row_after_its_checkpoint_is_refused(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        run.save_checkpoint(1, {"x": jnp.ones(2)})
        with pytest.raises(ValueError, match="must be appended before checkpoint 1"):
            run.append_metrics({"annealing_step": 1, "loss": 1.0})
        with pytest.raises(ValueError, match="must be appended before checkpoint 1"):
            run.append_ramachandran(1, {"counts": np.ones((1, 2, 2))})
        run.append_metrics({"annealing_step": 2, "loss": 1.0})
