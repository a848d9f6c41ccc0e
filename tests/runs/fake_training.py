"""A program with the loop of a real training in small, for the test that kills it: ``fake_training.py WORKDIR``."""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtjax.runs import open_run

NUM_STEPS = 25
CONFIG = {"seed": 3, "method": {"num_steps": NUM_STEPS}}

_optimizer = optax.adam(1e-2)


class State(NamedTuple):
    params: dict
    optimizer_state: optax.OptState
    key: jax.Array
    num_updates: jax.Array


def init(key):
    params = {"dense": {"kernel": jnp.ones((30, 40)), "bias": jnp.zeros(40)}}
    return State(params, _optimizer.init(params), key, jnp.zeros((), jnp.int32))


@jax.jit
def update(state):
    key, subkey = jax.random.split(state.key)
    x = jax.random.normal(subkey, (8, 30))

    def loss_fn(params):
        return jnp.mean((x @ params["dense"]["kernel"] + params["dense"]["bias"]) ** 2)

    loss, gradient = jax.value_and_grad(loss_fn)(state.params)
    updates, optimizer_state = _optimizer.update(gradient, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, optimizer_state, key, state.num_updates + 1), loss


def train(workdir):
    with open_run(workdir, CONFIG) as run:
        if run.is_finished:
            print("finished", flush=True)
            return
        done, state = run.restore_checkpoint(jax.eval_shape(init, jax.random.key(3))) or (0, init(jax.random.key(3)))
        print(f"from {done}", flush=True)
        for step in range(done + 1, NUM_STEPS + 1):
            state, loss = update(state)
            run.append_metrics({"loss": loss, "annealing_step": step, "num_updates": state.num_updates})
            run.append_timings({"annealing_step": step, "seconds": 0.5})
            run.append_ramachandran(step, {"counts": np.full((1, 2, 2), state.num_updates, np.int32)})
            run.save_checkpoint(step, state)
            print(f"done {step}", flush=True)
        run.write_summary({"loss": loss})


if __name__ == "__main__":
    train(sys.argv[1])
