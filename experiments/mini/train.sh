#!/usr/bin/env bash
# Make flexicodec-mini from speech: train it, set its thresholds and codebooks, measure it. One core is enough, and
# a GPU is used if there.
#
#   experiments/mini/train.sh DIR [OUT]      DIR holds train.jsonl and eval.jsonl; OUT is runs/mini-v2 by default
#
# Give the same command again to go on where it stopped. What can be set in the environment, with its default:
#   MINUTES=0                 stop after so long and exit with 75, to be started again; 0 for no limit
#   FIXED_STEPS=6000 DYNAMIC_STEPS=17000
#   OPTIONS                   further key=value settings, separated by spaces, such as data.batch_size=64
#   CALIBRATE_EVERY=15        every so-many-th training clip sets the thresholds
#   EVAL_CLIPS                clips to measure on, all by default
set -euo pipefail
[[ $# -ge 1 && $# -le 2 ]] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }

speech=$(realpath "$1")
root=$(realpath "$(dirname "$0")/../..")
mkdir -p "${2:-runs/mini-v2}"
out=$(realpath "${2:-runs/mini-v2}")
for name in train eval; do
  [[ -f $speech/$name.jsonl ]] || { echo "$speech holds no $name.jsonl" >&2; exit 2; }
done
python=${PYTHON:-python} minutes=${MINUTES:-0}
read -ra options <<<"${OPTIONS:-}"

# Run a part of the whole for as long as is left, and keep what it says.
part() {
  local name=$1 left=0 status=0
  shift
  if ((minutes)); then
    left=$((minutes * 60 - SECONDS))
    ((left > 0)) || stop "$name"
  fi
  echo "== $name, $(date -u +%FT%TZ): $*" | tee -a "$out/log.txt"
  (cd "$root" && timeout --foreground --kill-after=60 "$left" "$@") 2>&1 | tee -a "$out/log.txt" || status=$?
  ((status == 0)) && return
  ((minutes == 0 || SECONDS < minutes * 60)) || stop "$name"
  echo "$name ended with $status; what it said is in $out/log.txt" >&2
  exit "$status"
}

stop() {
  echo "== $minutes minutes are over, in $1; the same command goes on from there" | tee -a "$out/log.txt"
  exit 75
}

data=("data.manifest=[\"$speech/train.jsonl\"]" "data.validation=\"$speech/eval.jsonl\"")
data+=("data.audio_cache=\"$out/audio.cache\"" "data.feature_cache=\"$out/features.cache\"")
grown='["semantic_aggregator.*", "acoustic_aggregator.*", "unmerger.*"]'

part "fixed rate" "$python" -m flexicodec.training configs/flexicodec/mini_spectral_fixed.yaml \
  "output=\"$out/fixed\"" "${data[@]}" "steps=${FIXED_STEPS:-6000}" "${options[@]}"

part "dynamic rate" "$python" -m flexicodec.training configs/flexicodec/mini_spectral.yaml \
  "output=\"$out/dynamic\"" "init_from=[{source: \"$out/fixed/model\", allow_missing: $grown}]" \
  "${data[@]}" "steps=${DYNAMIC_STEPS:-17000}" "${options[@]}"

part "thresholds and codebooks" "$python" experiments/mini/calibrate.py "$out/dynamic/model" "$speech/train.jsonl" \
  --every "${CALIBRATE_EVERY:-15}" --output "$out/model"

part figures "$python" experiments/mini/evaluate.py "$speech/eval.jsonl" --model "$out/model" \
  --output "$out/figures.json" ${EVAL_CLIPS:+--limit "$EVAL_CLIPS"}

echo "== done: the model is $out/model, its figures are $out/figures.json"
