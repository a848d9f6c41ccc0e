import collections

import numpy as np
import pytest

from cmtjax.molecules import build_z_matrix, force_fields, measure, minimize, peptides, z_matrix_rules
from cmtjax.molecules.z_matrix_rules import Window

SIZES = {
    "alanine_dipeptide": (22, 21, 20, 19),
    "alanine_tetrapeptide": (42, 19, 40, 39),
    "alanine_hexapeptide": (62, 29, 60, 59),
    "elil_tetrapeptide": (75, 33, 73, 72),
}


def named(names, rows):
    return {tuple(names[atom] for atom in row) for row in rows}


@pytest.mark.parametrize(("name", "sizes"), SIZES.items())
def test_dimensions_of_the_published_flows(name, sizes, published):
    z_matrix = published(name).z_matrix
    free_bonds = int(np.sum(~z_matrix.bond_is_constrained))
    assert sizes == (z_matrix.num_atoms, free_bonds, z_matrix.angle_reference_rad.size, z_matrix.torsion_start.size)


@pytest.mark.parametrize("name", ["alanine_tetrapeptide", "alanine_hexapeptide"])
def test_rows_and_half_ranges_are_the_published_ones(name, published, reference_z_matrices):
    reference = reference_z_matrices[name]
    names, rows = reference["atom_names"], np.array(reference["rows"])
    z_matrix = published(name).z_matrix
    assert named(z_matrix.atom_names, [z_matrix.initial_atoms]) == named(names, [reference["init_atoms"]])
    assert named(z_matrix.atom_names, z_matrix.rows) == named(names, rows)
    halved = reference["chiral_torsion_idx"] + reference["perm_left"] + reference["perm_right"]
    halved_here = z_matrix.rows[z_matrix.torsion_width < 1.0]
    assert named(z_matrix.atom_names, halved_here) == named(names, rows[halved])
    pairs = [named(names, rows[pair]) for pair in reference["rama"]]
    assert [named(z_matrix.atom_names, z_matrix.rows[pair]) for pair in z_matrix.ramachandran_rows] == pairs


@pytest.mark.parametrize("name", SIZES)
def test_residues_are_l_and_half_ranges_hold_the_minimum(name, published):
    molecule = published(name)
    z_matrix = molecule.z_matrix
    turns = measure.turns(measure.dihedrals(molecule.positions_nm, z_matrix.rows))
    assert np.all((turns - z_matrix.torsion_start) % 1.0 <= z_matrix.torsion_width)
    for row, start, width in zip(z_matrix.rows, z_matrix.torsion_start, z_matrix.torsion_width, strict=True):
        if z_matrix.atom_names[row[0]].endswith(":HA"):
            assert (start, width) == (0.5, 0.5)


def test_elil_half_ranges(published):
    z_matrix = published("elil_tetrapeptide").z_matrix
    halved = {z_matrix.atom_names[atom] for atom in z_matrix.rows[z_matrix.torsion_width < 1.0, 0]}
    expected = {f"{residue}:HA" for residue in ("GLU0", "LEU1", "ILE2", "LEU3")}
    expected |= {"GLU0:H2", "GLU0:H3", "GLU0:HB2", "GLU0:HB3", "GLU0:HG2", "GLU0:HG3"}
    for leucine in ("LEU1", "LEU3"):
        hydrogens = ("HB2", "HB3", "HD12", "HD13", "HD22", "HD23")
        expected |= {f"{leucine}:{atom}" for atom in ("CD2", *hydrogens)}
    expected |= {f"ILE2:{atom}" for atom in ("CG2", "HG12", "HG13", "HG22", "HG23", "HD12", "HD13")}
    assert halved == expected
    backbone = [named(z_matrix.atom_names, z_matrix.rows[pair]) for pair in z_matrix.ramachandran_rows]
    assert backbone == [
        {(f"{one}:C", f"{one}:CA", f"{one}:N", f"{before}:C"), (f"{after}:N", f"{one}:C", f"{one}:CA", f"{one}:N")}
        for before, one, after in [("GLU0", "LEU1", "ILE2"), ("LEU1", "ILE2", "LEU3")]
    ]


@pytest.fixture(scope="module")
def all_residues():
    codes = list(peptides.ONE_LETTER_CODES)
    topology, positions_nm = peptides.build_peptide(
        "-".join(codes), force_field="amber99sbildn-obc2", phi_degrees=-75.0, psi_degrees=145.0
    )
    names = [f"{atom.residue.name}:{atom.name}" for atom in topology.atoms()]
    return topology, positions_nm, names, z_matrix_rules.place_atoms(topology)


def test_one_proper_torsion_turns_each_bond(all_residues):
    topology, _, _, placement = all_residues
    bonds = {frozenset((one.index, two.index)) for one, two in topology.bonds()}
    proper = collections.Counter()
    for _, bond, angle, reference in placement.rows:
        if frozenset((reference, angle)) in bonds:
            proper[frozenset((bond, angle))] += 1
        else:  # a sibling: it turns with the atom it refers to
            assert frozenset((reference, bond)) in bonds
    assert set(proper.values()) == {1}


def test_atoms_are_placed_once_and_from_placed_atoms(all_residues):
    _, _, names, placement = all_residues
    placed = set(placement.initial_atoms)
    for atom, *parents in placement.rows:
        assert placed.issuperset(parents)
        assert atom not in placed
        placed.add(atom)
    assert len(placed) == len(names)


def test_every_bond_is_a_bond(all_residues):
    topology, _, names, placement = all_residues
    bonds = {frozenset((one.index, two.index)) for one, two in topology.bonds()}
    for atom, bond, angle, _ in placement.rows:
        assert frozenset((atom, bond)) in bonds, names[atom]
        assert frozenset((bond, angle)) in bonds, names[atom]


def rows_of(all_residues, residue):
    _, _, names, placement = all_residues
    return {
        names[row[0]].split(":")[1]: (tuple(names[atom].split(":")[1] for atom in row[1:]), window)
        for row, window in zip(placement.rows, placement.windows, strict=True)
        if names[row[0]].startswith(residue + ":")
    }


@pytest.mark.parametrize(
    ("residue", "atom", "parents", "window"),
    [
        # the second heavy branch of a stereocenter or a prochiral pair
        ("ILE", "CG2", ("CB", "CA", "CG1"), Window.SIDE_OF_MINIMUM),
        ("LEU", "CD2", ("CG", "CB", "CD1"), Window.SIDE_OF_MINIMUM),
        ("VAL", "CG2", ("CB", "CA", "CG1"), Window.SIDE_OF_MINIMUM),
        ("THR", "OG1", ("CB", "CA", "CG2"), Window.SIDE_OF_MINIMUM),
        ("ILE", "HB", ("CB", "CA", "CG1"), Window.FULL),
        # like hydrogens
        ("GLY", "HA2", ("CA", "N", "C"), Window.SIDE_OF_MINIMUM),
        ("GLY", "HA3", ("CA", "N", "C"), Window.SIDE_OF_MINIMUM),
        ("LYS", "HZ1", ("NZ", "CE", "CD"), Window.FULL),
        ("LYS", "HZ2", ("NZ", "CE", "HZ1"), Window.SIDE_OF_MINIMUM),
        ("SER", "HG", ("OG", "CB", "CA"), Window.FULL),
        # planar NH2
        ("ASN", "HD21", ("ND2", "CG", "CB"), Window.AROUND_MINIMUM),
        ("ASN", "HD22", ("ND2", "CG", "HD21"), Window.FULL),
        ("GLN", "HE21", ("NE2", "CD", "CG"), Window.AROUND_MINIMUM),
        ("ARG", "HH11", ("NH1", "CZ", "NE"), Window.AROUND_MINIMUM),
        ("ARG", "HH12", ("NH1", "CZ", "HH11"), Window.FULL),
        # rings: the proper torsion once, siblings and the closing atom as references
        ("PHE", "CD2", ("CG", "CB", "CD1"), Window.FULL),
        ("PHE", "HE2", ("CE2", "CD2", "CZ"), Window.FULL),
        ("PRO", "CD", ("N", "CA", "C"), Window.FULL),  # C of the residue before
        ("PRO", "CG", ("CB", "CA", "N"), Window.FULL),
        ("PRO", "HD2", ("CD", "N", "CG"), Window.SIDE_OF_MINIMUM),
        ("ALA", "H2", ("N", "CA", "H"), Window.SIDE_OF_MINIMUM),
        ("VAL", "OXT", ("C", "CA", "O"), Window.FULL),
    ],
)
def test_rules_for_single_atoms(all_residues, residue, atom, parents, window):
    assert rows_of(all_residues, residue)[atom] == (parents, window)


def test_planar_window_is_centered_on_the_minimum():
    topology, start_nm = peptides.build_peptide(
        "ACE-ASN-NME", force_field="amber99sbildn-obc2", phi_degrees=-75.0, psi_degrees=145.0
    )
    system = force_fields.create_system(topology, "amber99sbildn-obc2")
    positions_nm, _ = minimize.minimize(system, start_nm)
    z_matrix = build_z_matrix.build_z_matrix(topology, system, positions_nm)
    (row,) = (index for index, atoms in enumerate(z_matrix.rows) if z_matrix.atom_names[atoms[0]] == "ASN1:HD21")
    turn = measure.turns(measure.dihedrals(positions_nm, z_matrix.rows[row : row + 1]))[0]
    assert z_matrix.torsion_width[row] == 0.5
    # A quarter turn to either side, to the rounding of float64.
    assert (turn - z_matrix.torsion_start[row]) % 1.0 == pytest.approx(0.25, abs=1e-12)
    # The minimum of a planar NH2 lies near 0 or π, the borders of the fixed halves.
    assert min(turn % 0.5, 0.5 - turn % 0.5) < 0.05


def test_gaps_and_strangers_are_refused():
    topology, _ = peptides.build_peptide(
        "ALA-ALA", force_field="amber99sbildn-obc2", phi_degrees=-75.0, psi_degrees=145.0
    )
    topology._bonds = [bond for bond in topology._bonds if bond[0].residue is bond[1].residue]
    with pytest.raises(ValueError, match="ALA0:C and ALA1:N must be bonded"):
        z_matrix_rules.place_atoms(topology)
    list(topology.residues())[1]._atoms[0].name = "X"
    with pytest.raises(ValueError, match=r"residue ALA1 lacks .*no amino acid or cap"):
        z_matrix_rules.place_atoms(topology)
