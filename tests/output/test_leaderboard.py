"""The leaderboard's data: numbers of summary.csv, summaries that survive their file, runs that are ranked together or apart."""

import itertools
import json
import os
import re
import sys
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import HOSTILE, ROOT, fresh, make_run, run_of

from evalkit.analysis.evaluated import evaluate_run
from evalkit.errors import UserError
from evalkit.output.leaderboard import write_leaderboard
from evalkit.output.leaderboard_check import read_summary, summary_bytes, wrong_with
from evalkit.output.leaderboard_facts import Facts, read_verified
from evalkit.output.leaderboard_summary import POINT, SCHEMA, Summary, summarised, without_folder
from evalkit.output.write import write_all
from evalkit.runs.folder import RunFolder
from evalkit.runs.shards import parquet_bytes

NAMES = ("ablation_cam", "grad_cam", "random", "centre")


def scores(n=40, names=NAMES):
    rng = fresh()
    full = rng.uniform(1, 9, n)
    return full, {name: full * rng.uniform(0, 1.2, n) * share for share, name in zip(np.linspace(1, 0.4, len(names)), names, strict=True)}


def embedded(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def shown(run, names):
    """The rows of a run in the page's data by point, score, metric and method."""
    rows = {}
    for point, kind, *cells in run["rows"]:
        of = dict(zip(names, cells, strict=True))
        rows[run["points"][point]["key"], run["kinds"][kind]["score"], run["kinds"][kind]["metric"], of["method"]] = of
    return rows


def written(folder, summary, name="one.parquet"):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(summary_bytes(summary))
    return folder / name


def test_the_page_has_the_numbers_of_summary_csv(tmp_path):
    full, masked = scores()
    run = make_run(tmp_path / "run", full, masked)
    write_all([evaluate_run(run)], tmp_path / "tables", None)
    file = written(tmp_path, summarised(run.path))
    for given in (run.path, file):
        assert write_leaderboard([given], tmp_path / "page.html") == 1
        data = embedded(tmp_path / "page.html")
        rows = shown(data["runs"][0], data["row"])
        table = pd.read_csv(tmp_path / "tables" / "summary.csv")
        assert len(rows) == len(table) > 30
        for line in table.itertuples():
            row = rows["keep_top-20-black", line.score, line.metric, line.method]
            for name in ("n", "value", "low", "high"):
                expected = getattr(line, name)
                assert row[name] == (None if np.isnan(expected) else expected), (line, name)
            assert row["against"] == (line.against if isinstance(line.against, str) else None)


@pytest.mark.parametrize("select", ["keep_top", "remove_top"])
def test_the_floor_is_the_best_control_and_differences_are_paired(tmp_path, select):
    """The mean difference of the clipped drops, image by image, in a loop."""
    full, masked = scores()
    run = make_run(tmp_path / "run", full, masked, select=select)
    rows = [row for row in summarised(run.path).table.to_pylist() if (row["score"], row["metric"]) == ("confidence", "average_drop")]
    drops = {name: [100 * max(0, y - o) / y for y, o in zip(full, of, strict=True)] for name, of in masked.items()}
    better = min if select == "keep_top" else max
    floor = better(("random", "centre"), key=lambda name: sum(drops[name]))
    sign = 1 if select == "keep_top" else -1
    for row in rows:
        assert row["floor"] == floor and row["control"] is (row["method"] in ("random", "centre"))
        if row["method"] == floor:
            assert row["gain"] is None
            continue
        gain = sign * sum(b - a for a, b in zip(drops[row["method"]], drops[floor], strict=True)) / len(full)
        assert row["gain"] == pytest.approx(gain, rel=1e-9) and row["gain_low"] < row["gain"] < row["gain_high"]


def test_a_summary_survives_its_file(tmp_path):
    full, masked = scores()
    made = make_run(tmp_path / "run", full, {**masked, "grad_cam+blurred": full / 3}, record={"weights": "/home/me/secret/net.pth"})
    record = {"date": "2026-01-02T03:04:05", "images": 2, "of": 40, "differences": 0, "seed": 3, "other": 1}
    (tmp_path / "verified.json").write_text(json.dumps({**record, "rows_digest": RunFolder(made.path).digest()}))
    summary = summarised(made.path, report="https://x.org/r.html", verified=[read_verified(tmp_path / "verified.json")])
    file = written(tmp_path, summary)
    again = read_summary(file)
    assert again.table.equals(summary.table) and again.table.schema == SCHEMA and again.facts == json.loads(json.dumps(summary.facts))
    assert wrong_with([file]) == [] and b"secret" not in file.read_bytes() and str(tmp_path).encode() not in file.read_bytes()
    assert again.facts["model"]["weights"] == "weights/net.pth" and again.facts["images"]["scored"] == 40
    assert {row["method"] for row in again.table.to_pylist() if row["control"]} == {"random", "centre", "grad_cam+blurred"}
    write_leaderboard([file], tmp_path / "page.html")
    run = embedded(tmp_path / "page.html")["runs"][0]
    assert run["verified"]["badge"] == "verified, 2026-01-02, 5 %" and run["report"] == "https://x.org/r.html"


def test_a_verification_counts_for_its_own_rows_without_differences(tmp_path):
    full, masked = scores()
    made = make_run(tmp_path / "run", full, masked)
    record = {"date": "2026-01-02", "images": 40, "of": 40, "differences": 3, "rows_digest": RunFolder(made.path).digest(), "seed": 3}
    with pytest.raises(UserError, match="is of other rows than those of"):
        summarised(made.path, verified=[{**record, "rows_digest": "0" * 64}])
    file = written(tmp_path, summarised(made.path, verified=[record]))
    write_leaderboard([file], tmp_path / "page.html")
    run = embedded(tmp_path / "page.html")["runs"][0]
    assert run["verified"] == {
        "badge": None,
        "share": 1.0,
        "named": False,
        "says": "Not verified: on 2026-01-02 with all of the images recomputed (40 of 40), 3 differences.",
    }
    assert '<span class="badge">' not in (tmp_path / "page.html").read_text().partition('id="runs"')[2].partition("<script")[0]
    (tmp_path / "verified.json").write_text('{"date": 3}')
    with pytest.raises(UserError, match="is no record of `evalkit verify RUN --out FILE`: date"):
        read_verified(tmp_path / "verified.json")
    outcome = {
        "verified": True,
        "date": "2026-01-02T03:04:05+00:00",
        "rows_digest": "0" * 64,
        "sample": {"images": 40, "recomputed": 2, "seed": 7},
    }
    for more, differences in (({"rows_differing": 0}, 0), ({"verified": False, "rows_differing": 5}, 5), ({"verified": False}, 1)):
        (tmp_path / "verified.json").write_text(json.dumps({**outcome, **more, "structure": {}}))
        record = read_verified(tmp_path / "verified.json")
        expected = {"date": outcome["date"], "images": 2, "of": 40, "differences": differences, "rows_digest": "0" * 64}
        assert record == {**expected, "seed": 7, "drawn": True}
    (tmp_path / "verified.json").write_text("no JSON")
    with pytest.raises(UserError, match="is no record of"):
        read_verified(tmp_path / "verified.json")


@pytest.mark.parametrize(
    ("sample", "top", "badge"),
    [
        ({"recomputed": 16, "seed": None}, {}, "verified, 2026-01-02, 40 %, named shards"),
        ({"recomputed": 16, "seed": 3, "drawn": False}, {}, "verified, 2026-01-02, 40 %, named shards"),
        ({"recomputed": 16, "seed": 3}, {"drawn": False}, "verified, 2026-01-02, 40 %, named shards"),
        ({"recomputed": 16, "seed": 3}, {}, "verified, 2026-01-02, 40 %"),
        ({"recomputed": 16, "seed": None, "drawn": True}, {}, "verified, 2026-01-02, 40 %"),
        ({"recomputed": 40, "seed": None}, {}, "verified, 2026-01-02, all"),
    ],
)
def test_named_shards_are_no_drawn_sample(tmp_path, sample, top, badge):
    made = make_run(tmp_path / "run", *scores())
    outcome = {"verified": True, "date": "2026-01-02T03:04:05+00:00", "rows_digest": RunFolder(made.path).digest(), **top}
    (tmp_path / "verified.json").write_text(json.dumps({**outcome, "sample": {"images": 40, **sample}}))
    record = read_verified(tmp_path / "verified.json")
    files = [written(tmp_path, summarised(made.path, verified=[record]))]
    if "drawn" not in {**sample, **top}:  # summaries of records that do not say it
        files.append(written(tmp_path, summarised(made.path, verified=[{**record, "drawn": None}]), "other.parquet"))
    for file in files:
        write_leaderboard([file], tmp_path / "page.html")
        verified = embedded(tmp_path / "page.html")["runs"][0]["verified"]
        assert verified["badge"] == badge and ("in named shards" in verified["says"]) is ("named" in badge)


def test_two_files_of_one_run_with_other_rows(tmp_path):
    """Neither hides the other: the page refuses them in every order, the check names both; the same rows twice are one run."""
    full, masked = scores()
    run, swapped = (
        make_run(tmp_path / "run", full, masked).path,
        make_run(tmp_path / "other", full, dict(zip(masked, list(masked.values())[::-1], strict=True))).path,
    )
    record = {"date": "2026-01-02", "images": 4, "of": 40, "differences": 0, "rows_digest": RunFolder(run).digest(), "seed": 3}
    summary = summarised(run)
    files = [written(tmp_path, one, f"{name}.parquet") for name, one in (("a", summary), ("b", summarised(swapped)))]
    rows = summary.table.to_pylist()
    forged = [{**row, "method": {"grad_cam": "ablation_cam", "ablation_cam": "grad_cam"}.get(row["method"], row["method"])} for row in rows]
    files.append(written(tmp_path, Summary(pa.Table.from_pylist(forged, schema=SCHEMA), summary.facts), "c.parquet"))  # under its digest
    for one, other in itertools.permutations(files, 2):
        (sentence,) = wrong_with([one, other])
        assert sentence == f"{other}: it is of the same run as {one}, and has other numbers: keep one of the two"
        with pytest.raises(UserError, match=rf"{one} and {other} are of the same run \(identity .*\), and have other numbers"):
            write_leaderboard([one, other], tmp_path / "page.html")
    with pytest.raises(UserError, match="are of the same run"):
        write_leaderboard([run, files[1]], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    checked = written(tmp_path, summarised(run, report="https://x.org", verified=[record]), "checked.parquet")
    for given in itertools.permutations([run, files[0], files[0], checked]):
        assert write_leaderboard(given, tmp_path / "page.html") == 1
        shown_run = embedded(tmp_path / "page.html")["runs"][0]
        assert shown_run["verified"]["badge"] == "verified, 2026-01-02, 10 %" and shown_run["report"] == "https://x.org"
    assert wrong_with([files[0], files[0]]) == []
    short = Summary(summary.table.slice(0, len(rows) - len(masked)), summary.facts)
    pair = [written(tmp_path, short, "short.parquet"), files[0]]
    assert "and has other numbers" in wrong_with(pair)[0] and "and has other numbers" in wrong_with(pair[::-1])[0]
    more = [{**record, "images": 20, "date": "2026-01-03"}, {**record, "images": 1, "differences": 1}]
    further = [written(tmp_path, summarised(run, verified=[one]), f"more{i}.parquet") for i, one in enumerate(more)]
    for number, badge in ((1, "verified, 2026-01-03, 50 %"), (2, None)):  # the largest share, but a difference outweighs it
        for given in itertools.permutations([checked, *further[:number]]):
            write_leaderboard(given, tmp_path / "page.html")
            assert embedded(tmp_path / "page.html")["runs"][0]["verified"]["badge"] == badge


def test_methods_of_one_name_and_column_have_the_same_numbers(tmp_path):
    full, masked = scores()
    one = make_run(tmp_path / "one", full, masked).path
    runs = {
        "rounded": make_run(tmp_path / "rounded", full, {"layer_cam": full / 3, "random": masked["random"] * (1 + 1e-5)}),
        "other": make_run(tmp_path / "other", full, {"layer_cam": full / 3, "random": masked["random"] * 1.2}),
        "elsewhere": make_run(tmp_path / "elsewhere", full, {"layer_cam": full / 3, "random": masked["random"] * 1.2}, layer="m"),
    }
    first = written(tmp_path, summarised(one))
    said = {name: wrong_with([first, written(tmp_path, summarised(run.path), f"{name}.parquet")]) for name, run in runs.items()}
    assert said["rounded"] == said["elsewhere"] == []
    assert len(said["other"]) == 1 and "/other.parquet: a method of the same name in " in said["other"][0]
    assert "has other numbers (random, keep_top 20 % black, average_drop of the confidence: value " in said["other"][0]
    assert write_leaderboard([first, tmp_path / "other.parquet"], tmp_path / "page.html") == 2  # told apart by their identity
    shorts = {run["short"] for run in embedded(tmp_path / "page.html")["runs"]}
    assert len(shorts) == 2 and {len(short) for short in shorts} == {6}


def test_the_digest_is_of_all_rows(tmp_path):
    full, masked = scores()
    one, other = make_run(tmp_path / "a", full, masked), make_run(tmp_path / "b", full, masked)
    changed = make_run(tmp_path / "c", full, {**masked, "random": masked["random"] + 1e-6})
    digests = [RunFolder(run.path).digest() for run in (one, other, changed)]
    assert digests[0] == digests[1] != digests[2] and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_only_what_is_comparable_shares_a_column(tmp_path):
    full, masked = scores()
    of = {name: masked[name] for name in ("grad_cam", "random")}
    runs = [
        make_run(tmp_path / "first", full, of),
        make_run(tmp_path / "methods", full, {name: masked[name] for name in ("ablation_cam", "centre")}),
        make_run(tmp_path / "images", full, of, fingerprint="g"),
        make_run(tmp_path / "target", full, of, asked={"target": "label"}),
        make_run(tmp_path / "layer", full, of, layer="m"),
        make_run(tmp_path / "code", full, of, code={"model.factory": "1"}),
        make_run(tmp_path / "their_code", full, {"mine": masked["grad_cam"], "centre": full / 5}, code={"method.mine": "1"}),
    ]
    summary = written(tmp_path / "summaries", summarised(runs[0].path))
    paths = [run.path for run in runs]
    assert write_leaderboard([*paths, tmp_path, summary], tmp_path / "page.html") == len(runs)  # the folder names them once more
    data = embedded(tmp_path / "page.html")["runs"]
    settings = [summarised(path).facts["setting"] for path in paths]
    images = [summarised(path).facts["images_hash"] for path in paths]
    assert settings[0] == settings[1] == settings[6] and len(set(settings)) == 5
    assert images[0] == images[1] == images[4] == images[5] and len(set(images)) == 3
    assert len({run["data_label"] for run in data}) == 3 and len({(run["label"], run["data_label"]) for run in data}) == 5
    assert "vgg16, at m" in {run["label"] for run in data}


def test_a_summary_is_of_one_run(tmp_path):
    full, masked = scores()
    for name in ("a", "b"):
        make_run(tmp_path / name, full, masked, model=name)
    with pytest.raises(UserError, match=r"/a and .*/b are several runs, and a summary is of one"):
        summarised(tmp_path)
    with pytest.raises(UserError, match="is no address of the web"):
        summarised(tmp_path / "a", report="javascript:alert(1)")
    alone = make_run(tmp_path / "alone", full, {"grad_cam": masked["grad_cam"]})
    with pytest.raises(UserError, match=r"could be published: .*there is no control"):
        summary_bytes(summarised(alone.path))
    write_leaderboard([alone.path], tmp_path / "page.html")  # one's own page may lack them


def test_folders_that_differ_in_their_methods_make_one_summary(tmp_path):
    """The same table as that of one folder with all methods, paired differences included, in either order; all folders are verified."""
    full, masked = scores()
    former, new, whole = (
        make_run(tmp_path / folder, full, {name: masked[name] for name in names}).path
        for folder, names in (("former", NAMES[1:]), ("new", NAMES[:1]), ("whole", (NAMES[0], *NAMES[1:])))
    )
    with pytest.raises(UserError, match=r"no control, .*: name the run that has them too, as in `evalkit leaderboard FORMER RUN --summ"):
        summary_bytes(summarised(new))
    summary, turned, expected = summarised([former, new]), summarised([new, former]), summarised(whole)
    keys = (*POINT, "score", "metric", "method")

    def sorted_rows(of):
        return sorted(of.table.drop(["against"]).to_pylist(), key=lambda row: tuple(map(str, map(row.get, keys))))

    def without_win(of):  # which depends on the first method
        return [row for row in sorted_rows(of) if row["metric"] != "win"]

    assert without_win(summary) == without_win(turned) == without_win(expected)
    alone = [summarised(path).facts for path in (former, new)]
    for key in ("identity", "rows_digest"):
        assert summary.facts[key] == turned.facts[key] and summary.facts[key] not in {facts[key] for facts in alone}
    assert summary.facts["setting"] == alone[0]["setting"]
    for file in (new / "rows").iterdir():
        os.utime(file, (4_000_000_000, 4_000_000_000))
    assert summarised([former, new]).facts["date"] == "2096-10-02"
    with pytest.raises(UserError, match=r"/former and .*/whole are several runs"):
        summarised([former, whole])
    records = [
        {"date": f"2026-01-0{day}", "images": images, "of": 40, "differences": 0, "rows_digest": facts["rows_digest"], "seed": 1}
        for day, images, facts in zip((3, 2), (4, 8), alone, strict=True)
    ]
    for given in (records[:1], records[1:]):
        with pytest.raises(UserError, match=r"no --verified is of .*: give one for each of the 2 folders"):
            summarised([former, new], verified=given)
    write_leaderboard([written(tmp_path, summarised([former, new], verified=records))], tmp_path / "page.html")
    assert embedded(tmp_path / "page.html")["runs"][0]["verified"]["badge"] == "verified, 2026-01-02, 10 %"
    write_leaderboard(
        [written(tmp_path, summarised([former, new], verified=[records[0], {**records[1], "differences": 2}]))], tmp_path / "p"
    )
    assert embedded(tmp_path / "p")["runs"][0]["verified"]["badge"] is None


@pytest.mark.parametrize("shards", [0, 1])
def test_an_unfinished_run_is_named(tmp_path, shards):
    full, masked = scores()
    done = make_run(tmp_path / "done", full, masked).path
    begun = make_run(tmp_path / "begun", full, {"layer_cam": full / 2, "edges": full / 3}, images=80).path
    if not shards:
        for file in begun.glob("*/shard-*"):
            file.unlink()
    for make in (lambda: write_leaderboard([done, begun], tmp_path / "page.html"), lambda: summarised([done, begun])):
        with pytest.raises(
            UserError, match=rf"/begun is not finished \({2 - shards} shards? missing\), .* takes finished runs only: "
        ) as error:
            make()
        assert f"`evalkit tables {begun} --allow-incomplete`" in str(error.value)
    assert not (tmp_path / "page.html").exists()


def test_a_run_folder_links_to_its_own_report(tmp_path):
    run = make_run(tmp_path / "my run", *scores())
    (run.path / "report.html").write_text("")
    (tmp_path / "pages").mkdir()
    write_leaderboard([run.path], tmp_path / "pages" / "page.html")
    link = embedded(tmp_path / "pages" / "page.html")["runs"][0]["report"]
    assert link == "../my%20run/report.html" and (tmp_path / "pages" / unquote(link)).resolve() == run.path.resolve() / "report.html"


def test_hostile_names_are_only_text(tmp_path):
    full, masked = scores()
    names = {HOSTILE: masked["grad_cam"], "</script><script>alert(2)": masked["ablation_cam"], "centre": masked["centre"]}
    run = make_run(tmp_path / "run", full, names, model=HOSTILE, layer=HOSTILE, data=HOSTILE, fingerprint=HOSTILE)
    for given in (run.path, written(tmp_path, summarised(run.path))):
        write_leaderboard([given], tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert page.count("<script") == 2 and "<script>alert" not in page and "\x1b" not in page and "\u202e" not in page
        assert "alert(2)" in str(embedded(tmp_path / "page.html")["runs"][0]["rows"]) and "](javascript" in page


def changed(at, **cells):
    return lambda rows, facts: rows[at].update(cells)


def facts_changed(*keys, value):
    def change(rows, facts):
        for key in keys[:-1]:
            facts = facts[key]
        facts[keys[-1]] = value

    return change


WRONG = [
    (changed(0, value=-1e9), "is not around the value"),
    (changed(0, value=float("inf")), "a number is not finite"),
    (changed(0, low=None), "an interval needs its value and both its ends"),
    (changed(0, gain_low=1e9), "the difference to the best control is not around"),
    (changed(0, value=-1.0, low=-2.0, high=3.0), "the value -1 is impossible"),
    (changed(0, n=41), "n is 41, and the run has 40 scored items"),
    (changed(0, n=39), "the methods have different n"),
    (changed(0, control=True), "whether it is a control is not said as its name says it"),
    (changed(0, floor="random"), "floor is not the best of the controls"),
    (changed(0, method="other"), "its method is not known"),
    (changed(0, method="grad_cam"), "a method has several rows"),
    (changed(0, select="keep"), "its select is not known"),
    (changed(0, top_percent=None), "top_percent must be a share of the pixels"),
    (lambda rows, facts: rows.pop(0), "it has 3 methods, and the run has 4"),
    (lambda rows, facts: rows.clear(), "it has no rows"),
    (facts_changed("format", value=2), "its format is 2, and this version reads 1"),
    (facts_changed("rows_digest", value="0"), "its facts are not those of a run: rows_digest"),
    (facts_changed("images", "scored", value=41), "41 images and 40 items cannot be scored of 40 images"),
    (facts_changed("images", "scored", value="4"), "its facts are not those of a run: images.scored"),
    (facts_changed("report", value="javascript:alert(1)"), "is no address of the web"),
    (facts_changed("more", value=1), "its facts are not those of a run: more"),
    (facts_changed("model", "name", value="a\u202eb"), "characters that cannot be printed"),
    (
        facts_changed("verified", value={"date": "2026-01-01", "images": 1, "of": 2, "differences": 0, "rows_digest": "0" * 64}),
        "its record of a verification is of other rows",
    ),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[says for _, says in WRONG])
def test_the_check_says_what_is_wrong(tmp_path, change, says):
    full, masked = scores()
    masked["centre"] = full * 0.9  # always the best control
    masked["random"] = full * 0.1
    summary = summarised(make_run(tmp_path / "run", full, masked).path)
    rows, facts = summary.table.to_pylist(), json.loads(json.dumps(summary.facts))
    change(rows, facts)
    file = tmp_path / "one.parquet"
    file.write_bytes(parquet_bytes(pa.Table.from_pylist(rows, schema=SCHEMA), facts))
    (sentence,) = wrong_with([file])
    assert sentence.startswith(f"{file}: ") and says in sentence
    with pytest.raises(UserError, match=re.escape(says)):
        write_leaderboard([file], tmp_path / "page.html")
    with pytest.raises(UserError, match=re.escape(says)):
        summary_bytes(Summary(pa.Table.from_pylist(rows, schema=SCHEMA), facts))
    assert not (tmp_path / "page.html").exists()


def test_files_that_are_no_summaries(tmp_path):
    full, masked = scores()
    good = written(tmp_path, summarised(make_run(tmp_path / "run", full, masked).path))
    twin, bad, large = (tmp_path / f"{name}.parquet" for name in ("twin", "bad", "large"))
    twin.write_bytes(good.read_bytes())
    table = pq.read_table(good)
    edited = [value if value is None else value + 1e-9 for value in table["value"].to_pylist()]
    table = table.set_column(table.column_names.index("value"), "value", pa.array(edited)).replace_schema_metadata(table.schema.metadata)
    pq.write_table(table, bad)
    large.write_bytes(b"0" * 300_000)
    said = wrong_with([good, twin, bad, large])
    assert [sentence.partition(": ")[0] for sentence in said] == [str(path) for path in (twin, bad, large)]
    assert "of the same run as" in said[0] and "it is no summary, or was changed" in said[1] and "300,000 bytes" in said[2]
    with pytest.raises(UserError, match=r"there is no file .*none\.parquet"):
        wrong_with([tmp_path / "none.parquet"])


def test_damaged_files_never_end_in_a_traceback(tmp_path):
    """Changed, removed and doubled bytes: said to be wrong, or not part of what is read."""
    rng = fresh()
    content = summary_bytes(summarised(make_run(tmp_path / "run", *scores()).path))
    good = written(tmp_path, summarised(tmp_path / "run"))
    expected, found = read_summary(good), 0
    for _ in range(150):
        place, length = (int(number) for number in rng.integers(0, (len(content), 40)))
        middle = [b"", content[place : place + length] * 2, rng.bytes(length)][rng.integers(3)]
        (tmp_path / "bad.parquet").write_bytes(content[:place] + middle + content[place + length :])
        wrong = wrong_with([tmp_path / "bad.parquet"])
        found += bool(wrong)
        if not wrong:
            again = read_summary(tmp_path / "bad.parquet")
            assert again.table.equals(expected.table) and again.facts == expected.facts
    assert found > 100
    (tmp_path / "bad.parquet").write_bytes(content.replace(b"top_percent", b"top_\xf1ercent"))  # a column's name that is no text
    assert "it is no summary" in wrong_with([tmp_path / "bad.parquet"])[0]
    many = pa.Table.from_pylist(expected.table.to_pylist()[:1] * 50_001, schema=SCHEMA)
    (tmp_path / "many.parquet").write_bytes(parquet_bytes(many, expected.facts))
    assert (tmp_path / "many.parquet").stat().st_size < 200_000 and "it is no summary" in wrong_with([tmp_path / "many.parquet"])[0]


def test_several_points_and_no_interval(tmp_path):
    rng = fresh()
    full = rng.uniform(1, 9, 1)
    points = {("keep_top", 20.0, "black"): 0.5, ("remove_top", 2.5, "blur"): 0.4, ("soft", None, "mean"): 0.3}
    masked = {point: {"grad_cam": full * share, "centre": full * share / 2} for point, share in points.items()}
    for number, (point, of) in enumerate(masked.items()):
        make_run(tmp_path / f"{number}", full, of, select=point[0], top=point[1], fill=point[2], asked={"protocol": str(point)})
    assert len(run_of(tmp_path / "all", full, masked).points) == 3
    files = [written(tmp_path, summarised(tmp_path / f"{number}"), f"{number}.parquet") for number in range(3)]
    write_leaderboard(files, tmp_path / "page.html")
    data = embedded(tmp_path / "page.html")
    assert [run["points"][0]["key"] for run in data["runs"]] == ["keep_top-20-black", "remove_top-2.5-blur", "soft-mean"]
    row = shown(data["runs"][0], data["row"])["keep_top-20-black", "confidence", "average_drop", "grad_cam"]
    assert row["value"] == pytest.approx(50) and row["low"] is row["high"] is None
    lower = {
        (run["points"][0]["key"], kind["metric"]): kind["lower"][0]
        for run in data["runs"]
        for kind in run["kinds"]
        if kind["score"] == "confidence"
    }
    assert lower["keep_top-20-black", "average_drop"] and not lower["remove_top-2.5-blur", "average_drop"]
    assert lower["remove_top-2.5-blur", "increase"] and not lower["soft-mean", "increase"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("/data/me/net.safetensors", "weights/net.safetensors"),
        ("..\\mine\\net.pth", "weights/net.pth"),
        ("net.pth", "net.pth"),
        ("IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("embedded:digits_fc.safetensors", "embedded:digits_fc.safetensors"),
        ("random (seed 0)", "random (seed 0)"),
    ],
)
def test_weights_without_their_folder(weights, expected):
    assert without_folder(weights) == expected


COMMITTED = sorted((ROOT / "results" / "leaderboard").glob("*.parquet"))


def test_the_committed_summaries_pass_their_check():
    assert wrong_with(COMMITTED) == [] and len(COMMITTED) >= 3
    for file in COMMITTED:
        summary = read_summary(file)
        methods = {row["method"] for row in summary.table.to_pylist() if not row["control"]}
        assert len(methods) >= 12 and summary.facts["images"]["scored"] >= 100 and not summary.facts["model"]["random"]
        said = json.dumps(summary.facts)
        assert not re.search(r'[" (=]/\w', said), re.search(r'.{20}[" (=]/\w.{20}', said)
        assert len(set(zip(*(summary.table[name].to_pylist() for name in POINT), strict=True))) >= 3


def test_the_columns_that_the_documentation_names():
    section = (ROOT / "docs" / "leaderboard.md").read_text().partition("## Columns\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| [^|]+ \|$", section, re.MULTILINE)
    assert shown == [(field.name, str(field.type)) for field in SCHEMA]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \|$", section, re.MULTILINE) == list(Facts.model_fields)


def test_the_page_of_the_site_is_that_of_the_committed_summaries(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    hooks = __import__("hooks")
    try:
        page = tmp_path / "page.html"
        page.write_text(hooks.leaderboard())
        assert len(embedded(page)["runs"]) == len(COMMITTED) and str(ROOT) not in page.read_text()
    finally:
        sys.modules.pop("hooks", None)
