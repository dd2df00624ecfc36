#!/usr/bin/env bash
# Images per second of whole runs, from start to parquet, and the hours that ImageNet val would take (CSV).
#
#   experiments/cost/throughput.sh IMAGES COUNT OUT [OVERRIDE...]      (devices=2, device=cuda, decode=gpu, batch_size=64, ...)
#
# IMAGES, a folder of pictures, is linked again and again until there are COUNT: each is read and decoded anew. Random
# weights, which do not change the time. A quarter as many images are run first and not counted, so that caches are warm.
set -euo pipefail
IMAGES=$(realpath "$1") COUNT=$2 OUT=$3
mkdir -p "$OUT/pictures"
mapfile -t FILES < <(find "$IMAGES" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' \) | sort)
for ((i = 0; i < COUNT; i++)); do
  file=${FILES[$((i % ${#FILES[@]}))]}
  ln -sfn "$file" "$OUT/pictures/$(printf %06d "$i").${file##*.}"
done
echo "model,images,seconds,images_per_second,hours_for_50000_images"
for model in vgg16 inception_v3; do
  for limit in $((COUNT / 4)) "$COUNT"; do
    rm -rf "${OUT:?}/$model"
    last_line=$(evalkit run model=$model model.weights=null data=image_folder data.root="$OUT/pictures" 'method=[grad_cam,ablation_cam]' \
      protocol.top_percent=20 limit="$limit" shard_size=64 out="$OUT/$model" "${@:4}" 2>&1 | tail -1)
  done
  seconds=$(echo "$last_line" | sed -nE 's|.* images in ([0-9.]+) s .*|\1|p')
  awk -v m=$model -v s="$seconds" -v n="$COUNT" 'BEGIN { printf "%s,%d,%.1f,%.3f,%.2f\n", m, n, s, n / s, 50000 * s / n / 3600 }'
done
