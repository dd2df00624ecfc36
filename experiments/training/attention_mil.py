"""Train attention-based multiple-instance learning on the embedded digits, and compare its attention with CAM methods.

    OMP_NUM_THREADS=1 python experiments/training/attention_mil.py --out mil     (6 minutes of one CPU core a seed)

writes the weights and the run of every network, attention_mil.csv (columns: attention_mil_report.COLUMNS) and attention_mil.png.
Networks that are in the folder are not trained again.

Tamboli, "Explaining model's visual explanations from its decision", section II.C, reports of Patil et al. (WIECON-ECE 2019), on
histopathology: Grad-CAM "is highlighting in-general some random portion and not one which is important for the detection", attention
highlights what is, and "the accuracy achieved by the GradCAM network was comparable". Here the boxes of the digits say what is
important. For each seed two bags are trained (`PATCHES`): patches of 32 pixels, which hold a whole digit (22 to 32 pixels) and
overlap, and patches of 16 that do not overlap, as in the document's figure 5; both give maps of 4 x 4 cells. Like `digits_fc`, they
start from the convolutions of `digits_gap`: first the part behind the instances is trained, on instances that are computed once, then
all layers together. The two convolutional networks are the embedded ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from attention_mil_report import COLUMNS, draw, measured, statistics
from mil import AttentionMIL
from safetensors.torch import save_file
from torch import Tensor
from train_digits import as_tensors, train

from evalkit.analysis.load import load_runs
from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import Job
from evalkit.data.digits import Digits
from evalkit.launch.run import run_job
from evalkit.models import zoo

CONF = Path(__file__).parents[1] / "conf"
STRIDE = 16
PATCHES = {"mil_32": 32, "mil_16": 16}
"""Networks, and the side of their patches in pixels."""
CNNS = ("digits_gap", "digits_fc")
CAMS: tuple[str, ...] = ("grad_cam", "ablation_cam", "random", "centre")
HEAD_EPOCHS, EPOCHS = 30, 2


@torch.no_grad()
def instances(net: AttentionMIL, images: Tensor) -> Tensor:
    """Return the features of all instances (N,K,h,w) with the present convolutions."""
    net.eval()
    return torch.cat([net.instances(part) for part in images.split(100)])


def trained(patch: int, images: Tensor, labels: Tensor, seed: int) -> AttentionMIL:
    """Return a network trained from the convolutions of the embedded digits_gap."""
    torch.manual_seed(seed)
    net = AttentionMIL(patch, STRIDE)
    start, _ = zoo.build(compose_jobs(["model=digits_gap"])[0].config.model)
    net.instances.encoder[0].load_state_dict(start.get_submodule("features").state_dict())
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
    train(net.bag, instances(net, images), labels, epochs=HEAD_EPOCHS, lr=1e-2)
    train(net, images, labels, epochs=EPOCHS, lr=1e-3)
    return net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def job(network: str, out: Path, seed: int, images: Sequence[str] = ()) -> Job:
    """Return the run of one network at the top 20 %, the paper's; `images` are further overrides that choose images."""
    model, methods, name = [f"model={network}"], CAMS, network
    if network in PATCHES:
        name, methods = f"{network}_seed{seed}", ("mil_attention", "mil_evidence", *CAMS)
        weights = f"model.weights={out / name}.safetensors"
        model = ["model=digits_mil", f"model.name={network}", f"model.args.patch={PATCHES[network]}", weights]
    return compose_jobs([*model, f"method=[{','.join(methods)}]", "protocol.top_percent=[20]", f"out={out / name}", *images], conf=CONF)[0]


def main(
    out: Annotated[Path, typer.Option(help="Folder for the weights, the runs, the table and the figure.")],
    seeds: Annotated[list[int], typer.Option("--seed", help="Training seeds; several are resampled together.")] = [0],  # noqa: B006 - typer copies it
    count: Annotated[int, typer.Option(help="Training canvases composed per seed.")] = 4000,
    limit: Annotated[int, typer.Option(help="Evaluation canvases; 0: all 797.")] = 0,
) -> None:
    """Train, run, measure, draw."""
    out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        missing = {name: file for name in PATCHES if not (file := out / f"{name}_seed{seed}.safetensors").exists()}
        canvases = as_tensors(Digits("train", seed=seed, count=count)) if missing else ()
        for name, file in missing.items():
            save_file(trained(PATCHES[name], *canvases, seed).state_dict(), file)
    parts, configs = [], {}
    for network in (*PATCHES, *CNNS):
        for seed in seeds:
            one = job(network, out, seed, [f"limit={limit}"] if limit else [])
            (run,) = load_runs([run_job(one).path])
            parts.append(measured(run, seed))
            configs.setdefault(network, one.config)
            print(f"{network} seed {seed}: {run.counts()['top1_percent']:.2f} % of {run.counts()['labelled']} images", flush=True)
    table = pd.DataFrame(statistics(pd.concat(parts, ignore_index=True)), columns=COLUMNS)
    table.to_csv(out / "attention_mil.csv", index=False, float_format="%.4g")
    draw(configs, out / "attention_mil.png")


if __name__ == "__main__":
    run_script(main)
