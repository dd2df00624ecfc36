#!/usr/bin/env bash
# Every method and control on two networks with real weights, 200 images each, thresholds 10 to 90: one table a network.
#
#   experiments/findings/all_methods.sh DATA OUT [all] [score] [peers]      (half an hour, an hour, a quarter of an hour on two CPU cores)
#
# DATA as in real_images.sh, with boxes.csv next to each set's images. `all`, the default, makes the table. Score-CAM needs one
# forward pass for each of 512 and 1280 channels, more than all others together, so `score` is a run of its own; `evalkit
# tables` joins runs that differ only in their methods. `peers` compares other libraries' classes with ours on 10 images: the
# same figures, other speeds. Integrated gradients take 16 steps and occlusion a 56 pixel window, to limit their time.
set -euo pipefail
DATA=$1 OUT=$2
CONF=$(dirname "$0")/../conf
shift 2
export PYTHONPATH=$DATA/weights${PYTHONPATH:+:$PYTHONPATH}
METHODS=ablation_cam,grad_cam,ablation_cam_norm,ablation_cam_softmax,ablated_input_cam,spatial_ablation,grad_cam_pp,xgrad_cam
METHODS=$METHODS,layer_cam,hires_cam,eigen_cam,gradient,guided_backprop,guided_grad_cam,guided_ablation_cam,integrated_gradients
METHODS=$METHODS,occlusion,random,constant,centre,edges,fake_cam
CHEAPER=(method.integrated_gradients.steps=16 method.occlusion.window=56 method.occlusion.stride=28)
COMMON=('protocol.top_percent=[10,20,30,50,70,90]' sample=200 batch_size=16 shard_size=25 workers=1)

squeezevgg10() {
  evalkit run --conf "$CONF" model=squeezevgg10 model.weights="$DATA/weights/squeezevgg10_imagenette.safetensors" \
    data=image_folder data.root="$DATA/imagenette224/images" data.labels="$DATA/imagenette224/labels.csv" \
    data.boxes="$DATA/imagenette224/boxes.csv" "${COMMON[@]}" "$@"
}
mobilenet_v2() {
  evalkit run --conf "$CONF" model=mobilenet_v2_half model.weights="$DATA/weights/mobilenet_v2_imagenet.safetensors" \
    data=imagenet data.root="$DATA/imagenet_val_acuity/images" data.boxes="$DATA/imagenet_val_acuity/boxes.csv" "${COMMON[@]}" "$@"
}
theirs() { echo "+method.$1._target_=evalkit.methods.peers.$2" "+method.$1.name=$3"; }
# shellcheck disable=SC2046 # every word is an override
peers() {
  "$1" 'method=[grad_cam,grad_cam_pp,layer_cam,ablation_cam,score_cam,guided_grad_cam]' sample=10 batch_size=10 shard_size=10 out="$OUT/peers/$1" \
    $(theirs pgc_grad_cam pytorch_grad_cam GradCAM) $(theirs torchcam_grad_cam torch_cam GradCAM) $(theirs captum_grad_cam captum_attr LayerGradCam) \
    $(theirs pgc_grad_cam_pp pytorch_grad_cam GradCAMPlusPlus) $(theirs torchcam_grad_cam_pp torch_cam GradCAMpp) \
    $(theirs pgc_layer_cam pytorch_grad_cam LayerCAM) $(theirs torchcam_layer_cam torch_cam LayerCAM) \
    $(theirs pgc_ablation_cam pytorch_grad_cam AblationCAM) $(theirs pgc_score_cam pytorch_grad_cam ScoreCAM) \
    $(theirs torchcam_score_cam torch_cam ScoreCAM) $(theirs captum_guided_grad_cam captum_attr GuidedGradCam) \
    +method.captum_guided_grad_cam.{channels=max,interpolate_mode=bilinear}
}
for stage in "${@:-all}"; do
  case $stage in
    all)
      squeezevgg10 "method=[$METHODS]" "${CHEAPER[@]}" out="$OUT/all/squeezevgg10"
      mobilenet_v2 "method=[cam,$METHODS]" "${CHEAPER[@]}" out="$OUT/all/mobilenet_v2"
      evalkit tables "$OUT/all"
      ;;
    score)
      squeezevgg10 'method=[score_cam]' out="$OUT/all/squeezevgg10-score"
      mobilenet_v2 'method=[score_cam]' out="$OUT/all/mobilenet_v2-score"
      evalkit tables "$OUT/all"
      ;;
    peers)
      peers squeezevgg10
      peers mobilenet_v2
      evalkit tables "$OUT/peers"
      ;;
    *) echo "no stage '$stage': all, score, peers" >&2; exit 2 ;;
  esac
done
