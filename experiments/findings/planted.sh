#!/usr/bin/env bash
# Does a metric recover a known order of maps? Trains five networks on planted triggers, checks them, and scores every metric on the
# first 100 evaluation canvases.
#
#   experiments/findings/planted.sh OUT        (8 minutes on two cores)
#
# OUT receives weights/, training.csv in it, and planted.csv, planted_tables.md and planted.png. Sizes and seeds are fixed, and the
# number of processes changes no number.
set -euo pipefail
OUT=$1
HERE=$(dirname "$0")
export OMP_NUM_THREADS=1
python "$HERE/../training/train_planted.py" --out "$OUT/weights" --seeds 5 --processes 2
python "$HERE/planted.py" "$OUT/weights" --out "$OUT" --seeds 5 --images 100 --processes 2
