# What the ModelZoo's three scripts share; sourced by them.
#
# Names, platforms and places of logs are those of the ModelZoo's official/cv/CRNN; the work is done by the crnn command.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
else
  python=python3
fi

fail() {
  echo "error: $*" >&2
  exit 2
}

check_dataset() { # DATASET_NAME DATASET_PATH
  case $1 in
    synth | ic03 | ic13 | svt | iiit5k) ;;
    *) fail "DATASET_NAME=$1 is unknown; expected synth, ic03, ic13, svt or iiit5k" ;;
  esac
  [ -e "$2" ] || fail "DATASET_PATH=$2 does not exist; expected an LMDB folder or a list file"
}

device_of() { # PLATFORM
  case $1 in
    CPU) echo cpu ;;
    GPU) echo cuda ;;
    Ascend) echo npu ;;
    "") echo auto ;;
    *) fail "PLATFORM=$1 is unknown; expected CPU, GPU or Ascend" ;;
  esac
}
