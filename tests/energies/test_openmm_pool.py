"""Values: against bare OpenMM, the reference energies, closed forms and finite differences."""

import json
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest

from cmtjax.energies import OpenMMPool, openmm_worker
from cmtjax.molecules import published

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "reference" / "energies.json").read_text())
DIPEPTIDE = REFERENCE["ACE-ALA-NME/amber96-obc1"]


def chain_system() -> openmm.System:
    """Three particles on two springs: cheap, with energies and forces in closed form."""
    system = openmm.System()
    bonds = openmm.HarmonicBondForce()
    for particle in range(3):
        system.addParticle(1.0)
        if particle:
            bonds.addBond(particle - 1, particle, 0.1, 1000.0)
    system.addForce(bonds)
    return system


def chain_energy(positions: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(np.diff(positions, axis=-2), axis=-1)
    return 500.0 * ((lengths - 0.1) ** 2).sum(-1)


def chain_positions(*batch: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*batch, 3, 3))


def bare_openmm(system: openmm.System, positions: np.ndarray, platform: str) -> tuple[np.ndarray, np.ndarray]:
    properties = {"Threads": "1"} if platform == "CPU" else {}
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform), properties
    )
    energies, forces = [], []
    for configuration in positions:
        context.setPositions(configuration)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole))
        unit = openmm.unit.kilojoule_per_mole / openmm.unit.nanometer
        forces.append(state.getForces(asNumpy=True).value_in_unit(unit))
    return np.array(energies), np.array(forces)


def reference_positions(molecule, reference) -> np.ndarray:
    """The reference's positions in the order of the molecule's atoms."""
    names = [(atom.residue.index, atom.residue.name, atom.name) for atom in molecule.topology.atoms()]
    order = [[tuple(atom) for atom in reference["atoms"]].index(name) for name in names]
    return np.array(reference["positions_nm"])[:, order]


@pytest.fixture(scope="module")
def dipeptide():
    return published("alanine_dipeptide")


@pytest.fixture(scope="module")
def dipeptide_pool(dipeptide):
    with OpenMMPool(dipeptide.system, num_workers=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def chain_pool():
    with OpenMMPool(chain_system(), num_workers=2, platform="Reference") as pool:
        yield pool


def perturbed(molecule, num: int) -> np.ndarray:
    noise = np.random.default_rng(1).normal(scale=0.003, size=(num, *molecule.positions_nm.shape))
    return molecule.positions_nm + noise


def test_reference_energies_and_forces(dipeptide, dipeptide_pool):
    energies, forces = dipeptide_pool.evaluate(reference_positions(dipeptide, DIPEPTIDE), forces=True)
    expected = DIPEPTIDE["energies_kj_mol"]
    # The CPU platform computes in single precision; the reference was made in double.
    np.testing.assert_allclose(energies, [terms["total"] for terms in expected], rtol=1e-6, atol=1e-3)
    norms = np.linalg.norm(forces, axis=(1, 2))
    np.testing.assert_allclose(norms, [terms["force_norm"] for terms in expected], rtol=1e-5)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_bit_for_bit_what_bare_openmm_gives(dipeptide, platform):
    positions = perturbed(dipeptide, 7)
    with OpenMMPool(dipeptide.system, num_workers=2, platform=platform) as pool:
        assert pool.platform_name == platform
        energies, forces = pool.evaluate(positions, forces=True)
    expected_energies, expected_forces = bare_openmm(dipeptide.system, positions, platform)
    np.testing.assert_array_equal(energies, expected_energies)
    np.testing.assert_array_equal(forces, expected_forces)


def test_custom_gb_runs_on_the_cpu_platform(dipeptide_pool):
    # The Reference platform takes about ten times longer for this System.
    assert dipeptide_pool.platform_name == "CPU"


def test_gradient_is_minus_the_force(dipeptide, dipeptide_pool):
    positions = jnp.asarray(perturbed(dipeptide, 4), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: dipeptide_pool.energy(x).sum()))(positions)
    _, forces = bare_openmm(dipeptide.system, np.asarray(positions), dipeptide_pool.platform_name)
    # rounding of the result to float32
    np.testing.assert_allclose(gradient, -forces, rtol=2e-7, atol=1e-4)


def test_gradient_against_finite_differences(dipeptide):
    positions = perturbed(dipeptide, 1)[0]
    direction = np.random.default_rng(2).normal(size=positions.shape)
    step = 1e-6
    with OpenMMPool(dipeptide.system, num_workers=1, platform="Reference") as pool, jax.enable_x64(True):
        gradient = jax.grad(pool.energy)(jnp.asarray(positions))
        ends = pool.energy(jnp.asarray(np.stack([positions + step * direction, positions - step * direction])))
    assert gradient.dtype == ends.dtype == jnp.float64
    gradient, ends = np.asarray(gradient), np.asarray(ends)
    # error of the central difference: step² times the third derivative, below 1e-6 of the slope
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), np.sum(gradient * direction), rtol=1e-6)


def test_every_transformation_agrees_with_the_closed_form(chain_pool):
    exact = chain_positions(4, 5)
    positions = jnp.asarray(exact, jnp.float32)
    expected = chain_energy(np.asarray(positions, np.float64))

    def scanned(x):
        return jax.lax.scan(lambda carry, row: (carry, chain_pool.energy(row)), 0, x)[1]

    results = {
        "eager": chain_pool.energy(positions),
        "numpy": chain_pool.energy(np.asarray(positions)),
        "jit": jax.jit(chain_pool.energy)(positions),
        "vmap": jax.vmap(chain_pool.energy)(positions),
        "jit of vmap of vmap": jax.jit(jax.vmap(jax.vmap(chain_pool.energy)))(positions),
        "vmap over an inner axis": jax.vmap(chain_pool.energy, in_axes=1, out_axes=1)(positions),
        "scan": jax.jit(scanned)(positions),
        "vmap of scan": jax.jit(jax.vmap(scanned))(positions[None])[0],
    }
    for name, energies in results.items():
        assert energies.dtype == jnp.float32, name
        # computed in double precision, rounded once
        np.testing.assert_allclose(energies, expected, rtol=1e-7, err_msg=name)
    gradients = {
        "grad": jax.grad(lambda x: chain_pool.energy(x).sum())(positions),
        "vmap of grad": jax.vmap(jax.vmap(jax.grad(chain_pool.energy)))(positions),
        "grad of scan": jax.jit(jax.grad(lambda x: scanned(x).sum()))(positions),
    }
    _, forces = chain_pool.evaluate(np.asarray(positions), forces=True)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, -forces, rtol=2e-7, err_msg=name)


def test_callback_on_accelerators_gives_the_same(chain_pool, monkeypatch):
    # Accelerators take pure_callback; here it is run on the CPU, with an argument small enough for that.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda x, *, cpu, default: default(x))
    positions = jnp.asarray(chain_positions(6), jnp.float32)
    energies = jax.vmap(lambda x: chain_pool._call_host(x, True)[0])(positions)
    np.testing.assert_array_equal(energies, chain_pool.energy(positions))


def test_forces_are_evaluated_only_for_gradients(chain_pool, monkeypatch):
    asked = []
    evaluate = chain_pool.evaluate
    monkeypatch.setattr(
        chain_pool, "evaluate", lambda x, *, forces=False: (asked.append(forces), evaluate(x, forces=forces))[1]
    )
    positions = jnp.asarray(chain_positions(2), jnp.float32)
    jax.block_until_ready(chain_pool.energy(positions))
    assert asked == [False]
    jax.block_until_ready(jax.grad(lambda x: chain_pool.energy(x).sum())(positions))
    assert asked == [False, True]


def test_counts_configurations(chain_pool):
    before = chain_pool.num_evaluations
    chain_pool.evaluate(chain_positions(3, 2))
    jax.block_until_ready(jax.jit(chain_pool.energy)(chain_positions(5)))
    assert chain_pool.num_evaluations == before + 11


@pytest.mark.parametrize("num", [0, 1, 2, 3, 17, 1000, 3000])
def test_batches_of_all_sizes_in_their_order(chain_pool, num):
    positions = chain_positions(num)
    # summation order of a sum of squares
    np.testing.assert_allclose(chain_pool.evaluate(positions)[0], chain_energy(positions), rtol=1e-12)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_unusual_configurations_stay_alone(dipeptide, platform):
    positions = perturbed(dipeptide, 8)
    usual = [0, 2, 4, 6]
    positions[1, 3, 0] = np.nan
    positions[3, 5, 2] = np.inf
    positions[5, 0] = positions[5, -1]  # nonbonded atoms in one place
    positions[7] = 0.0
    with OpenMMPool(dipeptide.system, num_workers=1, platform=platform) as pool:
        for _ in range(2):
            energies, forces = pool.evaluate(positions, forces=True)
            np.testing.assert_array_equal(energies[[1, 3, 5, 7]], [np.nan, np.nan, np.inf, np.inf])
            np.testing.assert_array_equal(forces[[1, 3, 5, 7]], 0.0)
            expected_energies, expected_forces = bare_openmm(dipeptide.system, positions[usual], platform)
            np.testing.assert_array_equal(energies[usual], expected_energies)
            np.testing.assert_array_equal(forces[usual], expected_forces)
        energy, gradient = jax.vmap(jax.value_and_grad(pool.energy))(jnp.asarray(positions, jnp.float32))
        np.testing.assert_array_equal(np.isfinite(energy), np.isin(np.arange(8), usual))
        assert np.isfinite(gradient).all()


def test_energies_beyond_float32_are_infinite():
    system = chain_system()
    system.getForce(0).setBondParameters(0, 0, 1, 0.1, 1e40)
    with OpenMMPool(system, num_workers=1, platform="Reference") as pool:
        energies, _ = pool.evaluate(chain_positions(2))
        assert np.isfinite(energies).all()
        value, gradient = jax.value_and_grad(lambda x: pool.energy(x))(jnp.asarray(chain_positions(), jnp.float32))
        assert value == jnp.inf
        np.testing.assert_array_equal(gradient, 0.0)


def test_openmm_exceptions_give_nan_for_their_configuration():
    system = openmm.System()
    for _ in range(2):
        system.addParticle(1.0)
    system.setDefaultPeriodicBoxVectors((4, 0, 0), (0, 4, 0), (0, 0, 4))
    table = openmm.CustomCompoundBondForce(2, "distance(p1, p2)")
    table.addBond([0, 1])
    system.addForce(table)
    expected = np.array([1.0, 2.0])
    positions = np.zeros((3, 2, 3))
    positions[:, 1, 0] = [1.0, 5.0, 2.0]

    class Raising:
        def __init__(self, context):
            self.context = context

        def setPositions(self, x):
            if x[1, 0] == 5.0:
                raise openmm.OpenMMException("injected")
            self.context.setPositions(x)

        def getState(self, **what):
            return self.context.getState(**what)

    energies, forces = np.full(3, 7.0), np.full((3, 2, 3), 7.0)
    openmm_worker.evaluate_block(
        Raising(openmm_worker.create_context(system, "Reference")), positions, energies, forces
    )
    np.testing.assert_allclose(energies, [expected[0], np.nan, expected[1]], rtol=1e-12)  # roundings
    np.testing.assert_array_equal(forces[1], 0.0)


def test_bad_arguments_are_named(chain_pool):
    for workers in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"num_workers .* {workers}"):
            OpenMMPool(chain_system(), workers)
    with pytest.raises(ValueError, match=r"Reference.*CPU.*'Cpu'"):
        OpenMMPool(chain_system(), 1, platform="Cpu")
    with pytest.raises(ValueError, match="system must be"):
        OpenMMPool("system.xml", 1)
    with pytest.raises(ValueError, match="particles"):
        OpenMMPool(openmm.System(), 1)
    for evaluate in (chain_pool.evaluate, chain_pool.energy, jax.jit(chain_pool.energy)):
        with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\), got \(4, 3\)"):
            evaluate(np.zeros((4, 3)))


def test_virtual_sites_are_refused():
    system = chain_system()
    system.setParticleMass(2, 0.0)
    system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"virtual sites.*\[2\]"):
        OpenMMPool(system, 1)


def test_threads_share_a_pool(chain_pool):
    positions = chain_positions(8, 300)
    results = [None] * 8

    def evaluate(index):
        for _ in range(5):
            results[index] = chain_pool.evaluate(positions[index])[0]

    threads = [threading.Thread(target=evaluate, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(np.stack(results), chain_energy(positions), rtol=1e-12)  # summation order
