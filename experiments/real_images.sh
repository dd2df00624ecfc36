#!/usr/bin/env bash
# Four networks with real weights on genuine ImageNet val images: top-1, the six metrics, speed.
#
#   experiments/real_images.sh DATA OUT        (about 12 minutes on two CPU cores)
#
# DATA holds imagenette224/images and imagenet_val_acuity/images (class folders named by wnid), and weights/ with
# archs.py and <network>_*.safetensors. Whole images are resized to the input size by Pillow (bilinear), without crop.
set -euo pipefail
DATA=$1 OUT=$2
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}
METHODS='method=[ablation_cam,grad_cam,grad_cam_pp,random,constant,centre]'

mkdir -p "$OUT"
ls "$DATA/imagenette224/images" > "$OUT/imagenette_classes.txt"
evalkit run model=custom model.name=squeezevgg10 model.factory=archs.squeezevgg10 model.layer=features \
  model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" 'model.resize=[224,224]' \
  model.classes="$OUT/imagenette_classes.txt" model.paper_table=table1 \
  data=image_folder data.root="$DATA/imagenette224/images" "$METHODS" 'protocol.top_percent=[20,30,50]' out="$OUT/squeezevgg10"

acuity() { # name, input side, further overrides
  evalkit run model="$1" model.weights="$DATA/weights/$1_imagenet.safetensors" "model.resize=[$2,$2]" model.crop=null \
    model.expected_top1=null data=imagenet data.root="$DATA/imagenet_val_acuity/images" "$METHODS" \
    protocol.top_percent=20 out="$OUT/$1" "${@:3}"
}
HALF=('model.mean=[0.5,0.5,0.5]' 'model.std=[0.5,0.5,0.5]')
acuity mobilenet_v2 225 "${HALF[@]}"
acuity mobilenet_v3_small 225 "${HALF[@]}"
acuity squeezenet1_0 227
evalkit tables "$OUT/squeezevgg10" "$OUT/mobilenet_v2" "$OUT/mobilenet_v3_small" "$OUT/squeezenet1_0" --out "$OUT"
