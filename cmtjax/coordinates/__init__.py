"""What a flow's unit box means, and the map from the box to Cartesian positions."""

from cmtjax.coordinates.domain import Domain
from cmtjax.coordinates.internal import InternalCoordinates, internal_coordinates, is_same_box

__all__ = ["Domain", "InternalCoordinates", "internal_coordinates", "is_same_box"]
