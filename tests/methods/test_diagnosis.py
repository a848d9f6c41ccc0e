import numpy as np
import pytest

from cmtjax.annealing import describe_status
from cmtjax.methods import CMTInfo, describe_problems

# A step of the quick dipeptide as it should be.
HEALTHY = dict.fromkeys(CMTInfo._fields, 0.0) | {
    "kl": 0.35, "kl_reached": 0.33, "training_loss": -40.2, "held_out_loss": -40.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ()),
        ({"held_out_loss": -38.7}, ("1.5 nats above", "overfits")),
        ({"held_out_loss": np.nan}, ()),  # nothing held out
        ({"kl": 0.1, "kl_reached": 0.49}, ()),
        ({"kl": 0.1, "kl_reached": 1.01}, ("moved by 1.01 nats where 0.10", "ELBO")),
        ({"kl_reached": np.inf}, ("moved by inf nats",)),
        ({"kl_reached": np.nan}, ("moved by nan nats",)),
        ({"kl": np.nan, "kl_reached": 9.0}, ()),  # nothing was asked for
        ({"num_failed": 3}, ("3 failed energy evaluations",)),
        ({"num_skipped_updates": 7}, ("7 skipped updates",)),
        ({"dual_status": 1}, (describe_status(1),)),
    ],
)
def test_a_step_is_described(changes, words):
    problems = describe_problems(HEALTHY | changes)
    assert len(problems) == bool(words)
    for word in words:
        assert word in problems[0]


def test_all_problems_are_named():
    assert len(describe_problems(HEALTHY | {"kl_reached": 9.0, "num_failed": 1, "held_out_loss": 0.0})) == 3
