"""The energy in JAX against OpenMM's Reference platform and reference energies, and under transformations."""

import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest
from jax.sharding import Mesh, PartitionSpec
from openmm import app, unit

from cmtjax.energies import AmberEnergy, amber_energy, regularize_energy
from cmtjax.energies.amber_parameters import from_arrays, to_arrays
from cmtjax.energies.amber_system import energies_by_term, read_system
from cmtjax.molecules import PUBLISHED_NAMES, published
from cmtjax.molecules.peptides import build_peptide

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "reference" / "energies.json").read_text())
REFERENCE_NAMES = {
    "alanine_dipeptide": "ACE-ALA-NME/amber96-obc1",
    "alanine_tetrapeptide": "ACE-ALA-ALA-ALA-NME/amber99sbildn-obc2",
    "alanine_hexapeptide": "ACE-ALA-ALA-ALA-ALA-ALA-NME/amber99sbildn-obc2",
    "elil_tetrapeptide": "GLU-LEU-ILE-LEU/amber99sbildn-obc2",
}
# Noise in nm on every atom: from the minimum to atoms that lie in each other.
NOISES = (0.0, 0.01, 0.03, 0.1, 0.3)


@functools.cache
def molecule(name):
    return published(name)


@functools.cache
def energy_of(name):
    return amber_energy(molecule(name).system)


def perturbed(positions_nm, num_each=3, noises=NOISES):
    rng = np.random.default_rng(0)
    return np.concatenate([positions_nm + rng.normal(scale=s, size=(num_each, *positions_nm.shape)) for s in noises])


def value_and_gradient(energy, positions_nm):
    """Energies and their gradients on the host, in the precision of the positions."""
    energies, pullback = jax.vjp(jax.jit(energy), positions_nm)
    return jax.device_get((energies, pullback(jnp.ones_like(energies))[0]))


def openmm_values(system, positions_nm):
    """Energies and gradients of OpenMM's Reference platform, in double precision."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    energies, gradients = [], []
    for configuration in positions_nm:
        context.setPositions(configuration)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        gradients.append(-forces)
    return np.array(energies), np.array(gradients)


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_agrees_with_the_reference_energies(name):
    reference = REFERENCE[REFERENCE_NAMES[name]]
    names = [(atom.residue.index, atom.residue.name, atom.name) for atom in molecule(name).topology.atoms()]
    order = [[tuple(atom) for atom in reference["atoms"]].index(atom) for atom in names]
    positions_nm = np.array(reference["positions_nm"])[:, order]
    expected = [energies["total"] for energies in reference["energies_kj_mol"]]
    with jax.enable_x64(True):
        energies = np.asarray(jax.jit(energy_of(name))(positions_nm))
    # The reference data has eight or more digits.
    np.testing.assert_allclose(energies, expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_double_precision_agrees_with_openmm(name):
    positions_nm = perturbed(molecule(name).positions_nm)
    expected, gradients = openmm_values(molecule(name).system, positions_nm)
    with jax.enable_x64(True):
        energies, gradient = value_and_gradient(energy_of(name), positions_nm)
    assert expected.max() > 1e6  # some of the structures are clashes
    # Both compute in double precision, with constants of nine digits in the expressions of CustomGBForce.
    np.testing.assert_allclose(energies, expected, rtol=1e-6)
    scale = np.abs(gradients).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(gradient / scale, gradients / scale, atol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_single_precision_near_equilibrium(name):
    positions_nm = perturbed(molecule(name).positions_nm, num_each=20, noises=(0.0, 0.002, 0.005, 0.01))
    # OpenMM gets the rounded positions: what rounding them changes is not an error of the energy.
    positions_nm = positions_nm.astype(np.float32)
    expected, expected_gradient = openmm_values(molecule(name).system, positions_nm.astype(np.float64))
    is_near = expected < 1e4
    assert is_near.sum() >= 20
    energies = np.asarray(jax.jit(energy_of(name))(positions_nm))
    assert energies.dtype == np.float32
    # Terms of some hundred kJ/mol may cancel to something near zero; 1e-3 is some tens of roundings of them.
    np.testing.assert_allclose(energies[is_near], expected[is_near], rtol=1e-5, atol=1e-3)
    energies, gradient = value_and_gradient(energy_of(name), positions_nm)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(energies[is_near], expected[is_near], rtol=1e-5, atol=1e-3)
    # A bond's length is off by up to 1e-8 nm, rounding at 0.1 nm; times the stiffness, some 4e5 kJ/mol/nm², that is
    # 0.004 kJ/mol/nm a bond, and an atom has up to four. The largest forces are 3e4, with seven digits.
    np.testing.assert_allclose(gradient[is_near], expected_gradient[is_near], rtol=1e-6, atol=0.03)


def check_clashes(energy, minimum_nm):
    """Energies of collapsed, coincident and scattered atoms are large, and their regularized gradients finite."""
    rng = np.random.default_rng(1)
    collapsed = [minimum_nm * factor for factor in (0.5, 0.1, 1e-2, 1e-4, 0.0)]
    coincident = minimum_nm.copy()
    coincident[-1] = coincident[0]
    # As many as near equilibrium, so that one compiled gradient serves both.
    scattered = rng.normal(scale=0.1, size=(74, *minimum_nm.shape))
    positions_nm = jnp.asarray(np.concatenate([collapsed, [coincident], scattered]), jnp.float32)
    energies, pullback = jax.vjp(jax.jit(energy), positions_nm)
    assert not np.any(np.isnan(energies))
    assert np.all(energies > 1e3)  # all are clashes
    for options in ({}, {"high": 1e3, "scheme": "multiplicative_log"}):
        slope = jax.vmap(jax.grad(functools.partial(regularize_energy, **options)))(energies)
        (gradient,) = pullback(slope)
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_clashes_are_never_nan_and_their_regularized_gradient_is_finite(name):
    check_clashes(energy_of(name), molecule(name).positions_nm)


def test_nan_positions_give_nan_for_that_configuration_alone():
    positions_nm = np.repeat(molecule("alanine_dipeptide").positions_nm[None], 3, axis=0).astype(np.float32)
    positions_nm[1, 4, 2] = np.nan
    assert np.isnan(jax.jit(energy_of("alanine_dipeptide"))(positions_nm)).tolist() == [False, True, False]


@functools.cache
def start(sequence):
    topology, positions_nm = build_peptide(sequence, force_field="amber99sbildn-obc2", phi_degrees=-70, psi_degrees=140)
    return topology, positions_nm


def as_clash(values):
    """The rule of the package: what is not finite is a clash."""
    return np.where(np.isfinite(values), values, np.inf)


def check_all_terms(system, positions_nm):
    """Terms in double precision against OpenMM's, the gradient against its forces; clashes in single precision."""
    energy = amber_energy(system)
    # Double precision on both sides; the forces are compared on the scale of each configuration's largest.
    with jax.enable_x64(True):
        evaluate = jax.jit(lambda x: (energy._block_terms(x), energy._block_energy_and_gradient(x)))
        terms, (energies, gradient) = jax.device_get(evaluate(positions_nm))
    for index, configuration in enumerate(positions_nm):
        expected = energies_by_term(system, configuration)
        assert set(terms) <= set(expected)
        for name, value in expected.items():
            found = terms[name][index] if name in terms else 0.0
            np.testing.assert_allclose(found, as_clash(value), rtol=1e-6, atol=1e-6, err_msg=name)
    expected, expected_gradient = openmm_values(system, positions_nm)
    np.testing.assert_allclose(energies, as_clash(expected), rtol=1e-6, atol=1e-6)
    is_finite = np.isfinite(expected)
    assert is_finite.sum() >= len(positions_nm) // 2
    scale = np.abs(expected_gradient[is_finite]).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(gradient[is_finite] / scale, expected_gradient[is_finite] / scale, atol=1e-6)
    collapsed = np.concatenate([positions_nm, positions_nm * 0.3, positions_nm * 1e-3]).astype(np.float32)
    energies = np.asarray(jax.jit(energy)(collapsed))
    assert not np.any(np.isnan(energies) | np.isneginf(energies))
    # Single precision near equilibrium: OpenMM gets the rounded positions, so that only the arithmetic differs.
    is_near = np.flatnonzero(np.abs(expected) < 1e4)
    rounded, _ = openmm_values(system, collapsed[is_near].astype(np.float64))
    np.testing.assert_allclose(energies[is_near], rounded, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("solvent", "settings"),
    # The models with the most terms by both settings, the others by one; the rest are slow.
    [
        pytest.param(solvent, settings, marks=[] if is_quick else [pytest.mark.slow])
        for solvent, settings, is_quick in (
            ("hct", "default", True),
            ("hct", "salt", False),
            ("obc1", "default", False),
            ("obc1", "salt", True),
            ("obc2", "default", True),
            ("obc2", "salt", True),
            ("gbn", "default", True),
            ("gbn", "salt", False),
            ("gbn2", "default", True),
            ("gbn2", "salt", True),
        )
    ],
)
def test_every_solvent_model(solvent, settings):
    # Between them: charged ends and caps, aromatic rings, sulfur, proline, charged side chains.
    topology, positions_nm = start("ACE-ARG-CYS-TRP-NME" if settings == "default" else "LYS-PRO-ASP")
    salt = {
        "implicitSolventKappa": 1.2 / unit.nanometer,
        "sasaMethod": None,
        "solventDielectric": 60.0,
        "soluteDielectric": 2.0,
    }
    forces = app.ForceField("amber99sb.xml", f"implicit/{solvent}.xml")
    system = forces.createSystem(topology, **(salt if settings == "salt" else {}))
    check_all_terms(system, perturbed(positions_nm, num_each=1, noises=(0.0, 0.01, 0.03, 0.1, 0.3)))
    parameters = amber_energy(system).parameters
    chex.assert_trees_all_equal(from_arrays(to_arrays(parameters)), parameters)


@pytest.mark.parametrize("files", ["amber99sb hct", "amber99sb gbn", "amber19/protein.ff19SB gbn2"])
def test_clashes_in_other_solvents_and_with_torsion_maps(files, monkeypatch):
    # One shift of the atoms at a time: the same pairs one by one, and a third of the program to compile.
    monkeypatch.setattr("cmtjax.energies.shifts._SHIFTS_AT_ONCE", 1)
    force_field, solvent = files.split()
    topology, positions_nm = start("ACE-ALA-NME")
    system = app.ForceField(f"{force_field}.xml", f"implicit/{solvent}.xml").createSystem(topology)
    parameters = read_system(system)
    assert (len(parameters.torsion_maps) > 0) == ("ff19SB" in force_field)
    assert (parameters.solvent.neck_height is None) == (solvent == "hct")
    check_clashes(AmberEnergy(parameters), positions_nm)


def test_torsion_maps_and_a_vacuum():
    topology, positions_nm = start("ACE-GLY-HIS-VAL-NME")
    forces = app.ForceField("amber19/protein.ff19SB.xml")
    system = forces.createSystem(topology)
    assert any(isinstance(force, openmm.CMAPTorsionForce) for force in system.getForces())
    # Backbone torsions all around the circle.
    check_all_terms(system, perturbed(positions_nm, num_each=6, noises=(0.0, 0.05, 0.15)))


def test_obc_force_with_constraints_and_hydroxyl_groups():
    topology, positions_nm = start("THR-TYR-PHE-MET-ASN-GLN")
    system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(topology, constraints=app.HBonds)
    check_all_terms(system, perturbed(positions_nm, num_each=1, noises=(0.0, 0.01, 0.05)))


def small_system(*forces):
    system = openmm.System()
    for _ in range(3):
        system.addParticle(1.0)
    for force in forces:
        system.addForce(force)
    return system


def gbsa_with(expression):
    force = openmm.CustomGBForce()
    for name in ("charge", "or", "sr"):
        force.addPerParticleParameter(name)
    force.addComputedValue("I", expression, openmm.CustomGBForce.ParticlePairNoExclusions)
    force.addComputedValue("B", "1/(1/or-I)", openmm.CustomGBForce.SingleParticle)
    for _ in range(3):
        force.addParticle([0.1, 0.1, 0.1])
    return force


def nonbonded_with(**settings):
    force = openmm.NonbondedForce()
    for _ in range(3):
        force.addParticle(0.1, 0.3, 0.5)
    return having(force, **settings)


def obc_with(**settings):
    force = openmm.GBSAOBCForce()
    for _ in range(3):
        force.addParticle(0.1, 0.15, 0.8)
    return having(force, **settings)


def having(force, **settings):
    """The force, after its methods of these names were called."""
    for name, value in settings.items():
        getattr(force, name)(*value if isinstance(value, tuple) else (value,))
    return force


IS_PERIODIC = {"setUsesPeriodicBoundaryConditions": True}
GLOBAL = {"addGlobalParameter": ("scale", 0.0)}


@pytest.mark.parametrize(
    ("force", "message"),
    [
        (openmm.CustomBondForce("r"), "CustomBondForce"),
        (openmm.MonteCarloBarostat(1.0, 300.0), "MonteCarloBarostat"),
        (nonbonded_with(setNonbondedMethod=openmm.NonbondedForce.CutoffNonPeriodic), "NonbondedForce.*cutoff"),
        (nonbonded_with(setNonbondedMethod=openmm.NonbondedForce.PME), "NonbondedForce"),
        (gbsa_with("1/r^2"), "CustomGBForce.*1/r"),
        (having(gbsa_with("1/r"), setNonbondedMethod=openmm.CustomGBForce.CutoffNonPeriodic), "CustomGBForce.*cutoff"),
        (having(gbsa_with("1/r"), setNonbondedMethod=openmm.CustomGBForce.CutoffPeriodic), "CustomGBForce.*periodic"),
        (having(gbsa_with("1/r"), **GLOBAL), "CustomGBForce.*global parameters"),
        (having(gbsa_with("1/r"), addExclusion=(0, 1)), "CustomGBForce.*exclusions"),
        (obc_with(setNonbondedMethod=openmm.GBSAOBCForce.CutoffNonPeriodic), "GBSAOBCForce.*cutoff"),
        (obc_with(setNonbondedMethod=openmm.GBSAOBCForce.CutoffPeriodic), "GBSAOBCForce.*periodic"),
        (having(openmm.HarmonicBondForce(), **IS_PERIODIC), "HarmonicBondForce.*periodic"),
        (having(openmm.HarmonicAngleForce(), **IS_PERIODIC), "HarmonicAngleForce.*periodic"),
        (having(openmm.PeriodicTorsionForce(), **IS_PERIODIC), "PeriodicTorsionForce.*periodic"),
        (having(openmm.CMAPTorsionForce(), **IS_PERIODIC), "CMAPTorsionForce.*periodic"),
        # Offsets, of which global parameters are the factors.
        (nonbonded_with(**GLOBAL, addParticleParameterOffset=("scale", 0, 0.1, 0.0, 0.0)), "NonbondedForce.*global"),
        (
            nonbonded_with(
                **GLOBAL,
                addException=(0, 1, 0.0, 0.3, 0.0),
                addExceptionParameterOffset=("scale", 0, 0.1, 0.0, 0.0),
            ),
            "NonbondedForce.*global",
        ),
    ],
)
def test_forces_that_are_not_understood_are_named(force, message):
    with pytest.raises(ValueError, match=message) as error:
        amber_energy(small_system(force))
    assert "OpenMMPool" in str(error.value)


def test_what_is_there_twice_and_virtual_sites_are_refused():
    for forces, message in (
        ((nonbonded_with(), nonbonded_with()), "one nonbonded force at most, got 2"),
        ((obc_with(), obc_with()), "one solvent force at most, got 2"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            amber_energy(small_system(*forces))
        assert "OpenMMPool" in str(error.value)
    system = small_system(nonbonded_with())
    system.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"virtual sites.*OpenMMPool"):
        amber_energy(system)


def test_a_motion_remover_is_ignored_and_terms_may_be_absent():
    bonds = openmm.HarmonicBondForce()
    bonds.addBond(0, 1, 0.1, 1000.0)
    energy = amber_energy(small_system(bonds, openmm.CMMotionRemover()))
    positions_nm = np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 5, 0]], np.float32)
    assert set(energy.terms(positions_nm)) == {"bonds"}
    np.testing.assert_allclose(energy(positions_nm), 0.5 * 1000 * 0.1**2, rtol=1e-5)


def test_any_batch_shape_and_dtype():
    name = "alanine_dipeptide"
    positions_nm = perturbed(molecule(name).positions_nm, num_each=6, noises=(0.003,)).astype(np.float32)
    expected = np.asarray(jax.jit(energy_of(name))(positions_nm))
    for shape in ((), (2, 3), (0,), (1, 0, 2)):
        batch = jax.ShapeDtypeStruct((*shape, *positions_nm.shape[1:]), jnp.float32)
        assert jax.eval_shape(energy_of(name), batch).shape == shape
    # Another batch may be compiled to another order of summation: some units in the last place of the largest term.
    tolerance = {"rtol": 1e-6, "atol": 1e-3}
    reshaped = jax.jit(jax.vmap(jax.vmap(energy_of(name))))(positions_nm.reshape(2, 3, -1, 3))
    np.testing.assert_allclose(reshaped, expected.reshape(2, 3), **tolerance)


def test_vmap_is_evaluated_in_blocks_too():
    energy = energy_of("alanine_dipeptide")
    sizes = (20_000, 40_000)
    temporary = []
    for size in sizes:
        batch = jax.ShapeDtypeStruct((size, energy.num_atoms, 3), jnp.float32)
        compiled = jax.jit(jax.vmap(energy)).lower(batch).compile()
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    # Besides the block only a padded copy of the positions may grow, with 264 bytes a configuration.
    assert temporary[1] - temporary[0] < 2 * 264 * (sizes[1] - sizes[0])


def test_blocks_change_nothing(monkeypatch):
    name = "alanine_dipeptide"
    energy = AmberEnergy(energy_of(name).parameters)
    positions_nm = perturbed(molecule(name).positions_nm, num_each=5, noises=(0.003, 0.01)).astype(np.float32)
    whole = value_and_gradient(energy, positions_nm)
    monkeypatch.setattr(
        "cmtjax.energies.amber._BLOCK_BYTES", {"cpu": 3 * energy.bytes_per_configuration(), "default": 1}
    )
    blocked = AmberEnergy(energy.parameters)
    energies, gradient = value_and_gradient(blocked, positions_nm)
    # Other sizes of a block may be compiled to another order of summation.
    np.testing.assert_allclose(energies, whole[0], rtol=1e-6, atol=1e-3)
    scale = np.abs(whole[1]).max()
    np.testing.assert_allclose(gradient / scale, whole[1] / scale, atol=1e-6)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_memory_of_a_block_is_known(with_gradient):
    name = "alanine_tetrapeptide"
    energy = energy_of(name)
    function = energy._block_energy_and_gradient if with_gradient else energy._block_energy
    sizes = (64, 192)
    measured = []
    for size in sizes:
        shape = jax.ShapeDtypeStruct((size, energy.num_atoms, 3), jnp.float32)
        measured.append(jax.jit(function).lower(shape).compile().memory_analysis().temp_size_in_bytes)
    per_configuration = (measured[1] - measured[0]) / (sizes[1] - sizes[0])
    # The bound is for the gradient, which needs a good part of it: otherwise blocks would be needlessly small.
    share = per_configuration / energy.bytes_per_configuration()
    assert (0.25 if with_gradient else 0.0) < share <= 1.0


def test_shard_map_and_second_derivatives():
    name = "alanine_dipeptide"
    positions_nm = perturbed(molecule(name).positions_nm, num_each=4, noises=(0.003,)).astype(np.float32)
    assert len(jax.devices()) >= 2
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    spec = PartitionSpec("batch")
    sharded = jax.jit(jax.shard_map(energy_of(name), mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(positions_nm), jax.jit(energy_of(name))(positions_nm), rtol=1e-6, atol=1e-3)
    with jax.enable_x64(True):
        x = molecule(name).positions_nm
        direction = np.random.default_rng(0).normal(size=x.shape)
        gradient = jax.jit(jax.grad(energy_of(name)))
        product = np.asarray(jax.jvp(gradient, (x,), (direction,))[1])
        step = 1e-6
        expected = np.asarray(gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    # Central differences are off by step² times third derivatives, some 1e-5 of the largest second ones.
    np.testing.assert_allclose(product, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("num_configurations", [None, 2])
def test_hessian_is_that_of_openmm(num_configurations):
    system = openmm.System()
    bonds, charges = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    for i, charge in enumerate((-0.4, 0.1, 0.3)):
        system.addParticle(12.0)
        charges.addParticle(charge, 0.3, 0.4)
        if i:
            bonds.addBond(i - 1, i, 0.15, 2e5)
            charges.addException(i - 1, i, 0.0, 1.0, 0.0)
    system.addForce(bonds)
    system.addForce(charges)
    x = np.array([[[0.0, 0.0, 0.0], [0.15, 0.01, 0.0], [0.2, 0.16, 0.02]]])
    x = np.repeat(x, num_configurations or 1, axis=0) + np.arange(num_configurations or 1)[:, None, None] * [[[0.01]]]
    x[-1, 0, 0] += 0.005
    energy, step = amber_energy(system), 1e-5
    hessian = jax.jit(jax.hessian(energy) if num_configurations is None else jax.vmap(jax.hessian(energy)))
    with jax.enable_x64(True):
        result = np.asarray(hessian(x[0] if num_configurations is None else x)).reshape(-1, 9, 9)
    for configuration, matrix in zip(x, result, strict=True):
        moves = step * np.eye(9).reshape(9, 3, 3)
        gradients = [openmm_values(system, configuration + sign * moves)[1] for sign in (1, -1)]
        expected = (gradients[0] - gradients[1]).reshape(9, 9) / (2 * step)
        # Central differences are off by step² times fourth derivatives over second ones (1e2 a bond length squared).
        np.testing.assert_allclose(matrix, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["alanine_dipeptide", "elil_tetrapeptide"])
def test_a_saved_energy_is_the_same_without_openmm(name, tmp_path):
    energy_of(name).save(tmp_path / "energy.npz")
    loaded = AmberEnergy.load(tmp_path / "energy.npz")
    positions_nm = molecule(name).positions_nm.astype(np.float32)
    np.testing.assert_array_equal(jax.jit(loaded)(positions_nm), jax.jit(energy_of(name))(positions_nm))
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(ValueError, match="num_atoms"):
        AmberEnergy.load(tmp_path / "other.npz")


def test_forces_without_terms():
    bonds = openmm.HarmonicBondForce()
    bonds.addBond(0, 1, 0.1, 1000.0)
    energy = amber_energy(small_system(bonds, openmm.PeriodicTorsionForce(), openmm.CMAPTorsionForce()))
    assert energy(np.eye(3, dtype=np.float32)).shape == ()


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "energy.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"energy\.npz"):
        AmberEnergy.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"array\.npy"):
        AmberEnergy.load(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError):
        AmberEnergy.load(tmp_path / "absent.npz")


def test_wrong_positions_are_refused():
    energy = energy_of("alanine_dipeptide")
    with pytest.raises(ValueError, match="positions_nm"):
        energy(np.zeros((3, 21, 3), np.float32))
    for dtype in (np.int32, np.float16):
        with pytest.raises(ValueError, match="floating"):
            energy(np.zeros((22, 3), dtype))


def test_a_model_that_differs_from_openmm_is_refused(monkeypatch):
    monkeypatch.setattr("cmtjax.energies.amber_system.COULOMB_CONSTANT", 138.9)
    with pytest.raises(ValueError, match="nonbonded"):
        amber_energy(molecule("alanine_dipeptide").system)
