"""What the unit box of a flow means, dimension by dimension."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    """The unit box [0, 1]^d on which a flow lives.

    Attributes:
      is_circular: (d,) bool, modelled by a circular spline over a uniform base (all torsions).
      is_periodic: (d,) bool, u = 0 and u = 1 are the same point (a full-range torsion, not a half-range one);
        samplers may wrap these dimensions only. Implies ``is_circular``.
      groups: (d,) int, label of the group that a dimension belongs to (``BONDS``, ``ANGLES``, ``TORSIONS`` for
        molecules); coupling masks split every group in halves by itself.
    """

    is_circular: np.ndarray
    is_periodic: np.ndarray
    groups: np.ndarray

    BONDS = 0
    ANGLES = 1
    TORSIONS = 2

    def __post_init__(self) -> None:
        for name, dtype in (("is_circular", bool), ("is_periodic", bool), ("groups", np.int32)):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=dtype))
        shapes = {name: getattr(self, name).shape for name in ("is_circular", "is_periodic", "groups")}
        if len(set(shapes.values())) != 1 or len(self.is_circular.shape) != 1 or self.is_circular.size == 0:
            raise ValueError(f"is_circular, is_periodic and groups must be vectors of one length > 0, got {shapes}.")
        if np.any(self.is_periodic & ~self.is_circular):
            dims = np.flatnonzero(self.is_periodic & ~self.is_circular).tolist()
            raise ValueError(f"is_periodic must imply is_circular, but dimensions {dims} are periodic only.")

    @property
    def num_dims(self) -> int:
        """d, the number of dimensions of the box."""
        return int(self.is_circular.size)

    @classmethod
    def box(cls, num_dims: int, is_circular: np.ndarray | bool = False) -> Domain:
        """A box whose dimensions form one group; circular dimensions are periodic."""
        circular = np.broadcast_to(np.asarray(is_circular, bool), (num_dims,))
        return cls(circular, circular, np.zeros(num_dims, np.int32))
