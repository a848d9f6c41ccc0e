"""solve_dual against float64 root finding on the host, on random problems over ten orders of magnitude."""

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from cmtjax.annealing import describe_status, solve_dual

MAX_LOG_MULTIPLIER = np.log1p(1e10)


class Problem(NamedTuple):
    name: str
    log_q: np.ndarray
    log_p: np.ndarray
    trust_region_bound: float | None
    entropy_bound: float | None


def constrained_quantities(log_q, log_p, trust_region_multiplier, entropy_multiplier):
    """KL(q_{i+1} ‖ q_i), H(q_i) − H(q_{i+1}) and log Z in float64, straight from the definitions."""
    log_q, log_p = np.asarray(log_q, np.float64), np.asarray(log_p, np.float64)
    valid = ~np.isnan(log_p)
    log_q, log_p = log_q[valid], log_p[valid]
    total = 1 + float(trust_region_multiplier) + float(entropy_multiplier)
    exponent = (log_p - (1 + float(entropy_multiplier)) * log_q) / total
    largest = np.max(exponent)
    # In two steps, so that the sums run over numbers near 1 where the weights are nearly equal.
    log_normalizer = largest + np.log(np.mean(np.exp(exponent - largest)))
    weights = np.exp(exponent - log_normalizer)
    weights /= np.sum(weights)
    used = weights > 0
    log_ratio = exponent[used] - log_normalizer
    kl = np.sum(weights[used] * log_ratio)
    entropy = -np.sum(weights[used] * (log_q[used] + log_ratio))
    return kl, -np.mean(log_q) - entropy, log_normalizer


def solve(problem: Problem) -> tuple[float, float]:
    """(λ, η) by nested root finding: the dual, maximized over η, is concave in λ, and each derivative falls."""

    def excess(log_lambda, log_eta):
        kl, decay, _ = constrained_quantities(problem.log_q, problem.log_p, np.expm1(log_lambda), np.expm1(log_eta))
        return kl, decay

    def root(function):
        if function(0.0) <= 0:
            return 0.0
        return brentq(function, 0.0, MAX_LOG_MULTIPLIER, xtol=1e-13, rtol=1e-13)

    def best_eta(log_lambda):
        if problem.entropy_bound is None:
            return 0.0
        return root(lambda log_eta: excess(log_lambda, log_eta)[1] - problem.entropy_bound)

    if problem.trust_region_bound is None:
        log_lambda = 0.0
    else:
        log_lambda = root(lambda x: excess(x, best_eta(x))[0] - problem.trust_region_bound)
    return float(np.expm1(log_lambda)), float(np.expm1(best_eta(log_lambda)))


def random_buffer(rng: np.random.Generator, num_samples: int, spread: float) -> tuple[str, np.ndarray, np.ndarray]:
    """Log-densities in float32 whose log-ratio has about the given standard deviation."""
    num_dims = int(rng.integers(1, 200))
    sharpness = rng.uniform(0, 1)
    log_q = -rng.gamma(num_dims / 2, size=num_samples)  # a standard normal of num_dims dims, up to a constant
    shape = rng.choice(["gaussian", "heavy", "clashes", "modes"])
    if shape == "gaussian":
        noise = rng.normal(size=num_samples)
    elif shape == "heavy":
        noise = rng.standard_t(2.5, size=num_samples)
    elif shape == "clashes":
        # energies as of overlapping atoms: most are high, over many orders of magnitude
        noise = -np.exp(rng.normal(0, 2, size=num_samples)) * (rng.uniform(size=num_samples) < rng.uniform(0.02, 1))
    else:
        noise = np.where(rng.uniform(size=num_samples) < rng.uniform(0.01, 0.99), 0, 5.0) + rng.normal(size=num_samples)
    noise = noise / max(np.std(noise), 1e-3)
    # A part of the log-ratio follows log q, as where the target is sharper than q_i, and moves the entropy.
    standard_log_q = (log_q - np.mean(log_q)) / np.std(log_q)
    log_ratio = spread * (np.sqrt(1 - sharpness**2) * noise + rng.choice([1, -0.3]) * sharpness * standard_log_q)
    log_q = log_q + rng.uniform(-300, 300)
    log_p = log_q + log_ratio + rng.uniform(-100, 100)
    return str(shape), log_q.astype(np.float32), log_p.astype(np.float32)


def random_problem(rng: np.random.Generator, num_samples: int) -> Problem:
    """A problem with both, one or no active constraint, in fair shares."""
    spread = 10 ** rng.uniform(-2, 8)
    shape, log_q, log_p = random_buffer(rng, num_samples, spread)
    kl, decay, _ = constrained_quantities(log_q, log_p, 0, 0)
    kind = rng.choice(["trust region", "entropy", "both", "loose", "tight entropy"])
    # Bounds as in the papers where the problem is wide, in proportion where it is narrow.
    trust_region_bound = min(kl * rng.uniform(0.05, 0.9), rng.uniform(0.1, 3))
    if kind == "loose":
        return Problem(f"{kind} {shape} {spread:.1e}", log_q, log_p, 1.5 * kl, 1.5 * max(decay, 0.1 * kl))
    entropy_bound = max(abs(decay) * rng.uniform(0.05, 0.9), 1e-3 * kl)
    if kind == "trust region":
        return Problem(f"{kind} {shape} {spread:.1e}", log_q, log_p, trust_region_bound, None)
    if kind == "entropy":
        return Problem(f"{kind} {shape} {spread:.1e}", log_q, log_p, None, entropy_bound)
    if kind == "tight entropy":
        # what the trust region alone would give, reduced: both become active where that is positive
        problem = Problem("", log_q, log_p, trust_region_bound, None)
        _, decay, _ = constrained_quantities(log_q, log_p, *solve(problem))
        entropy_bound = max(abs(decay) * rng.uniform(0.2, 0.95), 1e-3 * trust_region_bound)
    return Problem(f"{kind} {shape} {spread:.1e}", log_q, log_p, trust_region_bound, entropy_bound)


@jax.jit
def solve_both(log_q, log_p, trust_region_bound, entropy_bound):
    return solve_dual(log_q, log_p, trust_region_bound, entropy_bound)


@jax.jit
def solve_trust_region(log_q, log_p, trust_region_bound):
    return solve_dual(log_q, log_p, trust_region_bound, None)


@jax.jit
def solve_entropy(log_q, log_p, entropy_bound):
    return solve_dual(log_q, log_p, None, entropy_bound)


def solve_padded(problem: Problem, size: int):
    """Masked samples pad to few sizes: few compilations, and every problem tests the mask."""
    padding = (0, size - problem.log_q.shape[0])
    log_q = np.pad(problem.log_q, padding)
    log_p = np.pad(problem.log_p, padding, constant_values=np.nan)
    if problem.entropy_bound is None:
        return solve_trust_region(log_q, log_p, jnp.float32(problem.trust_region_bound))
    if problem.trust_region_bound is None:
        return solve_entropy(log_q, log_p, jnp.float32(problem.entropy_bound))
    return solve_both(log_q, log_p, jnp.float32(problem.trust_region_bound), jnp.float32(problem.entropy_bound))


def check(problem: Problem, solution) -> tuple[bool, bool]:
    """The optimality conditions in float64 at the float32 multipliers, sufficient since the dual is concave."""
    multipliers = (float(solution.trust_region_multiplier), float(solution.entropy_multiplier))
    kl, decay, log_normalizer = constrained_quantities(problem.log_q, problem.log_p, *multipliers)
    message = f"{problem.name}: {problem.log_q.shape[0]} samples, bounds {problem[3:]}, multipliers {multipliers}"
    assert int(solution.status) == 0, f"{message}: {describe_status(solution.status)}"
    for multiplier, bound, value in zip(multipliers, problem[3:], (kl, decay), strict=True):
        if bound is None:
            assert multiplier == 0, message
        elif multiplier == 0:
            assert value <= bound * (1 + 1e-3), f"{message}: {value} exceeds {bound}"
        else:
            # The accuracy that solve_dual promises; a typical residual is 4e-7, the worst of 5000 was 2e-4.
            assert abs(value / bound - 1) < 1e-3, f"{message}: {value} is not {bound}"
    # The solution's own values are float32 sums of the same terms; nats matter to the third digit.
    np.testing.assert_allclose(solution.kl, kl, rtol=1e-3, atol=1e-5, err_msg=message)
    np.testing.assert_allclose(solution.entropy_decay, decay, rtol=1e-3, atol=1e-4, err_msg=message)
    # log Z is near −log q of size 300 or more, of which float32 keeps seven digits; log p̃ adds its own rounding.
    scale = np.max(np.abs(problem.log_q)) + np.max(np.abs(problem.log_p)) / (1 + sum(multipliers))
    np.testing.assert_allclose(solution.log_normalizer, log_normalizer, atol=1e-5 * scale, err_msg=message)
    return multipliers[0] > 0, multipliers[1] > 0


def test_small_problems_against_root_finding():
    rng = np.random.default_rng(0)
    classes: Counter[tuple[bool, bool]] = Counter()
    num_problems = 240
    for _ in range(num_problems):
        problem = random_problem(rng, int(10 ** rng.uniform(2, 3.3)))
        solution = solve_padded(problem, 2048)
        active = check(problem, solution)
        oracle = solve(problem)
        # An oracle's multiplier of zero must be exactly zero here.
        for multiplier, reference in zip(solution[:2], oracle, strict=True):
            assert (float(multiplier) == 0) == (reference == 0), f"{problem.name}: {solution[:2]}, oracle {oracle}"
        classes[active] += 1
    shares = {
        "both": classes[True, True] / num_problems,
        "one": (classes[True, False] + classes[False, True]) / num_problems,
        "none": classes[False, False] / num_problems,
    }
    # A fair share of each, else the test says little.
    assert min(shares.values()) > 0.1, shares
    assert min(classes[True, False], classes[False, True]) > 0.1 * num_problems, classes


@pytest.mark.parametrize(
    ("num_problems", "log10_samples", "size"),
    [(40, (3.3, 4.6), 40_960), (6, (5.7, 6), 1_000_000)],
    ids=["thousands", "a million"],
)
def test_large_problems_against_float64_residuals(num_problems, log10_samples, size):
    rng = np.random.default_rng(1)
    num_solved = 0
    while num_solved < num_problems:
        problem = random_problem(rng, int(10 ** rng.uniform(*log10_samples)))
        if problem.trust_region_bound is None or problem.entropy_bound is None:
            continue  # these two compile programs of their own, which the small problems cover
        check(problem, solve_padded(problem, size))
        num_solved += 1


@pytest.mark.slow
def test_thousands_of_problems():
    rng = np.random.default_rng(2)
    for _ in range(5000):
        problem = random_problem(rng, int(10 ** rng.uniform(2, 3.3)))
        check(problem, solve_padded(problem, 2048))
