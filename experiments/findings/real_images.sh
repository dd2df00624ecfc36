#!/usr/bin/env bash
# Four networks with real weights on genuine ImageNet val images: top-1, the six metrics, speed.
#
#   experiments/findings/real_images.sh DATA OUT        (about 12 minutes on two CPU cores)
#
# DATA holds imagenette224/images and imagenet_val_acuity/images (class folders named by wnid), and weights/ with
# archs.py and <network>_*.safetensors. experiments/conf/model/ describes the networks. Pillow resizes whole images to the
# input size (bilinear), without crop.
set -euo pipefail
DATA=$1 OUT=$2
CONF=$(dirname "$0")/../conf
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}
METHODS='method=[ablation_cam,grad_cam,grad_cam_pp,random,constant,centre]'

evalkit run --conf "$CONF" model=squeezevgg10 model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" model.paper_table=table1 \
  data=image_folder data.root="$DATA/imagenette224/images" "$METHODS" 'protocol.top_percent=[20,30,50]' out="$OUT/squeezevgg10"

acuity() { # network, its file in experiments/conf/model
  evalkit run --conf "$CONF" model="$2" model.weights="$DATA/weights/$1_imagenet.safetensors" data=imagenet \
    data.root="$DATA/imagenet_val_acuity/images" "$METHODS" protocol.top_percent=20 out="$OUT/$1"
}
acuity mobilenet_v2 mobilenet_v2_half
acuity mobilenet_v3_small mobilenet_v3_small_half
acuity squeezenet1_0 squeezenet1_0_227
evalkit tables "$OUT/squeezevgg10" "$OUT/mobilenet_v2" "$OUT/mobilenet_v3_small" "$OUT/squeezenet1_0" --out "$OUT"
