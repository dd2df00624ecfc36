"""Text files as the programs of this world save them."""

import pytest

from evalkit.data.boxes import read_boxes
from evalkit.data.labels import load_classes
from evalkit.data.sources import ListedClass, image_folder
from evalkit.data.text import read_names, read_table
from evalkit.errors import UserError

TABLE = "file,class\na/0.png,Zürich\na/1.png,b\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    "change", [lambda text: text, lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\n", "\n,,\n\n")]
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_one_table_however_it_is_saved(tmp_path, encoding, change, separator):
    file = tmp_path / "l.csv"
    file.write_bytes(change(TABLE).replace(",", separator).encode(encoding))
    columns, rows = read_table(file)
    assert columns == ["file", "class"]
    assert [(row["file"], row["class"]) for row in rows] == [("a/0.png", "Zürich"), ("a/1.png", "b")]


def test_quotes_blanks_and_the_first_line_of_excel(tmp_path):
    file = tmp_path / "l.csv"
    file.write_text('sep=;\n"file"; class\n\n"a;\n0.png";"say ""x"""\n;\nb.png\n')
    columns, rows = read_table(file)
    assert columns == ["file", "class"]
    assert [(row.line, row["file"], row["class"]) for row in rows] == [(4, "a;\n0.png", 'say "x"'), (7, "b.png", "")]
    file.write_text('\ufeffdog\n\n,,\n"tench, Tinca tinca"\n  fish \n')
    assert read_names(file) == [(1, "dog"), (4, "tench, Tinca tinca"), (5, "fish")]


def labels(folder, file):
    image_folder(str(folder), str(file))


def classes(_folder, file):
    load_classes(str(file), 2)


def class_map(_folder, file):
    load_classes(None, 2, str(file))


def boxes(_folder, file):
    read_boxes(file)


@pytest.mark.parametrize("reader", [labels, classes, class_map, boxes])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file,class,index\nx,Zürich,0\n".encode("cp1252"), r"l\.txt, line 2: the byte 0xfc is not UTF-8; save the file as UTF-8"),
        ("file,class,index\nx,日,0\n".encode("shift_jis"), r"l\.txt, line 2: the byte 0x93 is not UTF-8"),
        ("file,class,index\nx,y,0\n".encode("utf-16-le"), r"l\.txt, line 1: a NUL byte"),
        (b"file,class,index\nx,y\0,0\n", r"l\.txt, line 2: a NUL byte"),
        ("ab".encode("utf-16") + b"x", r"l\.txt, line 1: the byte 0x78 is not UTF-16"),
    ],
)
def test_what_is_no_text_is_said_alike_by_every_reader(folder, tmp_path, reader, content, says):
    file = tmp_path / "l.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=says):
        reader(folder, file)


def test_an_open_quote_does_not_swallow_the_rest(tmp_path):
    file = tmp_path / "l.csv"
    file.write_text('file,class\na.png,"dog\nb.png,cat\n')
    with pytest.raises(UserError, match=r"line 2 is no CSV \(unexpected end of data\)"):
        read_table(file)


def test_a_value_without_a_column_or_with_two_is_refused(tmp_path):
    file = tmp_path / "l.csv"
    file.write_text("file,class\na.png,dog,,\nb.png,great white, shark\n")
    with pytest.raises(UserError, match=r'line 3: 3 values for 2 columns; .* as in "great white, shark"'):
        read_table(file)
    file.write_text("file;class;class;;\na.png;dog;dog;x;y\nb.png;dog;cat;;\n")
    with pytest.raises(UserError, match=r"line 3: two columns are called 'class', with 'dog' and 'cat'"):
        read_table(file)
    file.write_text('file,class,,\na.png,"great white, shark",x,y\n')  # unnamed columns, as of spreadsheets, are passed over
    assert read_table(file)[1][0]["class"] == "great white, shark"


@pytest.mark.parametrize("end", ["\x1a", "\x1a\r\n"])
def test_the_end_of_file_mark_of_windows_is_no_row(tmp_path, end):
    file = tmp_path / "l.csv"
    file.write_text("file,class\na.png,dog\n" + end)
    assert [row["file"] for row in read_table(file)[1]] == ["a.png"]
    assert [name for _, name in read_names(file)] == ["file,class", "a.png,dog"]


def test_rows_of_separators_are_no_images(folder, tmp_path):
    listed = tmp_path / "l.csv"
    listed.write_text("file,class\na/0.png,x\n,,\n\na/1.png,y\n")
    source = image_folder(str(folder), str(listed))
    assert [source.class_keys(i) for i in range(len(source))] == [(ListedClass("x", None),), (ListedClass("y", None),)]
    listed.write_text("file,class\n,x\n")
    with pytest.raises(UserError, match="line 2 names no file"):
        image_folder(str(folder), str(listed))
