#!/usr/bin/env bash
# Does a ranking of methods survive another fill, threshold, selection and network? Three networks with real weights, 200 genuine
# ImageNet val images each, eight methods with controls, and the single-deletion score.
#
#   experiments/findings/verdicts.sh DATA OUT [NETWORK...]        (about 45 minutes of one CPU core for each network)
#
# DATA as in real_images.sh, with boxes.csv next to each set's images. NETWORK is squeezevgg10, mobilenet_v2 or mobilenet_v3_small;
# default all. The points are those of protocol=verdict without the threshold of 50 %, which saves a third of the time: 19 points and
# five controls. squeezevgg10, whose forward pass is the longest, has 16 points, none with a soft mask, and three controls.
set -euo pipefail
DATA=$1 OUT=$2
CONF=$(dirname "$0")/../conf
shift 2
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}
POINTS=
for fill in black mean blur road; do
  for top in 20 80; do
    for select in keep_top remove_top; do POINTS+="{select: $select, top_percent: $top, fill: $fill}, "; done
  done
done
SOFT=
for fill in black mean blur; do SOFT+=", {select: soft, fill: $fill}"; done
FEWER='method=[ablation_cam,grad_cam,grad_cam_pp,layer_cam,xgrad_cam,eigen_cam,spatial_ablation,recipro_cam,random,centre,edges]'

compare() { # the folder's name, its images, the points of soft masks, and the overrides of model and data
  local name=$1 images=$2 soft=$3
  shift 3
  evalkit run --conf "$CONF" experiment=verdict "protocol.points=[${POINTS%, }$soft]" 'measures=[single_deletion]' sample=200 batch_size=20 \
    shard_size=20 workers=1 data.root="$DATA/$images/images" data.boxes="$DATA/$images/boxes.csv" out="$OUT/$name" "$@"
}
for network in "${@:-squeezevgg10 mobilenet_v2 mobilenet_v3_small}"; do
  for name in $network; do
    case $name in
      squeezevgg10)
        compare "$name" imagenette224 "" "$FEWER" model=squeezevgg10 model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" \
          data=image_folder data.labels="$DATA/imagenette224/labels.csv" ;;
      mobilenet_v2 | mobilenet_v3_small)
        compare "$name" imagenet_val_acuity "$SOFT" model="${name}_half" model.weights="$DATA/weights/${name}_imagenet.safetensors" data=imagenet ;;
      *) echo "no network '$name': squeezevgg10, mobilenet_v2, mobilenet_v3_small" >&2; exit 2 ;;
    esac
  done
done
evalkit verdict "$OUT"/*/ --out "$OUT"
