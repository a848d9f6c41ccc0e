"""Langevin dynamics and replica exchange by OpenMM: against closed forms; resuming, failing and ending."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import hypothesis
import numpy as np
import openmm
import pytest
from hypothesis import strategies

from cmtjax.mcmc.neighbor_exchange import exchange_neighbors, exchange_probability
from cmtjax.mcmc.openmm_dynamics import OpenMMDynamics, default_time_step_fs
from cmtjax.units import thermal_energy_kj_mol

MASSES = 5.0 + np.arange(20)
SPRING_KJ_MOL_NM2 = 1000.0


def tethered_system() -> openmm.System:
    """Particles of different masses, each on a spring to the origin."""
    system = openmm.System()
    force = openmm.CustomExternalForce("0.5 * k * (x^2 + y^2 + z^2)")
    force.addGlobalParameter("k", SPRING_KJ_MOL_NM2)
    for index, mass in enumerate(MASSES):
        system.addParticle(mass)
        force.addParticle(index, [])
    system.addForce(force)
    return system


def two_well_energy(x, y=0.0, z=0.0):
    return 20.0 * ((x / 0.3) ** 2 - 1) ** 2 + 1.0 * x / 0.3 + 500.0 * (y**2 + z**2)


def two_well_system() -> openmm.System:
    """A particle in two wells at x = ±0.3 nm, the right one higher by 0.8 kT at 300 K, behind a barrier of 8 kT."""
    system = openmm.System()
    system.addParticle(10.0)
    force = openmm.CustomExternalForce("20 * ((x / 0.3)^2 - 1)^2 + x / 0.3 + 500 * (y^2 + z^2)")
    force.addParticle(0, [])
    system.addForce(force)
    return system


def tethered(**changes) -> OpenMMDynamics:
    settings = {"num_chains": 2, "num_workers": 2, "platform": "Reference", "time_step_fs": 5.0, "seed": 3}
    arguments = {"system": tethered_system(), "positions_nm": np.zeros((len(MASSES), 3))}
    return OpenMMDynamics(**(arguments | {"temperatures_kelvin": [300.0, 450.0]} | settings | changes))


def test_equipartition():
    potential, kinetic = [], []
    # Angular frequencies of 6 to 14 per ps: with this friction a block of 1 ps forgets where it began.
    with tethered(friction_per_ps=10.0) as dynamics:
        for _ in range(60):
            positions_nm, energies_kj_mol = dynamics.advance(200)
            np.testing.assert_allclose(
                energies_kj_mol, 0.5 * SPRING_KJ_MOL_NM2 * (positions_nm**2).sum(axis=(2, 3)), rtol=1e-12
            )
            velocities = dynamics.state()["velocities_nm_per_ps"]
            potential.append(energies_kj_mol)
            kinetic.append(0.5 * (MASSES[:, None] * velocities**2).sum(axis=(2, 3)))
    expected = 1.5 * len(MASSES) * np.array([thermal_energy_kj_mol(300.0), thermal_energy_kj_mol(450.0)])
    # A draw's relative spread is √(2 / degrees of freedom); 5 standard errors of 120 draws, and the integrator's error
    # in the kinetic energy, (ω Δt)² / 4 = 0.1 %.
    tolerance = 5 * np.sqrt(2 / (3 * len(MASSES)) / 120) + 2e-3
    np.testing.assert_allclose(np.mean(potential[5:], axis=(0, 1)), expected, rtol=tolerance)
    np.testing.assert_allclose(np.mean(kinetic[5:], axis=(0, 1)), expected, rtol=tolerance)


def test_exchange_carries_replicas_over_a_barrier():
    temperatures = [300.0, 600.0, 1200.0]
    is_right = []
    start_nm = np.zeros((8, 3, 1, 3))
    start_nm[..., 0] = np.where(np.arange(8) < 4, -0.3, 0.3)[:, None, None]
    with OpenMMDynamics(
        two_well_system(),
        start_nm,
        temperatures,
        num_chains=8,
        num_workers=2,
        platform="Reference",
        time_step_fs=10.0,
        friction_per_ps=5.0,
        seed=0,
    ) as dynamics:
        accepted = []
        for _ in range(100):
            dynamics.advance(300)
            accepted.append(dynamics.exchange().is_accepted)
            is_right.append(dynamics.state()["positions_nm"][..., 0, 0] > 0)
        walkers = dynamics.state()["walkers"]
    # Every replica is still somewhere, and some have moved.
    np.testing.assert_array_equal(np.sort(walkers, axis=1), np.tile([0, 1, 2], (8, 1)))
    assert (walkers != [0, 1, 2]).any()
    assert np.mean(accepted, axis=(0, 1)).min() > 0.1
    is_right = np.array(is_right[20:])
    x = np.linspace(-0.8, 0.8, 4001)
    for rung, temperature in enumerate(temperatures):
        weights = np.exp(-two_well_energy(x) / thermal_energy_kj_mol(temperature))
        expected = weights[x > 0].sum() / weights.sum()
        of_chains = is_right[..., rung].mean(axis=0)
        # Four standard errors of the mean over independent chains. The second line fails where the coldest replicas
        # stay in their wells, as they do without exchange.
        standard_error = of_chains.std(ddof=1) / np.sqrt(8)
        assert abs(of_chains.mean() - expected) < 4 * standard_error
        assert standard_error < 0.05


energies = strategies.floats(-300.0, 300.0)
temperatures = strategies.floats(250.0, 1300.0)
kinetic_energies = strategies.floats(0.0, 300.0)


@hypothesis.given(energies, energies, kinetic_energies, kinetic_energies, temperatures, temperatures)
def test_exchange_probability_is_the_ratio_of_joint_densities(energy, other, kinetic, other_kinetic, cold, hot):
    kt, other_kt = thermal_energy_kj_mol(cold), thermal_energy_kj_mol(hot)
    before = -(energy + kinetic) / kt - (other + other_kinetic) / other_kt
    # Kinetic energies scale with the squares of velocities; the volume of the map is one.
    after = -(other + other_kinetic * cold / hot) / kt - (energy + kinetic * hot / cold) / other_kt
    # Differences of exponents up to 300 cost digits.
    np.testing.assert_allclose(
        exchange_probability(energy, other, cold, hot), np.exp(min(after - before, 0.0)), rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize("first_pair", [0, 1])
def test_exchanges_happen_with_their_probability_between_the_pairs_in_turn(first_pair):
    chains, temperatures_kelvin = 4000, np.array([300.0, 340.0, 390.0, 450.0])
    energies_kj_mol = np.tile([0.0, 6.0, 5.0, 20.0], (chains, 1))
    info, source = exchange_neighbors(np.random.default_rng(0), energies_kj_mol, temperatures_kelvin, first_pair)
    np.testing.assert_array_equal(info.is_attempted, [first_pair == 0, first_pair == 1, first_pair == 0])
    for low in range(3):
        if info.is_attempted[low]:
            expected = exchange_probability(*energies_kj_mol[0, low : low + 2], *temperatures_kelvin[low : low + 2])
            assert 0.3 < expected <= 1.0
            # five standard errors of a share of 4000
            assert abs(info.is_accepted[:, low].mean() - expected) < 5 * np.sqrt(0.25 / chains)
            np.testing.assert_array_equal(info.is_accepted[:, low], source[:, low] == low + 1)
            np.testing.assert_array_equal(info.is_accepted[:, low], source[:, low + 1] == low)
        else:
            assert not info.is_accepted[:, low].any()
            assert np.isnan(info.acceptance[:, low]).all()
    np.testing.assert_array_equal(np.sort(source, axis=1), np.tile(np.arange(4), (chains, 1)))


def test_an_exchange_swaps_replicas_and_scales_velocities():
    with tethered(num_chains=12) as dynamics:
        dynamics.advance(50)
        before = dynamics.state()
        info = dynamics.exchange()
        after = dynamics.state()
    swapped = info.is_accepted[:, 0]
    assert 0 < swapped.sum() < 12
    factors = np.sqrt(np.array([300.0 / 450.0, 450.0 / 300.0]))[:, None, None]
    for name, scale in (("positions_nm", 1.0), ("velocities_nm_per_ps", factors)):
        np.testing.assert_array_equal(after[name][~swapped], before[name][~swapped])
        np.testing.assert_array_equal(after[name][swapped], before[name][swapped][:, ::-1] * scale)
    np.testing.assert_array_equal(after["walkers"], np.where(swapped[:, None], [1, 0], [0, 1]))
    np.testing.assert_array_equal(after["energies_kj_mol"][swapped], before["energies_kj_mol"][swapped][:, ::-1])


def run(dynamics, num_blocks):
    for _ in range(num_blocks):
        dynamics.advance(20)
        dynamics.exchange()
    return dynamics.state()


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_resuming_gives_the_same_numbers_with_any_number_of_workers(platform):
    with tethered(platform=platform) as dynamics:
        middle = run(dynamics, 2)
        end = run(dynamics, 2)
    with tethered(platform=platform, num_workers=1) as dynamics:
        dynamics.set_state(middle)
        resumed = run(dynamics, 2)
    for name, array in end.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    assert not np.array_equal(middle["positions_nm"], end["positions_nm"])
    # Chains and temperatures have noise of their own.
    velocities = end["velocities_nm_per_ps"].reshape(4, -1)
    assert np.abs(np.corrcoef(velocities) - np.eye(4)).max() < 0.6


def test_another_seed_gives_other_numbers():
    states = []
    for seed in (0, 1):
        with tethered(seed=seed, num_workers=1) as dynamics:
            states.append(run(dynamics, 1)["positions_nm"])
    assert np.abs(states[0] - states[1]).max() > 1e-3


def test_constraints_are_kept_and_set_the_time_step():
    system = openmm.System()
    for _ in range(2):
        system.addParticle(12.0)
    assert default_time_step_fs(system) == 1.0
    system.addConstraint(0, 1, 0.15)
    assert default_time_step_fs(system) == 2.0
    # Starts off the constraint, and no platform given.
    start = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.151]])
    with OpenMMDynamics(system, start, [300.0], num_chains=1, num_workers=1, seed=0) as dynamics:
        assert dynamics.platform_name in ("Reference", "CPU")
        assert dynamics.time_step_fs == 2.0
        positions_nm, _ = dynamics.advance(50)
    distance = np.linalg.norm(positions_nm[0, 0, 1] - positions_nm[0, 0, 0])
    assert distance == pytest.approx(0.15, abs=1e-6)  # the integrator's tolerance


def test_death_of_a_worker_is_an_error():
    with tethered() as dynamics:
        dynamics.advance(10)
        before = dynamics.state()
        victim = dynamics._workers._processes[0]
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(timeout=10)
        start = time.monotonic()
        with pytest.raises(RuntimeError, match=r"worker 0 of 2 .* died with exit code -9"):
            dynamics.advance(10)
        assert time.monotonic() - start < 10
        with pytest.raises(RuntimeError, match="closed: a block did not finish"):
            dynamics.advance(10)
        np.testing.assert_array_equal(dynamics.state()["positions_nm"], before["positions_nm"])


def test_dynamics_that_explodes_is_an_error_with_the_workers_traceback():
    with (
        tethered(time_step_fs=5000.0) as dynamics,
        pytest.raises(RuntimeError, match=r"(?s)chain \d at .* K failed:.*Traceback.*(NaN|nan|inf)"),
    ):
        dynamics.advance(2000)


def test_a_system_that_cannot_be_set_up_is_an_error():
    system = tethered_system()
    force = openmm.CustomExternalForce("unknown * x")
    force.addParticle(0, [])
    system.addForce(force)
    with pytest.raises(RuntimeError, match=r"(?s)failed to set up.*unknown"):
        tethered(system=system)


def test_workers_end_with_their_parent():
    script = (
        "import os, numpy as np, openmm\n"
        "from cmtjax.mcmc.openmm_dynamics import OpenMMDynamics\n"
        "system = openmm.System()\n"
        "system.addParticle(1.0)\n"
        "dynamics = OpenMMDynamics(system, np.zeros((1, 3)), [300.0], num_chains=1, num_workers=2, seed=0)\n"
        "print(*[process.pid for process in dynamics._workers._processes], flush=True)\n"
        "os._exit(4)\n"
    )
    # From standard input: there is no main module that a worker could run again.
    process = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert process.returncode == 4, process.stderr
    pids = [int(word) for word in process.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures_kelvin": [450.0, 300.0]}, "temperatures_kelvin must be positive and increasing"),
        ({"temperatures_kelvin": []}, "temperatures_kelvin must be positive and increasing"),
        ({"positions_nm": np.zeros((3, 3))}, r"positions_nm must be finite, \(20, 3\) or \(2, 2, 20, 3\)"),
        ({"positions_nm": np.full((20, 3), np.nan)}, "positions_nm must be finite"),
        ({"num_chains": 0}, "num_chains must be an integer of at least 1, got 0"),
        ({"num_workers": 0}, "num_workers"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"platform": "CUDA"}, "platform must be one of"),
        ({"time_step_fs": 0.0}, "time_step_fs must be positive"),
        ({"friction_per_ps": -1.0}, "friction_per_ps must be positive"),
    ],
)
def test_impossible_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        tethered(**changes)


def test_impossible_calls():
    with tethered(num_workers=1) as dynamics:
        with pytest.raises(ValueError, match="call advance before"):
            dynamics.exchange()
        with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
            dynamics.advance(0)
        state = dynamics.state()
        with pytest.raises(ValueError, match="it lacks"):
            dynamics.set_state({"positions_nm": state["positions_nm"]})
        with pytest.raises(ValueError, match="walkers must have shape"):
            dynamics.set_state(state | {"walkers": np.zeros(3)})
