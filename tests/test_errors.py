"""What mistakes look like: suggestions for names that nobody knows, and whose fault is whose."""

from botocore.exceptions import NoCredentialsError

from evalkit.errors import cause, did_you_mean, remote_failure


def test_the_nearest_name_or_all_of_them():
    assert did_you_mean("vgg61", ["vgg16", "resnet50"]) == "; did you mean 'vgg16'?"
    assert did_you_mean("zzz", ["b", "a", "b"]) == "; known: a, b"
    assert did_you_mean("zzz", (f"n{i:02d}" for i in range(13))).endswith("n11, ...")
    assert did_you_mean("zzz", []) == ""


def test_swapped_characters_win_over_a_name_just_as_near():
    assert did_you_mean("vgg61", ["vgg11", "vgg13", "vgg16", "vgg19"]) == "; did you mean 'vgg16'?"
    assert did_you_mean("resnt18", ["resnet18", "resnet50"]) == "; did you mean 'resnet18'?"


def test_what_a_remote_store_refuses_is_a_sentence_and_nothing_else_is():
    assert remote_failure(NoCredentialsError()) == "the remote store failed (Unable to locate credentials)"
    assert remote_failure(ValueError("x")) is None and remote_failure(OSError("x")) is None


def test_of_a_cause_the_first_sentence_is_told():
    long = "Proxy object cannot be iterated. This can be attempted when the Proxy is used in a loop. See https://pytorch.org/fx."
    assert cause(TypeError(long)) == "TypeError: Proxy object cannot be iterated"
    for whole in ("expected 1.5 of torch.nn.Linear, not e.g. Conv2d", "(x.py). the rest", "A. Turing found 3. Nothing", "no end"):
        assert cause(ValueError(f"{whole}\nmore")) == f"ValueError: {whole}"
