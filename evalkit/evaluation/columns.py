"""The columns of the two tables that a run makes."""

import pyarrow as pa

ROWS = pa.schema(
    [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("method", pa.string()),
        ("select", pa.string()),
        ("top_percent", pa.float64()),
        ("fill", pa.string()),
        ("kept_fraction", pa.float64()),
        ("positive_fraction", pa.float64()),
        ("rank_gap", pa.float64()),
        ("prob_full", pa.float64()),
        ("prob_masked", pa.float64()),
        ("logit_full", pa.float64()),
        ("logit_masked", pa.float64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""One row per image, target, method and point, with raw scores; metrics are derived from them afterwards. Scores are null
where an image could not be read. `status` is ok, degenerate (constant map, included in every metric), nonfinite or error
(both excluded, for all methods alike)."""

AGAINST_BOXES = ("region_fraction", "others_fraction", "pointing", "energy_inside", "energy_others", "best_iou")
"""The measures against boxes, which are fractions."""

LATER = ("single_deletion", "max_sensitivity", "stability", "randomised_output", "randomised_all")
"""The measures that files written by evalkit before 0.6 lack; they are read as null there."""

MEASURES = ("complexity", "coherency", *AGAINST_BOXES, *LATER)
"""The measures of a map itself: see `evalkit.evaluation.measures`."""

MAPS = pa.schema(
    [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("method", pa.string()),
        ("status", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("minimum", pa.float32()),
        ("maximum", pa.float32()),
        ("zero_fraction", pa.float32()),
        *((name, pa.float64()) for name in MEASURES),
        ("map", pa.list_(pa.float32())),
    ]
)
"""One row per image, target and method. Measures are null where they are undefined, not selected, or there are no boxes.
`map` is the raw map at the activations' resolution, row by row; null unless `maps=store`. float16 would change masks."""
