"""Labels follow names, never ranks."""

import pytest

from evalkit.data import labels
from evalkit.data.class_words import by_words
from evalkit.data.imagenet import synonyms, wnids
from evalkit.data.labels import Classes, load_classes
from evalkit.data.sources import ListedClass
from evalkit.errors import UserError


def test_imagenet_by_wnid_and_name():
    classes = load_classes("imagenet", 1000)
    assert classes.index("n07920052") == classes.index("espresso") == 967
    assert classes.index("n00000000") is None
    assert classes.name(967) == "espresso"


def test_a_models_own_order_wins_over_a_lists_index(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("n03888257\nn01440764\n")
    classes = load_classes(str(file), 2)
    assert classes.index(ListedClass("n01440764", 0)) == 1
    assert classes.index(ListedClass("n03888257", 701)) == 0
    assert classes.name(1) == "tench"
    assert [classes.index(w) for w in wnids()[1:5]] == [None] * 4


def test_names_as_the_hub_spells_them():
    classes = load_classes("imagenet", 1000)
    assert classes.index(ListedClass("tench, Tinca tinca", 0)) == 0
    assert classes.index(ListedClass("crane", 517)) == 517
    assert classes.index(ListedClass("tench, Tinca tinca", 5)) is None


def test_unnamed_classes_take_the_lists_index():
    classes = Classes(10)
    assert classes.index(ListedClass("cat", 3)) == 3 and classes.index(4) == 4
    assert classes.index("cat") is None and classes.index(None) is None
    with pytest.raises(UserError, match="label 217 is no output of a model with 10"):
        classes.index(ListedClass("n02102040", 217))


@pytest.mark.parametrize(
    ("given", "says"), [("absent.txt", "no file absent.txt"), ("imagenet", "1000 ImageNet classes"), (["a"], "1 classes")]
)
def test_classes_that_do_not_fit(given, says):
    with pytest.raises(UserError, match=says):
        load_classes(given, 10)


def test_a_class_map_alone_translates_names(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("class,index,name\ndog,151,Chihuahua\ncat,281,tabby\ndog,152,Japanese spaniel\n")
    mapped, plain = load_classes("imagenet", 1000, str(file)), load_classes("imagenet", 1000)
    assert mapped.outputs_of("dog") == mapped.outputs_of(ListedClass("dog", None)) == (151, 152)
    assert mapped.outputs_of("cat") == (281,)
    assert mapped.outputs_of("kite") == () and plain.outputs_of("kite") == (21,)  # a homonym: there a toy, here a bird
    assert mapped.outputs_of(7) == plain.outputs_of(7) == (7,)


def test_names_are_compared_in_one_unicode_form_without_marks(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffcafe\u0301\nNaïve\n", encoding="utf-8")
    classes = load_classes(str(file), 2)
    assert classes.index("café") == classes.index("cafe\u0301") == classes.index(ListedClass(" café", None)) == 0
    assert classes.index("naïve") is None and classes.meant("naïve") == "Naïve"
    (tmp_path / "map.csv").write_text("class;index\ncafe\u0301;1\n;;\ncafé;0\n", encoding="utf-8-sig")
    assert load_classes(str(file), 2, str(tmp_path / "map.csv")).outputs_of("café") == (1, 0)
    (tmp_path / "map.csv").write_text("class,index\n,\n")
    with pytest.raises(UserError, match="lists no classes"):
        load_classes(str(file), 2, str(tmp_path / "map.csv"))


def test_a_name_near_to_a_class():
    classes = load_classes("imagenet", 1000)
    assert classes.meant("golden_retriever") == classes.meant("Golden-Retriever") == "golden retriever"
    assert classes.meant("goldn retriever") == "golden retriever"
    assert classes.meant("n01440765") is None and classes.meant("unicorn rider") is None
    assert Classes(3).meant("x") is None


def test_two_outputs_of_one_name(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("café\n\nb\ncafe\u0301\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"classes.txt, lines 1 and 4 both say"):
        load_classes(str(file), 3)
    with pytest.raises(UserError, match=r"model\.classes, entries 1 and 3 both say 'a'"):
        load_classes(["a", "b", "a"], 3)
    names = [f"class {i}" for i in range(1000)]
    names[134] = names[517] = "crane"
    file.write_text("\n".join(names) + "\n")
    classes = load_classes(str(file), 1000)
    assert [classes.index(ListedClass("crane", i)) for i in (134, 517)] == [134, 517]
    file.write_text("\n".join([*names[:-1], names[0]]) + "\n")
    with pytest.raises(UserError, match="lines 1 and 1000 both say 'class 0'"):
        load_classes(str(file), 1000)


@pytest.mark.parametrize(
    ("given", "output"),
    [("ball point pen", 418), ("Ball-Point Pen", 418), ("teddy bear", 850), ("teddy bears", 850), ("golden_retriever", 207),
     ("hot dog", 934), ("sea lion pup", 150), ("jack o lantern", 607), ("jack-o-lantern", 607)],
)  # fmt: skip
@pytest.mark.parametrize("timm", [True, False])
def test_a_name_of_several_words_is_read_word_by_word(given, output, timm, monkeypatch):
    """With and without timm, which knows the synonyms of ImageNet's classes."""
    if not timm:
        monkeypatch.setattr(labels, "synonyms", dict)
    classes = load_classes("imagenet", 1000)
    assert classes.output(given) == output and classes.name(output) in classes.read_as(given)


def test_synonyms_of_imagenets_classes():
    pytest.importorskip("timm")
    assert list(synonyms()) == wnids()
    classes = load_classes("imagenet", 1000)
    assert classes.output("Biro") == classes.output("ballpen") == 418
    assert classes.read_as("Biro") == "ballpoint, ballpoint pen, ballpen, Biro"
    torchvisions = [classes.name(i) for i in range(1000)]
    agree = sum(torchvisions[i].lower() in synonyms()[wnid].lower() for i, wnid in enumerate(wnids()))
    assert agree > 990  # of the same class at the same place; a few are spelt otherwise


@pytest.mark.parametrize("name", ["teddy", "TEDDY", "teddy, teddy bear", "n04399382", "850", 850])
def test_a_name_that_a_class_has_is_not_read_otherwise(name):
    classes = load_classes("imagenet", 1000)
    assert classes.output(name) == 850 and classes.read_as(name) is None


def test_a_name_of_several_classes_is_listed(monkeypatch):
    classes = load_classes("imagenet", 1000)
    with pytest.raises(UserError, match=r"target=retriever may be flat-coated retriever \(205\), .*Chesapeake Bay retriever \(209\): give"):
        classes.output("retriever")
    with pytest.raises(UserError, match=r"\(251\), .*, \.\.\.: give the name of one"):
        classes.output("dog")  # more than a message lists
    voc = Classes(3, ["person", "car", "dining table"])
    with pytest.raises(UserError, match=r"target=person or car may be person \(0\), car \(1\)"):
        voc.output("person or car")
    assert voc.output("diningtable") == voc.output("table") == 2


def test_a_slip_and_markup_are_no_descriptions():
    classes = load_classes("imagenet", 1000)
    with pytest.raises(UserError, match="did you mean 'tiger shark'"):
        classes.output("tiger shrk")
    for given in ("<b>espresso</b>", "espresso\x1b[2J", "espresso;cup", "", "  ", "-"):
        assert by_words(given, {0: ["espresso"]}) == []
    assert by_words("an espresso", {0: ["espresso"]}) == [0]


def test_a_part_within_a_longer_part_does_not_count():
    names = {3: ["bear"], 5: ["American black bear"], 6: ["black bear"], 7: ["black"]}
    assert by_words("an American black bear cub", names) == [5]
    assert by_words("bear in black", names) == [3, 7]
    assert by_words("bear in black", {**names, 8: ["in black"]}) == [3, 8]
