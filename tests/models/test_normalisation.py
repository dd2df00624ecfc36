"""Mean and std of images in [0,1], and of no others."""

import pytest

from evalkit.errors import UserError
from evalkit.models.normalisation import check_normalisation


def test_what_can_be_meant():
    check_normalisation((0, 0, 0), (1, 1, 1))
    check_normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((127.5,) * 3, (127.5,) * 3, r"mean=\[127.5,127.5,127.5\]: .*divide by 255: mean=\[0.5,0.5,0.5\]"),
        ((0.5,) * 3, (58.395, 57.12, 57.375), r"divide by 255: std=\[0.229,0.224,0.225\]"),
        ((-0.5, 0.5, 0.5), (1, 1, 1), "give values from 0 to 1"),
        ((0.5,) * 3, (0, 1, 1), "give values above 0 and at most 1"),
        ((float("nan"),) * 3, (1, 1, 1), "give values from 0 to 1"),
    ],
)
def test_what_cannot(mean, std, says):
    with pytest.raises(UserError, match=says):
        check_normalisation(mean, std)
