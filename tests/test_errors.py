"""Suggestions for names that nobody knows."""

from evalkit.errors import did_you_mean


def test_the_nearest_name_or_all_of_them():
    assert did_you_mean("vgg61", ["vgg16", "resnet50"]) == "; did you mean 'vgg16'?"
    assert did_you_mean("zzz", ["b", "a", "b"]) == "; known: a, b"
    assert did_you_mean("zzz", (f"n{i:02d}" for i in range(13))).endswith("n11, ...")
    assert did_you_mean("zzz", []) == ""


def test_swapped_characters_win_over_a_name_just_as_near():
    assert did_you_mean("vgg61", ["vgg11", "vgg13", "vgg16", "vgg19"]) == "; did you mean 'vgg16'?"
    assert did_you_mean("resnt18", ["resnet18", "resnet50"]) == "; did you mean 'resnet18'?"
