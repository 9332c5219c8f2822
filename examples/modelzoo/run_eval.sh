#!/usr/bin/env bash
# Evaluate under the ModelZoo's protocol, as its script does: the result's line in eval/log.txt, and on the screen.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/modelzoo.sh"

[ $# -eq 3 ] || [ $# -eq 4 ] || fail "Usage: bash examples/modelzoo/run_eval.sh DATASET_NAME DATASET_PATH CHECKPOINT_PATH [PLATFORM]"
check_dataset "$1" "$2"
device=$(device_of "${4:-}") || exit 2

mkdir -p eval || fail "cannot make ./eval"
"$python" -m crnn evaluate "$3" "$1=$2" --protocol modelzoo --device "$device" --json >eval/result.json 2>eval/log.txt
status=$?
if [ $status -eq 2 ]; then
  tail -n 1 eval/log.txt >&2
  exit $status
fi
"$python" -c '
import json
result = json.load(open("eval/result.json", encoding="utf-8"))
accuracy = result["datasets"][0]["accuracy"]
print(f"result: {{\"CRNNAccuracy\": ({accuracy})}}".replace(chr(34), chr(39)))
' | tee -a eval/log.txt
exit $status
