#!/usr/bin/env bash
# What a GPU changes: speed compared with the floor, and the effect of TF32, bf16 and nvJPEG on every metric.
#
#   experiments/cost/gpu.sh DATA OUT COUNT      (DATA as for findings/real_images.sh; COUNT pictures for speed, e.g. 2000)
set -euo pipefail
DATA=$1 OUT=$2 COUNT=$3
HERE=$(dirname "$0")
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$OUT"
NAME=$(python -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower(), "torch" + torch.__version__.split("+")[0], sep="-")')

for decode in pil gpu; do
  "$HERE/throughput.sh" "$DATA/imagenet_samples" "$COUNT" "$OUT/throughput-$decode" device=cuda batch_size=64 workers="$(nproc)" \
    decode=$decode | tee "$OUT/throughput-$decode-$NAME.csv"
done
for model in resnet50 inception_v3 vgg16 alexnet; do
  evalkit bench floor --model $model --images "$OUT/throughput-pil/pictures" --limit "$COUNT" --batch-size 64 --workers "$(nproc)" \
    --json "$OUT/bench_floor-$model-$NAME.json" device=cuda
done
evalkit bench peers --model squeezenet1_0 --model vgg16 --model resnet50 --model inception_v3 --csv "$OUT/bench_peers-$NAME.csv" device=cuda

real() { # run folder, overrides
  evalkit run --conf "$HERE/../conf" model=squeezevgg10 model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" \
    data=image_folder data.root="$DATA/imagenette224/images" 'method=[ablation_cam,grad_cam]' protocol.top_percent=20 device=cuda out="$@"
}
real "$OUT/fp32"
real "$OUT/tf32" precision=tf32
real "$OUT/bf16" precision=bf16
real "$OUT/nvjpeg" decode=gpu
real "$OUT/cpu" device=cpu
python "$HERE/../correctness/precision.py" "$OUT"/{fp32,tf32,bf16,nvjpeg,cpu} --out "$OUT/precision-$NAME.md"
