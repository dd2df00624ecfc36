#!/usr/bin/env bash
# The runs and summaries of results/leaderboard: three networks with real weights, 200 genuine ImageNet val images each, sixteen
# methods and five controls at four protocol points.
#
#   experiments/findings/leaderboard.sh DATA OUT [NETWORK...]        (5 to 15 minutes of one CPU core for each network)
#
# DATA as in real_images.sh. NETWORK is squeezevgg10, mobilenet_v2 or mobilenet_v3_small; default all. Left out for their time, a
# forward pass for each channel, step or window: score_cam, integrated_gradients, occlusion. To write the summaries and the page of
# runs that exist, the same command is given again: a finished run is not computed twice.
set -euo pipefail
DATA=$(realpath "$1") OUT=$2
CONF=$(dirname "$0")/../conf
SUMMARIES=$(dirname "$0")/../../results/leaderboard
shift 2
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}
METHODS=ablation_cam,ablation_cam_norm,ablation_cam_softmax,ablated_input_cam,spatial_ablation,grad_cam,grad_cam_pp,xgrad_cam,layer_cam
METHODS=$METHODS,hires_cam,eigen_cam,recipro_cam,gradient,guided_backprop,guided_grad_cam,guided_ablation_cam
CONTROLS=random,constant,centre,edges,fake_cam
POINTS='{select: keep_top, top_percent: 20, fill: black}, {select: remove_top, top_percent: 20, fill: black}'
POINTS="$POINTS, {select: keep_top, top_percent: 50, fill: black}, {select: soft, fill: black}"

compare() { # the folder's name, its images, and the overrides of model and data
  local name=$1 images=$2
  shift 2
  evalkit run --conf "$CONF" "method=[$METHODS,$CONTROLS]" "protocol.points=[$POINTS]" protocol.select=[] protocol.top_percent=[] protocol.fill=[] \
    sample=200 batch_size=20 shard_size=20 workers=1 data.root="$DATA/$images/images" out="$OUT/$name" "$@"
}
for network in "${@:-squeezevgg10 mobilenet_v2 mobilenet_v3_small}"; do
  for name in $network; do
    case $name in
      squeezevgg10)
        compare "$name" imagenette224 model=squeezevgg10 model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" \
          data=image_folder data.labels="$DATA/imagenette224/labels.csv" ;;
      mobilenet_v2 | mobilenet_v3_small)
        compare "$name" imagenet_val_acuity model="${name}_half" model.weights="$DATA/weights/${name}_imagenet.safetensors" data=imagenet ;;
      *) echo "no network '$name': squeezevgg10, mobilenet_v2, mobilenet_v3_small" >&2; exit 2 ;;
    esac
    evalkit leaderboard "$OUT/$name" --summary "$SUMMARIES/$name.parquet"
  done
done
evalkit leaderboard --check "$SUMMARIES"/*.parquet
evalkit leaderboard "$SUMMARIES"/*.parquet --out "$OUT/leaderboard.html"
