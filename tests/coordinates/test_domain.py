import numpy as np
import pytest

from cmtjax.coordinates import Domain


def test_box():
    domain = Domain.box(3, [True, False, False])
    assert domain.num_dims == 3
    np.testing.assert_array_equal(domain.is_circular, [True, False, False])
    np.testing.assert_array_equal(domain.is_periodic, domain.is_circular)
    assert np.unique(domain.groups).size == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([True, False], [False], [0, 0]), "one length"),
        (([], [], []), "one length > 0"),
        (([[True]], [[True]], [[0]]), "vectors"),
        (([False, True], [True, True], [0, 0]), r"dimensions \[0\] are periodic only"),
    ],
)
def test_bad_domains_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Domain(*arguments)
