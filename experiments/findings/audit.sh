#!/usr/bin/env bash
# The audit of the nine published protocols: on the embedded digits, and on three networks with real weights (200 images each).
#
#   experiments/findings/audit.sh DATA OUT        (about an hour on one CPU core)
#
# DATA as in real_images.sh: imagenette224/images, imagenet_val_acuity/images, and weights/ with archs.py and the weights.
set -euo pipefail
DATA=$1 OUT=$2
CONF=$(dirname "$0")/../conf
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}

evalkit run experiment=audit out="$OUT/digits_fc"

audit() { # folder of OUT, then overrides
  evalkit run --conf "$CONF" experiment=audit 'method=[ablation_cam,layer_cam,centre]' sample=200 shard_size=20 "${@:2}" out="$OUT/$1"
}
acuity() { # network
  audit "$1" model="$1_half" model.weights="$DATA/weights/$1_imagenet.safetensors" data=imagenet data.root="$DATA/imagenet_val_acuity/images"
}
acuity mobilenet_v3_small
audit squeezevgg10 model=squeezevgg10 model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" \
  data=image_folder data.root="$DATA/imagenette224/images"
acuity mobilenet_v2
evalkit audit "$OUT/digits_fc" "$OUT/mobilenet_v3_small" "$OUT/squeezevgg10" "$OUT/mobilenet_v2" --out "$OUT"
