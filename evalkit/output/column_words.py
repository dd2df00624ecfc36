"""What the columns of a run's tables hold, in words, as docs/run_folder.md has them."""

ROWS = {
    "index": "position of the image in its data set",
    "image_id": "path or name of the image",
    "label": "the output that the data set gives the image; of several the explained one where it is among them; null where unknown",
    "predicted": "the output with the highest logit",
    "target": "the explained output",
    "target_name": "the explained class, as the data set calls it under `target=label`, else as the model does",
    "method": (
        "as it is called in `method=[...]`; with several layers `method@layer`, and `method@mean` or `method@max` for fused maps;"
        " with `+control=[...]` `method+control`"
    ),
    "select": "`keep_top`, `remove_top` or `soft`",
    "top_percent": "null under `soft`",
    "fill": "`black`, `mean`, `blur` or `road`",
    "kept_fraction": "share of the image that is kept, 0 to 1; under `soft` the mean of the mask",
    "positive_fraction": "share of the upsampled map's pixels that are above 0",
    "rank_gap": (
        "k-th minus next value over the largest absolute value: below 1e-5 rounding may swap the two; infinite where there is no "
        "next pixel; nan under `soft`"
    ),
    "prob_full": "confidence on the image, softmax (or sigmoid) in float64; null with `model.output=raw`",
    "prob_masked": "the same on what is left of it",
    "logit_full": "logit on the image, or with `model.output=raw` the explained output",
    "logit_masked": "the same on what is left of it",
    "status": "`ok`; `degenerate`: constant map, included; `nonfinite` and `error`: excluded for all methods",
    "error": "why an image could not be read",
}
"""The columns of `evaluation.columns.ROWS`."""

MAPS = {
    "index": ROWS["index"],
    "image_id": ROWS["image_id"],
    "label": ROWS["label"],
    "target": ROWS["target"],
    "target_name": ROWS["target_name"],
    "method": ROWS["method"],
    "status": ROWS["status"],
    "height": "of the raw map, in cells of the activations or pixels",
    "width": "likewise",
    "minimum": "of the raw map",
    "maximum": "of the raw map",
    "zero_fraction": "share of the raw map's cells that are exactly 0",
    "complexity": "mean of the min-max normalised upsampled map, 0 to 1",
    "coherency": "(1 + correlation with the map of the masked image) / 2; null unless `measures=[coherency]`",
    "region_fraction": "share of the image inside boxes of the explained class; null where there are none, as in all box columns below",
    "others_fraction": "share inside boxes of other classes",
    "pointing": "1 where the maximum lies in a box of the class, 0 where not, a share where maxima tie",
    "energy_inside": "share of the map's positive values inside boxes of the class",
    "energy_others": "the same of other classes",
    "best_iou": "intersection over union of {map >= t} with the boxes, at the best t for this map",
    "single_deletion": (
        "rank correlation of the map with the drops of single patches, -1 to 1; null for a constant map, and unless "
        "`measures=[single_deletion]`; files of evalkit before 0.6 lack this column and the next four"
    ),
    "max_sensitivity": (
        "largest relative change of the raw map over the noisy copies; null where undefined, and unless `measures=[stability]`"
    ),
    "stability": "mean rank correlation of the raw map with those of the noisy copies; null likewise",
    "randomised_output": (
        "mean rank correlation with the maps of networks with a random output layer; null where undefined, and unless "
        "`measures=[randomisation]`"
    ),
    "randomised_all": "the same of networks that are random throughout",
}
"""The columns of `evaluation.columns.MAPS`, without the maps."""
