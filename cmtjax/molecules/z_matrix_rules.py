"""The rule that turns a peptide's topology into its z-matrix rows.

The main chain is placed first, every atom on the three before it. Then, residue by residue, what hangs on the main
chain, and the side chains outwards: at each rotatable bond the first atom gets the proper torsion, and its siblings are
placed relative to it, so that one torsion turns the group. For the alanine peptides this gives the z-matrices published
with Temperature-Annealed Boltzmann Generators (Schopmans and Friederich, 2025).
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Sequence

from openmm import app

Row = tuple[int, int, int, int]

_MAIN_CHAIN = {"ACE": ("C",), "NME": ("N", "C")}
_RESIDUE_MAIN_CHAIN = ("N", "CA", "C")


class Window(enum.Enum):
    """Over which part of the circle a torsion runs."""

    FULL = "full"
    #: Half a turn, [0, 1/2] or [1/2, 1]: that in which the torsion lies at the minimum. It keeps the hand of a
    #: stereocenter, or one of the equivalent labelings of hydrogens.
    SIDE_OF_MINIMUM = "side of the minimum"
    #: Half a turn centered on the minimum, for a planar NH2, whose minima at 0 and π lie on the border of the halves.
    AROUND_MINIMUM = "around the minimum"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Rows of a z-matrix without values.

    Attributes:
      initial_atoms: the three atoms of the frame.
      rows: (i, j, k, l): i is placed by bond i-j, angle i-j-k, dihedral i-j-k-l.
      windows: one for each row.
      ramachandran_rows: indices of the rows of φ and ψ, for each residue that has both.
    """

    initial_atoms: tuple[int, int, int]
    rows: tuple[Row, ...]
    windows: tuple[Window, ...]
    ramachandran_rows: tuple[tuple[int, int], ...]


def place_atoms(topology: app.Topology) -> Placement:
    """Derives the z-matrix rows of a peptide.

    Args:
      topology: one chain of standard residues with all hydrogens, ACE and NME allowed at its ends.

    Raises:
      ValueError: if a residue is no amino acid or cap, two neighbors are not bonded, or an atom hangs on nothing.
    """
    return _Placer(topology).place()


class _Placer:
    """Collects rows; knows which atoms are placed."""

    def __init__(self, topology: app.Topology) -> None:
        self.atoms: list[app.topology.Atom] = list(topology.atoms())
        self.residues: list[app.topology.Residue] = list(topology.residues())
        self.neighbors: list[list[int]] = [[] for _ in self.atoms]
        for first, second in topology.bonds():
            self.neighbors[first.index].append(second.index)
            self.neighbors[second.index].append(first.index)
        self.main_chains = [self._main_chain(residue) for residue in self.residues]
        self.rows: list[Row] = []
        self.windows: list[Window] = []
        self.placed: set[int] = set()

    def place(self) -> Placement:
        chain = [atom for part in self.main_chains for atom in part]
        if len(chain) < 3:
            raise ValueError(f"topology: its main chain must have at least 3 atoms, got {len(chain)}.")
        for one, two in itertools.pairwise(chain):
            if two not in self.neighbors[one]:
                raise ValueError(
                    f"topology: {self._label(one)} and {self._label(two)} must be bonded (one chain, no gap)."
                )
        self.placed.update(chain[:3])
        for index in range(3, len(chain)):
            self._add(chain[index], chain[index - 1], chain[index - 2], chain[index - 3])
        ramachandran_rows = self._ramachandran_rows()
        for index in range(len(self.residues)):
            self._place_residue(index)
        for atom in range(len(self.atoms)):
            if atom not in self.placed:
                raise ValueError(f"topology: {self._label(atom)} is not bonded to the rest of its residue.")
        return Placement((chain[0], chain[1], chain[2]), tuple(self.rows), tuple(self.windows), ramachandran_rows)

    def _main_chain(self, residue: app.topology.Residue) -> list[int]:
        indices = {atom.name: atom.index for atom in residue.atoms()}
        names = _MAIN_CHAIN.get(residue.name, _RESIDUE_MAIN_CHAIN)
        if not indices.keys() >= set(names):
            raise ValueError(
                f"topology: residue {residue.name}{residue.index} lacks {names}; it is no amino acid or cap."
            )
        return [indices[name] for name in names]

    def _ramachandran_rows(self) -> tuple[tuple[int, int], ...]:
        row_of = {row: index for index, row in enumerate(self.rows)}
        pairs = []
        for index in range(1, len(self.residues) - 1):
            nitrogen, alpha, carbon = self.main_chains[index]
            phi = (carbon, alpha, nitrogen, self.main_chains[index - 1][-1])
            psi = (self.main_chains[index + 1][0], carbon, alpha, nitrogen)
            pairs.append((row_of[phi], row_of[psi]))
        return tuple(pairs)

    def _place_residue(self, index: int) -> None:
        previous = self.main_chains[index - 1][-1] if index > 0 else None
        following = self.main_chains[index + 1] if index + 1 < len(self.residues) else None
        main = self.main_chains[index]
        if self.residues[index].name == "ACE":
            if previous is not None or following is None:
                raise ValueError(f"topology: the cap ACE must stand first of several residues, it is residue {index}.")
            self._place_ace(main[0], following)
        elif self.residues[index].name == "NME":
            if previous is None or following is not None:
                raise ValueError(f"topology: the cap NME must stand last of several residues, it is residue {index}.")
            self._place_nme(main[0], main[1], previous)
        else:
            self._place_amino_acid(main[0], main[1], main[2], previous, following[0] if following else None)

    def _place_ace(self, carbon: int, following: Sequence[int]) -> None:
        (oxygen,) = self._unplaced(carbon, "O")
        (methyl,) = self._unplaced(carbon, "C")
        self._add(oxygen, carbon, following[0], following[1])
        self._add(methyl, carbon, following[0], oxygen)
        self._place_outwards([(methyl, carbon, oxygen)])

    def _place_nme(self, nitrogen: int, methyl: int, previous: int) -> None:
        for hydrogen in self._unplaced(nitrogen):
            self._add(hydrogen, nitrogen, previous, methyl)
        self._place_outwards([(methyl, nitrogen, previous)])

    def _place_amino_acid(
        self, nitrogen: int, alpha: int, carbon: int, previous: int | None, following: int | None
    ) -> None:
        outwards = []
        for atom in self._unplaced(alpha):
            if self._is_hydrogen(atom):
                self._add(atom, alpha, nitrogen, carbon, Window.SIDE_OF_MINIMUM)
            else:
                self._add(atom, alpha, carbon, nitrogen)
                outwards.append((atom, alpha, nitrogen))
        self._place_siblings(carbon, alpha, nitrogen, following)
        # At the nitrogen this is the hydrogen, or the ring's carbon of proline.
        nitrogen_heavy = [atom for atom in self._unplaced(nitrogen) if not self._is_hydrogen(atom)]
        self._place_siblings(nitrogen, alpha, carbon, previous)
        outwards += [(atom, nitrogen, alpha) for atom in nitrogen_heavy]
        self._place_outwards(outwards)

    def _place_outwards(self, centers: list[tuple[int, int, int]]) -> None:
        """Breadth first from centers (atom, its parent, what the first child's torsion refers to)."""
        for center, parent, reference in centers:
            children = self._unplaced(center)
            # Where a ring closes on an atom already placed, that atom is the first sibling.
            closing = [atom for atom in self._residue_neighbors(center) if atom in self.placed and atom != parent]
            self._place_siblings(center, parent, reference, closing[0] if closing else None)
            centers.extend((child, center, parent) for child in children if not self._is_hydrogen(child))

    def _place_siblings(self, center: int, parent: int, reference: int, sibling: int | None) -> None:
        """Places all that is left at a center: relative to a sibling, or the first by its own torsion."""
        children = self._unplaced(center)
        for child, window in zip(children, self._sibling_windows(center, parent, children), strict=True):
            self._add(child, center, parent, reference if sibling is None else sibling, window)
            if sibling is None:
                sibling = child

    def _sibling_windows(self, center: int, parent: int, children: Sequence[int]) -> list[Window]:
        """Ranges that keep one hand of a stereocenter and one labeling of like hydrogens."""
        windows = [Window.FULL] * len(children)
        hydrogens = [place for place, child in enumerate(children) if self._is_hydrogen(child)]
        num_neighbors = len(self.neighbors[center])
        if num_neighbors == 4 and len(hydrogens) == 3:
            sided = hydrogens[1:]
        elif num_neighbors == 4 and len(hydrogens) == 2:
            sided = hydrogens
        elif num_neighbors == 4 and len(children) == 3:
            sided = [1]  # two heavy atoms and a hydrogen: the hand of the center
        elif num_neighbors == 3 and len(hydrogens) == 2:
            if len(self.neighbors[parent]) == 3:
                windows[hydrogens[0]] = Window.AROUND_MINIMUM
                sided = []
            else:
                sided = hydrogens[1:]
        else:
            sided = []
        for place in sided:
            windows[place] = Window.SIDE_OF_MINIMUM
        return windows

    def _add(self, atom: int, bond: int, angle: int, dihedral: int, window: Window = Window.FULL) -> None:
        self.rows.append((atom, bond, angle, dihedral))
        self.windows.append(window)
        self.placed.add(atom)

    def _residue_neighbors(self, atom: int) -> list[int]:
        residue = self.atoms[atom].residue
        return [other for other in self.neighbors[atom] if self.atoms[other].residue is residue]

    def _unplaced(self, atom: int, symbol: str | None = None) -> list[int]:
        """Unplaced neighbors in the atom's own residue: heavy atoms before hydrogens, then by name."""
        found = [
            other
            for other in self._residue_neighbors(atom)
            if other not in self.placed and symbol in (None, self.atoms[other].element.symbol)
        ]
        return sorted(found, key=lambda other: (self._is_hydrogen(other), self.atoms[other].name))

    def _is_hydrogen(self, atom: int) -> bool:
        return bool(self.atoms[atom].element is app.element.hydrogen)

    def _label(self, atom: int) -> str:
        residue = self.atoms[atom].residue
        return f"{residue.name}{residue.index}:{self.atoms[atom].name}"
