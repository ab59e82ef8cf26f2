#!/usr/bin/env bash
# Make flexicodec-mini v1 on one GPU: recogniser, codec at a fixed rate, codec at a dynamic rate, thresholds, figures.
#
#   experiments/mini/train.sh DIR [OUT]      DIR holds train.jsonl and eval.jsonl; OUT is runs/mini-v1 by default
#
# Give the same command again to go on where it stopped. What can be set in the environment, with its default:
#   MINUTES=0                 stop after so long and exit with 75, to be started again; 0 for no limit
#   ASR_STEPS=8000 FIXED_STEPS=20000 DYNAMIC_STEPS=20000      STEPS for all three at once
#   ASR_SECONDS=256           audio a step of the recogniser
#   BATCH=64                  crops of 1.6 s a step of the codec
#   SAVE_EVERY=500            steps between checkpoints: what a stop costs at most
#   WORKERS=8 PRECISION=bf16 COMPILE=false
#   ASR_OPTIONS CODEC_OPTIONS further key=value settings, separated by spaces
#   CALIBRATE_EVERY=15        every so-many-th training clip sets the thresholds
#   EVAL_CLIPS                clips to measure on, all by default
set -euo pipefail
[[ $# -ge 1 && $# -le 2 ]] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }

speech=$(realpath "$1")
root=$(realpath "$(dirname "$0")/../..")
mkdir -p "${2:-runs/mini-v1}"
out=$(realpath "${2:-runs/mini-v1}")
for name in train eval; do
  [[ -f $speech/$name.jsonl ]] || { echo "$speech holds no $name.jsonl" >&2; exit 2; }
done
python=${PYTHON:-python} minutes=${MINUTES:-0}
read -ra asr_options <<<"${ASR_OPTIONS:-}"
read -ra codec_options <<<"${CODEC_OPTIONS:-}"

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
data+=("data.audio_cache=\"$out/audio.cache\"" "data.workers=${WORKERS:-8}")
settings=("mixed_precision=\"${PRECISION:-bf16}\"" "save_every=${SAVE_EVERY:-500}")
codec=("data.batch_size=${BATCH:-64}" "compile=${COMPILE:-false}")
grown='["semantic_aggregator.*", "acoustic_aggregator.*", "bottleneck.*"]'

part recogniser "$python" -m flexicodec.training.asr configs/asr/mini.yaml "output=\"$out/asr\"" \
  "${data[@]}" "${settings[@]}" "data.batch_seconds=${ASR_SECONDS:-256}" \
  "steps=${ASR_STEPS:-${STEPS:-8000}}" "${asr_options[@]}"

part "fixed rate" "$python" -m flexicodec.training configs/flexicodec/mini_fixed.yaml "output=\"$out/fixed\"" \
  "init_from=[{source: \"$out/asr/model\"}]" "${data[@]}" "${settings[@]}" "${codec[@]}" \
  "steps=${FIXED_STEPS:-${STEPS:-20000}}" "${codec_options[@]}"

part "dynamic rate" "$python" -m flexicodec.training configs/flexicodec/mini.yaml "output=\"$out/dynamic\"" \
  "init_from=[{source: \"$out/fixed/model\", allow_missing: $grown}]" \
  'rates.threshold_range={frame_rates: [4.0, 12.0]}' "${data[@]}" "${settings[@]}" "${codec[@]}" \
  "steps=${DYNAMIC_STEPS:-${STEPS:-20000}}" "${codec_options[@]}"

part thresholds "$python" experiments/mini/calibrate.py "$out/dynamic/model" "$speech/train.jsonl" \
  --every "${CALIBRATE_EVERY:-15}" --output "$out/model"

part figures "$python" experiments/mini/evaluate.py "$speech/eval.jsonl" --model "$out/model" \
  --recogniser "$out/asr/model" --output "$out/figures.json" ${EVAL_CLIPS:+--limit "$EVAL_CLIPS"}

echo "== done: the model is $out/model, its figures are $out/figures.json"
