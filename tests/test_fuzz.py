"""Anything that may be thrown at the protocol, the metrics, the store, the decoder and the configuration."""

import contextlib
import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from evalkit import files, protocol
from evalkit.analysis import metrics
from evalkit.config.compose import compose_jobs
from evalkit.data.decode import UnreadableImage, decode
from evalkit.errors import UserError
from evalkit.evaluation.columns import ROWS
from evalkit.point import Point
from evalkit.runs import shards

LIMITS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True)
FEW = settings(LIMITS, max_examples=40)

values = st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, -0.0, 1.0, 2.0**-140])
wild = st.floats(width=32) | values
maps = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=values)
wild_maps = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=wild)
percents = st.floats(0, 100) | st.sampled_from([0.0, 20.0, 50.0, 100.0])
confidences = hnp.arrays(np.float64, 9, elements=st.floats(0, 1))
logits = hnp.arrays(np.float64, 9, elements=st.floats(-1e6, 1e6).map(lambda logit: round(logit, 6)))


@LIMITS
@given(wild_maps, percents)
def test_exactly_k_pixels_and_never_a_larger_one_left_out(raw, percent):
    """nan counts as the largest value, as everywhere in torch; such a map's rows are marked nonfinite."""
    ranking = protocol.Ranking(torch.from_numpy(raw))
    top = ranking.top(percent)
    k = round(percent / 100 * raw[0].size)
    assert (top.flatten(1).sum(1) == k).all()
    for map_, mask in zip(raw, top.numpy(), strict=True):
        order = sorted(range(map_.size), key=lambda i: (not np.isnan(map_.flat[i]), -np.nan_to_num(map_.flat[i]), i))
        assert set(np.flatnonzero(mask)) == set(order[:k])


@LIMITS
@given(maps, st.lists(percents, min_size=2, max_size=4))
def test_masks_are_nested_and_complementary(raw, chosen):
    ranking = protocol.Ranking(torch.from_numpy(raw))
    masks = [ranking.top(percent) for percent in sorted(chosen)]
    assert all((small <= large).all() for small, large in pairwise(masks))
    for percent in chosen:
        kept, gap = protocol.kept(Point("keep_top", percent, "black"), ranking)
        removed, _ = protocol.kept(Point("remove_top", percent, "black"), ranking)
        assert (kept ^ removed).all() and (gap >= 0).all()


@LIMITS
@given(maps, hnp.arrays(np.float32, (1, 3, 1, 1), elements=st.floats(0, 1, width=32)))
def test_soft_masks_and_perturbed_images_stay_in_range(raw, colour):
    soft = protocol.soft_mask(torch.from_numpy(raw))
    assert ((soft >= 0) & (soft <= 1)).all()
    images = torch.rand(len(raw), 3, *raw.shape[1:])
    for kept in (soft, protocol.Ranking(torch.from_numpy(raw)).top(30)):
        seen = protocol.perturb(images, kept, torch.from_numpy(colour))
        assert ((seen >= -1e-6) & (seen <= 1 + 1e-6)).all()


@LIMITS
@given(maps, st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_upsampling_leaves_no_map_s_range(raw, size):
    large = protocol.upsample(torch.from_numpy(raw), size).flatten(1)
    flat = torch.from_numpy(raw).flatten(1)
    assert (large.amax(1) <= flat.amax(1)).all() and (large.amin(1) >= flat.amin(1)).all()


@LIMITS
@given(confidences, confidences, confidences)
def test_metrics_of_confidences(full, masked, other):
    drop = metrics.relative_drop(full, masked)
    assert np.array_equal(np.isnan(drop), full <= 0) and ((drop[full > 0] >= 0) & (drop[full > 0] <= 100)).all()
    rise = metrics.increased(full, masked)
    assert (rise[metrics.clipped_drop(full, masked) > 0] == 0).all() and set(rise) <= {0.0, 100.0}
    ours, theirs = metrics.clipped_drop(full, masked), metrics.clipped_drop(full, other)
    assert (metrics.wins(ours, theirs) + metrics.wins(theirs, ours) <= 100).all()
    best = metrics.best_of_all(np.stack([ours, theirs, ours]))
    assert (best.sum(0) <= 100).all() and (best[0] == 0).all() and (best[2] == 0).all()
    gain = metrics.relative_gain(full, masked)
    assert np.array_equal(np.isnan(gain), full >= 1)
    assert ((gain[full < 1] >= 0) & (gain[full < 1] <= 100 + 1e-9)).all()


@LIMITS
@given(logits, logits)
def test_metrics_of_logits(full, masked):
    drop = metrics.relative_drop(full, masked)
    assert np.array_equal(np.isnan(drop), full <= 0) and (drop[full > 0] >= 0).all()


@LIMITS
@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(content):
    with contextlib.suppress(UnreadableImage):
        decode(content)


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((9, 7), 90).convert("RGB").save(buffer, form)
    return buffer.getvalue()


PICTURES = [picture(form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")]


@LIMITS
@given(st.sampled_from(PICTURES), st.data())
def test_no_damage_to_a_picture_breaks_the_decoder(whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableImage):
        image = decode(bytes(content[: data.draw(st.integers(0, len(content)))]))
        assert image.mode == "RGB"


columns = st.fixed_dictionaries(
    {
        field.name: st.none()
        | (
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
            if pa.types.is_string(field.type)
            else st.floats()
            if pa.types.is_floating(field.type)
            else st.integers(-(2**31), 2**31 - 1)
        )
        for field in ROWS
    }
)


@FEW
@given(st.lists(columns, max_size=4), st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3))
def test_any_table_survives_and_is_never_taken_for_another(tmp_path_factory, rows, said):
    file = tmp_path_factory.mktemp("any") / "x"
    table = pa.Table.from_pylist(rows, schema=ROWS)
    files.publish(file, shards.parquet_bytes(table, said))
    found = shards.read_parquet(file, ROWS)
    assert found is not None and found[1] == said
    assert found[0].num_rows == len(rows) and shards.checksum(found[0], b"") == shards.checksum(table, b"")
    if rows:
        other = pa.concat_tables([table, table.slice(0, 1)])
        assert shards.checksum(other, b"") != shards.checksum(table, b"")


keys = st.sampled_from(
    ["model", "data", "method", "protocol", "launcher", "experiment", "target", "sample", "limit", "batch_size", "device", "devices", "out",
     "protocol.select", "protocol.top_percent", "protocol.fill", "model.layer", "model.resize", "precision", "decode", "workers", "maps",
     "seed", "hydra.mode", "method.grad_cam", "launcher.name", "model.mean", "+x", "~data", "++model.args.a"]
)  # fmt: skip
words = st.sampled_from(
    ["vgg16", "digits", "[grad_cam]", "[]", "null", "20", "-1", "1e9", "[20,101]", "nan", "true", "''", "{a: 1}", "keep_top", "a,b", "???",
     "${out}", "${oops}", "${oc.env:HOME}", "s3://", "auto", "cuda:x", "ray", "digits_fc", "[0,0,0]", "é", "[[1]]", "}"]
)  # fmt: skip


@FEW
@given(st.lists(st.tuples(keys, words | st.text(max_size=6)).map("=".join) | st.text(max_size=10), max_size=3))
def test_no_overrides_end_in_anything_but_a_configuration_or_a_sentence(overrides):
    with contextlib.suppress(UserError):
        for job in compose_jobs([*overrides, "model.layer=features.13"]):
            assert job.config.method
