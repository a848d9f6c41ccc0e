"""The box: its meaning, round trips, what lies outside, batches and bad input."""

import dataclasses
import functools

import hypothesis
import hypothesis.extra.numpy as hypothesis_numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax import molecules
from cmtjax.coordinates import Domain, internal_coordinates, is_same_box

# (bonds, angles, torsions) and constrained bonds of the published flows: CMT and TA-BG, less constrained bonds.
PUBLISHED_SIZES = {
    "alanine_dipeptide": (21, 20, 19, 0),
    "alanine_tetrapeptide": (19, 40, 39, 22),
    "alanine_hexapeptide": (29, 60, 59, 32),
    "elil_tetrapeptide": (33, 73, 72, 41),
}


def distances(positions_nm):
    positions_nm = np.asarray(positions_nm, np.float64)
    return np.linalg.norm(positions_nm[..., :, None, :] - positions_nm[..., None, :, :], axis=-1)


def box_distance(domain, one, other):
    """(..., d), across the ends of periodic dimensions."""
    difference = np.abs(np.asarray(one) - np.asarray(other))
    return np.where(domain.is_periodic, np.minimum(difference, np.abs(1 - difference)), difference)


def smallest_frame_sine(z_matrix, positions_nm):
    """(batch,): sine of the most nearly straight of the angles j-k-l on which the dihedrals rest."""
    positions_nm = np.asarray(positions_nm, np.float64)
    j, k, l = (positions_nm[:, z_matrix.rows[:, column]] for column in (1, 2, 3))  # noqa: E741
    normal = np.linalg.norm(np.cross(j - k, l - k), axis=-1)
    # l is bound to k or to j, which is the vertex then.
    sines = [
        normal / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1) for a, b in ((j - k, l - k), (k - j, l - j))
    ]
    return np.minimum(*sines).min(axis=1)


def test_same_boxes_are_told_from_others(case):
    z_matrix = case("alanine_tetrapeptide").molecule.z_matrix
    own = internal_coordinates(z_matrix)
    assert is_same_box(own, internal_coordinates(z_matrix))
    assert not is_same_box(own, case("alanine_dipeptide").coordinates)
    for name, change in (
        ("bond_reference_nm", 2e-4),  # a constrained bond's is in no window
        ("angle_reference_rad", 2e-4),
        ("torsion_start", 2e-4),
    ):
        values = np.array(getattr(z_matrix, name))
        values[-1] += change
        other = internal_coordinates(dataclasses.replace(z_matrix, **{name: values}))
        assert not is_same_box(own, other), name
        assert is_same_box(own, other, tolerance=2e-3), name
    # A window that begins a little before or after a whole turn has a center 2π elsewhere, and is the same.
    starts = [np.where(np.arange(z_matrix.torsion_start.size) == 0, start, z_matrix.torsion_start) for start in (0, 1)]
    pair = [internal_coordinates(dataclasses.replace(z_matrix, torsion_start=np.abs(s - 1e-7))) for s in starts]
    assert np.max(np.abs(pair[0].window_center - pair[1].window_center)) > 6
    assert is_same_box(*pair, tolerance=1e-5)
    assert not is_same_box(*pair)
    rows = np.array(z_matrix.rows)
    rows[-1, 3] = next(atom for atom in range(len(z_matrix.atom_names)) if atom not in rows[-1])
    names = (*z_matrix.atom_names[:-1], "X9:X")
    constrained = ~np.array(z_matrix.bond_is_constrained)
    initial = np.array(z_matrix.initial_atoms)[::-1]
    for changes in (
        {"rows": rows},
        {"atom_names": names},
        {"bond_is_constrained": constrained},
        {"initial_atoms": initial},
    ):
        other = dataclasses.replace(own, z_matrix=dataclasses.replace(z_matrix, **changes))
        assert not is_same_box(own, other, tolerance=1.0), changes


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_domain_of_published_molecules(name, case):
    z_matrix, coordinates = case(name).molecule.z_matrix, case(name).coordinates
    *sizes, num_constrained = PUBLISHED_SIZES[name]
    domain = coordinates.domain
    assert coordinates.num_atoms == z_matrix.num_atoms == sizes[1] + 2
    assert z_matrix.bond_is_constrained.sum() == num_constrained
    np.testing.assert_array_equal(domain.groups, np.repeat([Domain.BONDS, Domain.ANGLES, Domain.TORSIONS], sizes))
    np.testing.assert_array_equal(domain.is_circular, domain.groups == Domain.TORSIONS)
    np.testing.assert_array_equal(domain.is_periodic[-sizes[2] :], z_matrix.torsion_width == 1)
    assert not domain.is_periodic[: -sizes[2]].any()
    # φ is C-N-CA-C, ψ N-CA-C-N.
    element_of = [atom.split(":")[1] for atom in z_matrix.atom_names]
    backbone = z_matrix.rows[coordinates.ramachandran_pairs - (domain.num_dims - sizes[2])]
    for phi, psi in backbone:
        for row, name_order in ((phi, ["C", "N", "CA", "C"]), (psi, ["N", "CA", "C", "N"])):
            assert [element_of[atom] for atom in row] in (name_order, name_order[::-1])


def test_windows_are_published_ones(case):
    """TA-BG, appendix A: bonds over 0.07 nm, angles over 0.573 π rad, around the minimum."""
    coordinates, z_matrix = case("alanine_dipeptide").coordinates, case("alanine_dipeptide").molecule.z_matrix
    expected = np.concatenate([np.full(21, 0.07), np.full(20, 0.573 * np.pi), 2 * np.pi * z_matrix.torsion_width])
    # Written out in another order of operations.
    np.testing.assert_allclose(coordinates.window_width, expected, rtol=1e-14)
    minimum = np.concatenate([z_matrix.bond_reference_nm, z_matrix.angle_reference_rad])
    np.testing.assert_allclose(coordinates.window_center[:41], minimum, rtol=1e-14)


@pytest.mark.parametrize("angle_rad", [2.4, 3.0, 0.6, 0.03])
def test_angle_window_is_narrowed_around_the_minimum(angle_rad, make_z_matrix):
    coordinates = internal_coordinates(make_z_matrix(angle_reference_rad=[1.9, angle_rad, 1.7]))
    center, width = (array[4:7] for array in (coordinates.window_center, coordinates.window_width))
    np.testing.assert_array_equal(center, [1.9, angle_rad, 1.7])
    # Differences of numbers of order one.
    np.testing.assert_allclose(width[[0, 2]], 0.573 * np.pi, rtol=1e-14)
    np.testing.assert_allclose(width[1] / 2, min(angle_rad, np.pi - angle_rad) - 0.02, rtol=1e-12)
    # log|dx/du| has the narrowed width: the ratio of densities at the center, where only width and sine differ.
    plain = internal_coordinates(make_z_matrix(angle_reference_rad=[1.9, 1.9, 1.7]))
    u = jnp.full(coordinates.domain.num_dims, 0.5)
    difference = coordinates.to_physical(u)[1] - plain.to_physical(u)[1]
    expected = np.log(width[1] * np.sin(angle_rad)) - np.log(0.573 * np.pi * np.sin(1.9))
    # float32 of log-dets of some −10.
    np.testing.assert_allclose(difference, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("is_likely", [True, False])
@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_round_trip_in_single_precision(name, is_likely, case, likely_points):
    coordinates = case(name).coordinates
    u = likely_points(coordinates, 1000, seed=6)
    if not is_likely:
        u = np.random.default_rng(7).uniform(size=u.shape)
    u = u.astype(np.float32)
    positions_nm, log_det = case(name).to_physical(u)
    u_again, log_det_again, _ = case(name).from_physical(positions_nm)
    positions_again, _ = case(name).to_physical(u_again)
    assert positions_nm.dtype == u_again.dtype == positions_again.dtype == log_det_again.dtype == jnp.float32
    # Positions rounded to 6e-8 nm turn a dihedral by 1e-6 rad over the sine of the angles it
    # rests on. Some of these are no coordinates (N-CA-CB) and may get straight: points under 0.02 (up to 2 % here,
    # all of them physically absurd) are left to the float64 test.
    is_fair = smallest_frame_sine(case(name).molecule.z_matrix, positions_nm) > 0.02
    assert is_fair.mean() > 0.95
    assert np.abs(distances(positions_nm) - distances(positions_again))[is_fair].max() < 1e-5
    assert box_distance(coordinates.domain, u_again, u)[is_fair].max() < 1e-4
    # A few units in the last place of a number up to 300.
    np.testing.assert_allclose(log_det_again, log_det, rtol=0, atol=2e-4)


@functools.cache
def dipeptide_round_trip():
    coordinates = internal_coordinates(molecules.published("alanine_dipeptide"))

    @jax.jit
    def round_trip(u):
        positions_nm, log_det = coordinates.to_physical(u)
        return positions_nm, log_det, coordinates.from_physical(positions_nm)

    return coordinates, round_trip


@hypothesis.given(
    u=hypothesis_numpy.arrays(np.float64, 60, elements=st.floats(0, 1)), edge=st.sampled_from([1e-9, 0.0])
)
def test_round_trip_in_double_precision(u, edge):
    coordinates, round_trip = dipeptide_round_trip()
    u = np.clip(u, edge, 1 - edge)
    with jax.enable_x64(True):
        positions_nm, log_det, (u_again, log_det_again, in_domain) = jax.tree.map(np.asarray, round_trip(u))
    hypothesis.assume(smallest_frame_sine(coordinates.z_matrix, positions_nm[None])[0] > 1e-3)
    # 1e-16 over a bond of 0.1 nm, twice the smallest sine, and the window of 0.07 nm.
    assert box_distance(coordinates.domain, u_again, u).max() < 1e-10
    np.testing.assert_allclose(log_det_again, log_det, rtol=0, atol=1e-10)
    # On the very edge rounding decides; inside by 1e-9 it does not.
    assert in_domain or edge == 0.0


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_mirror_image_lies_outside(name, case):
    coordinates, positions_nm = case(name).coordinates, case(name).molecule.positions_nm
    generator = np.random.default_rng(8)
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    moved = positions_nm @ rotation.T + generator.normal(size=3)
    images = jnp.asarray(np.stack([positions_nm, moved, positions_nm * [1, 1, -1]]), jnp.float32)
    u, log_det, in_domain = case(name).from_physical(images)
    np.testing.assert_array_equal(in_domain, [True, True, False])
    # A rigid motion changes nothing but float32 rounding, of positions up to 3 nm from the origin.
    assert box_distance(coordinates.domain, u[1], u[0]).max() < 1e-4
    np.testing.assert_allclose(log_det, log_det[0], rtol=0, atol=2e-3)
    # Exactly the half ranges (all of them 0 to π or −π to 0 here) are left, by the same distance on the other side.
    is_outside = np.asarray((u[2] < 0) | (u[2] > 1))
    np.testing.assert_array_equal(is_outside, coordinates.domain.is_circular & ~coordinates.domain.is_periodic)
    assert np.all(np.abs(u[2] - 0.5) <= 1.0)


def test_half_window_across_the_end_of_a_turn(make_z_matrix):
    """A window from 0.75 to 1.25 turns is centered on τ = π; y = 0 is in its middle."""
    coordinates = internal_coordinates(make_z_matrix(torsion_start=[0.75, 0.0], torsion_width=[0.5, 1.0]))
    u = np.full((5, coordinates.domain.num_dims), 0.5)
    u[:, 7] = [0.05, 0.5, 0.95, -0.4, 1.4]
    with jax.enable_x64(True):
        positions_nm, _ = coordinates.to_physical(jnp.asarray(u))
        u_again, _, in_domain = coordinates.from_physical(positions_nm)
    np.testing.assert_allclose(u_again, u, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(in_domain, [True, True, True, False, False])


def test_constrained_lengths_are_ignored(case):
    tetrapeptide = case("alanine_tetrapeptide")
    z_matrix = tetrapeptide.molecule.z_matrix
    hydrogen, heavy = z_matrix.rows[np.flatnonzero(z_matrix.bond_is_constrained[2:])[-1], :2]
    stretched = np.array(tetrapeptide.molecule.positions_nm)
    stretched[hydrogen] += 0.2 * (stretched[hydrogen] - stretched[heavy])
    images = jnp.asarray(np.stack([tetrapeptide.molecule.positions_nm, stretched]), jnp.float32)
    u, log_det, in_domain = tetrapeptide.from_physical(images)
    # Rounding of float32 positions; what it does to the torsions of u is the round trip's business.
    np.testing.assert_allclose(u[1], u[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_det[1], log_det[0], rtol=0, atol=1e-4)
    assert in_domain.all()


def test_not_a_number_is_outside(case):
    positions_nm = jnp.asarray(case("alanine_dipeptide").molecule.positions_nm, jnp.float32).at[3, 1].set(jnp.nan)
    assert not case("alanine_dipeptide").from_physical(positions_nm)[2]


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)])
def test_batch_shapes(batch, case):
    dipeptide = case("alanine_dipeptide")
    coordinates = dipeptide.coordinates
    u = jax.random.uniform(jax.random.key(0), (*batch, 60))
    positions_nm, log_det = dipeptide.to_physical(u)
    assert positions_nm.shape == (*batch, 22, 3)
    assert log_det.shape == batch
    u_again, log_det_again, in_domain = dipeptide.from_physical(positions_nm)
    assert u_again.shape == u.shape
    assert log_det_again.shape == in_domain.shape == batch
    assert in_domain.dtype == bool
    for index in np.ndindex(batch):
        one = dipeptide.to_physical(u[index])
        # Another order of fused operations.
        np.testing.assert_allclose(positions_nm[index], one[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(log_det[index], one[1], rtol=0, atol=1e-4)
    if len(batch) == 1 and batch != (0,):
        mapped = jax.jit(jax.vmap(coordinates.to_physical))(u)
        np.testing.assert_allclose(mapped[0], positions_nm, rtol=0, atol=1e-6)
        np.testing.assert_allclose(mapped[1], log_det, rtol=0, atol=1e-4)


def test_z_matrix_alone_gives_the_same_map(case, tmp_path):
    dipeptide = case("alanine_dipeptide")
    dipeptide.molecule.z_matrix.save(tmp_path / "z_matrix.json")
    again = internal_coordinates(molecules.ZMatrix.load(tmp_path / "z_matrix.json"))
    u = jax.random.uniform(jax.random.key(1), (5, 60))
    for one, other in zip(dipeptide.to_physical(u), jax.jit(again.to_physical)(u), strict=True):
        np.testing.assert_array_equal(one, other)


def test_lowers_for_tpu(case):
    for function, shape in (
        (case("alanine_dipeptide").to_physical, (8, 60)),
        (case("alanine_dipeptide").from_physical, (8, 22, 3)),
    ):
        exported = jax.export.export(function, platforms=["tpu"])(jax.ShapeDtypeStruct(shape, jnp.float32))
        assert "f64" not in exported.mlir_module()


def test_bad_arrays_are_refused(case):
    dipeptide = case("alanine_dipeptide")
    with pytest.raises(ValueError, match=r"u must have shape \(\.\.\., 60\), got \(5, 66\)"):
        dipeptide.to_physical(jnp.zeros((5, 66)))
    with pytest.raises(ValueError, match=r"u must have shape \(\.\.\., 60\), got \(\)"):
        dipeptide.to_physical(jnp.zeros(()))
    with pytest.raises(ValueError, match="u must be floating, got dtype int32"):
        dipeptide.to_physical(jnp.zeros(60, jnp.int32))
    for shape in ((22,), (3,), (21, 3), (3, 22), (2, 66)):
        with pytest.raises(ValueError, match=r"positions_nm must have shape \(\.\.\., 22, 3\)"):
            dipeptide.from_physical(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bond_reference_nm": [0.15, 0.03, 0.15, 0.15]}, r"bond_reference_nm must be over 0\.035 nm.*got 0\.03"),
        ({"angle_reference_rad": [1.9, 1.9, 3.13]}, r"angle_reference_rad must be in.*got 3\.13 at index 2"),
        ({"rows": [[3, 2, 1, 0], [4, 0, 3, 1]]}, r"row 1 is \[4, 0, 3, 1\]"),
    ],
)
def test_impossible_z_matrices_are_refused(changes, message, make_z_matrix):
    with pytest.raises(ValueError, match=message):
        internal_coordinates(make_z_matrix(**changes))


def test_constrained_bonds_may_be_short(make_z_matrix):
    z_matrix = make_z_matrix(bond_reference_nm=[0.15, 0.03, 0.15, 0.15], bond_is_constrained=[False, True, True, True])
    assert internal_coordinates(z_matrix).domain.num_dims == 1 + 3 + 2


def test_all_bonds_may_be_constrained(make_z_matrix):
    coordinates = internal_coordinates(make_z_matrix(bond_is_constrained=[True] * 4))
    positions_nm, _ = coordinates.to_physical(jnp.full((2, 5), 0.3))
    u, _, in_domain = coordinates.from_physical(positions_nm)
    # Rounding of float32 positions over a bond of 0.15 nm.
    np.testing.assert_allclose(u, 0.3, rtol=0, atol=1e-5)
    assert in_domain.all()
