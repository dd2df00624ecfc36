"""The card (README.md) of an exported Hugging Face folder."""

from collections.abc import Mapping

import pyarrow as pa
import yaml

from evalkit.errors import printable
from evalkit.output.export import Exported
from evalkit.output.markdown import inert, pipes
from evalkit.output.tables import caption, describe_point, title

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
"""Names of the Hub for numbers of rows below a limit."""
CITATION = """@inproceedings{desai2020ablation,
  title = {Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free Localization},
  author = {Desai, Saurabh and Ramaswamy, Harish G.},
  booktitle = {IEEE Winter Conference on Applications of Computer Vision (WACV)},
  year = {2020}
}"""


def card(exported: Exported, tables: Mapping[str, pa.Schema], rows: Mapping[str, int], command: str) -> str:
    """Return the card: configurations and features as YAML, then what the rows are, of which runs, and how they were made."""
    header = yaml.safe_dump(
        {
            "pretty_name": "Faithfulness of CAM explanations, image by image",
            "tags": ["explainable-ai", "class-activation-mapping", "faithfulness", "evalkit"],
            "size_categories": [next((name for limit, name in SIZES if max(rows.values()) < limit), "n>10M")],
            "configs": [
                {"config_name": name, "data_files": [{"split": "train", "path": f"data/{name}-*.parquet"}], "default": name == "scores"}
                for name in tables
            ],
            "dataset_info": [{"config_name": name, "features": _features(schema)} for name, schema in tables.items()],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    parts = ["# Faithfulness of CAM explanations, image by image", ABOUT]
    for run in exported.runs:
        points = "; ".join(describe_point(point) for point in run.points)
        lines = [f"Methods: {', '.join(run.methods)}.", f"Protocol points: {points}.", *caption(run)]
        parts += [f"## {title(run)}", "\n".join(f"- {line}" for line in lines)]
    for name, schema in tables.items():
        parts += [f"## {name}: {rows[name]:,} rows", pipes([["column", "type", "meaning"], *_columns(schema)])]
    made = f"    {printable(command)}\n    # datasets: load_dataset('.', 'scores', split='train')"
    parts += ["## How it was made", MADE, made, "## Licence", LICENCE, "## Citation", CITED, f"```bibtex\n{CITATION}\n```"]
    return f"---\n{header}---\n\n" + inert("\n\n".join(parts)) + "\n"


ABOUT = (
    "Each row of `scores` is one image, explained class, method and protocol point of a run of evalkit: the network's scores on the image "
    "and on what a protocol leaves of it, such as the pixels at which the method's map points. Each row of `maps` is what was measured of "
    "one map. Both hold the images that no table counts too, with the reason in `status`; their `counted` is false."
)
MADE = (
    "By evalkit, from its run folders. `identity` is the hash of all that determines the numbers of a run; the metadata of each parquet "
    "file (key `evalkit`) hold the identity itself, versions and hardware."
)
LICENCE = (
    "None is stated here. Choose one for these numbers, and add `license: NAME` to the head of this file. The names of images and classes "
    "are those of the data set, whose licence stays what it is."
)
CITED = "evalkit, and the papers of the methods and protocols that were used, first of all:"


def _features(schema: pa.Schema) -> list[dict[str, str]]:
    """Return the columns as `datasets` writes them in cards."""
    names = {pa.float64(): "float64", pa.float32(): "float32"}
    return [{"name": field.name, "dtype": names.get(field.type, str(field.type))} for field in schema]


def _columns(schema: pa.Schema) -> list[list[str]]:
    return [[f"`{field.name}`", str(field.type), field.metadata[b"description"].decode()] for field in schema]
