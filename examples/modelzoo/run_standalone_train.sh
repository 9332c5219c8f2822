#!/usr/bin/env bash
# Train on one device, as the ModelZoo does: settings of the preset modelzoo, log and weights in ./train.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/modelzoo.sh"

usage="Usage: bash examples/modelzoo/run_standalone_train.sh DATASET_NAME DATASET_PATH [PLATFORM] [--section.key VALUE ...] [--resume]"
[ $# -ge 2 ] || fail "$usage"
name=$1 data=$2
shift 2
platform=""
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
  platform=$1
  shift
fi
check_dataset "$name" "$data"
device=$(device_of "$platform") || exit 2

mkdir -p train || fail "cannot make ./train"
echo "training on $name; log in train/log.txt" >&2
"$python" -m crnn train modelzoo --data.train "$data" --train.device "$device" \
  --checkpoint.save_checkpoint_path train "$@" >>train/log.txt 2>&1
status=$?
[ $status -eq 0 ] || tail -n 1 train/log.txt >&2
exit $status
