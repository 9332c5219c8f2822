#!/usr/bin/env bash
# Train on all devices of a machine, as the ModelZoo does: settings of the preset modelzoo, weights in
# ./train_parallel0, the log of all ranks in train_parallel0/log.txt.
#
# RANK_TABLE_FILE is Ascend's table of devices (JSON); without one, give the number of processes in its place.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/modelzoo.sh"

usage="Usage: bash examples/modelzoo/run_distribute_train.sh DATASET_NAME RANK_TABLE_FILE DATASET_PATH [PLATFORM] [--section.key VALUE ...] [--resume]"
[ $# -ge 3 ] || fail "$usage"
name=$1 table=$2 data=$3
shift 3
platform=""
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
  platform=$1
  shift
fi
check_dataset "$name" "$data"
device=$(device_of "$platform") || exit 2

if [[ $table =~ ^[1-9][0-9]*$ ]]; then
  ranks=$table
else
  [ -f "$table" ] || fail "RANK_TABLE_FILE=$table does not exist; expected Ascend's JSON, or a number of processes"
  ranks=$("$python" - "$table" <<'PYTHON'
import json
import sys

try:
    servers = json.load(open(sys.argv[1], encoding="utf-8"))["server_list"]
    assert len(servers) == 1, f"{len(servers)} servers; for several machines start torchrun --nnodes on each"
    assert servers[0]["device"], "a server without devices"
    print(len(servers[0]["device"]))
except (AssertionError, KeyError, TypeError, ValueError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
PYTHON
  ) || fail "RANK_TABLE_FILE=$table: expected a 'server_list' with one server and its devices"
fi

mkdir -p train_parallel0 || fail "cannot make ./train_parallel0"
echo "training on $name with $ranks processes; log in train_parallel0/log.txt" >&2
log_lines=$(cat train_parallel0/log.txt 2>/dev/null | wc -l)  # of earlier runs
"$python" -m torch.distributed.run --standalone --nproc-per-node "$ranks" -m crnn train modelzoo --data.train "$data" \
  --train.device "$device" --checkpoint.save_checkpoint_path train_parallel0 "$@" >>train_parallel0/log.txt 2>&1
status=$?
# torchrun ends with 1 whatever its processes ended with; their own line says that the input or a setting was bad.
if [ $status -ne 0 ] && tail -n "+$((log_lines + 1))" train_parallel0/log.txt | grep -m 1 "^crnn train:" >&2; then
  status=2
fi
exit $status
