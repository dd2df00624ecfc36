"""The settings of a data set against the parameters of its function."""

import pytest

from evalkit.config.calls import fitted
from evalkit.data.digits import Digits
from evalkit.data.imagenet import imagenet
from evalkit.data.sources import image_folder
from evalkit.errors import UserError


def test_a_number_is_text_where_text_is_meant():
    assert fitted(image_folder, {"root": 5, "labels": None}, "data") == {"root": "5", "labels": None}
    assert fitted(Digits, {"seed": 5}, "data") == {"seed": 5}
    assert fitted(lambda root, *rest, **more: None, {"root": 5, "other": 1}, "data") == {"root": 5, "other": 1}


@pytest.mark.parametrize(
    ("function", "settings", "says"),
    [
        (image_folder, {"root": "a", "label": "b"}, "no key 'data.label' in the configuration; did you mean 'labels'"),
        (image_folder, {"labels": "b"}, "data.root is not set: add data.root=..."),
        (image_folder, {"root": None}, "data.root is null: give the folder that holds the images, as in data.root=/data/photos$"),
        (image_folder, {"root": ""}, "data.root is empty: give the folder"),
        (imagenet, {"root": None}, "data.root is null: give the folder that holds the images"),
        (image_folder, {"root": ["a"]}, r"data.root=\[a\] is not valid: give the folder"),
        (Digits, {"seed": "x"}, "data.seed=x is not valid: give a whole number"),
        (Digits, {"seed": True}, "data.seed=true is not valid"),
    ],
)
def test_settings_that_do_not_fit(function, settings, says):
    with pytest.raises(UserError, match=says):
        fitted(function, settings, "data")
