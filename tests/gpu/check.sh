#!/usr/bin/env bash
# Checks a built binary on a machine with a GPU and no network, in at most eight minutes.
#
#   tests/gpu/check.sh --binary PATH [options]
#
#   --binary PATH         idarts-compile, built with the feature of the device; may be compressed as .xz or .gz
#   --data ZIP_OR_DIR     training images; without it the built-in synthetic set
#   --device DEVICE       cuda (default), vulkan, or cpu: a rehearsal with small sizes
#   --out DIR             where logs and results go (default: a new folder below TMPDIR)
#   --parity-binary PATH  the compiled `parity` test (cargo test --no-run prints its path); may be compressed as well
#   --fixtures DIR        the reference tensors that this test reads
#   --peer FILE           the PyTorch program to time against, where PyTorch is installed
#   --minutes N           the limit of all parts together (default 8)
#
# Each part has a time limit of its own and a line `PART name: ok|FAILED|SKIPPED (why) seconds`; a part that cannot run
# leaves the others alone. Ends with a table; the status is 1 if a part failed or none ran, 2 for bad usage.
set -uo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
die() { printf 'check.sh: %s\n' "$1" >&2; exit 2; }

binary='' data='' device=cuda out='' parity_binary='' fixtures='' peer='' minutes=8
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --binary | --data | --device | --out | --parity-binary | --fixtures | --peer | --minutes)
      [ $# -ge 2 ] || die "$1 needs a value"
      name=${1#--}
      printf -v "${name//-/_}" %s "$2"
      shift 2
      ;;
    *) die "unknown option $1; --help lists the options" ;;
  esac
done
[ -n "$binary" ] || die '--binary is needed: the path of a built idarts-compile'
[[ $device =~ ^(cuda|vulkan|cpu)(:[0-9]+)?$ ]] || die "--device $device: cuda, vulkan or cpu"
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "--minutes $minutes: a whole number"
for path in "$binary" "$data" "$parity_binary" "$fixtures" "$peer"; do
  [ -z "$path" ] || [ -e "$path" ] || die "$path does not exist"
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[ -n "$out" ] || out=$(mktemp -d "${TMPDIR:-/tmp}/gpu-check.XXXXXX")
mkdir -p "$out" || die "--out $out cannot be made"
# An old result must not pass for one of this run.
rm -rf "$out/search" "$out/model.onnx"

# The sizes: a GPU gets those of the paper, a CPU only shows that every part runs.
case $device in
  cpu*)
    search_batch=4 train_batch=2 steps=1 rounds=1
    search_args=(--subset 32 --epochs 1 --channels 8 --cells 3 --batch-size 8)
    build_args=(--subset 32 --epochs 1 --channels 8 --cells 3 --batch-size 8)
    ;;
  *)
    search_batch=64 train_batch=96 steps=10 rounds=3
    search_args=(--subset 2000 --epochs 2 --batch-size 64)
    build_args=(--subset 2000 --epochs 2 --batch-size 96)
    ;;
esac
threads=$(nproc)

end=$((minutes * 60))
names=() results=() whys=() seconds=()
# Set by a part: why it was skipped or failed, or what it measured.
why=''
SKIP=77

# part NAME LIMIT FUNCTION: runs the function with its output in a log and prints its result line.
part() {
  local name=$1 limit=$2 start=$SECONDS status result
  shift 2
  why=''
  deadline=$((SECONDS + limit < end ? SECONDS + limit : end))
  log="$out/$name.log"
  if [ "$SECONDS" -ge "$end" ]; then
    status=$SKIP why="the $minutes minutes were over"
  else
    "$@" >"$log" 2>&1
    status=$?
  fi
  case $status in
    0) result=ok ;;
    "$SKIP") result=SKIPPED ;;
    *) result=FAILED why="${why:-status $status}, see $log" ;;
  esac
  names+=("$name") results+=("$result") whys+=("$why") seconds+=($((SECONDS - start)))
  printf 'PART %s: %s%s %d\n' "$name" "$result" "${why:+ ($why)}" $((SECONDS - start))
  [ "$result" != FAILED ] || tail -n 15 "$log" | sed 's/^/  | /'
}

skip() { why=$1; return $SKIP; }
fail() { why=$1; return 1; }

# limited COMMAND...: ends the command at the deadline of its part.
limited() {
  local status left=$((deadline - SECONDS))
  timeout --kill-after=5 "$((left > 0 ? left : 1))" "$@"
  status=$?
  [ $status -ne 124 ] && [ $status -ne 137 ] || why='over its time limit'
  return $status
}

# ours NAME ARGUMENTS...: runs the binary and keeps the JSON object of its last line as NAME.json.
ours() {
  local name=$1 status
  shift
  printf '$ idarts-compile %s --json\n' "$*"
  limited "$binary" "$@" --json >"$out/$name.out"
  status=$?
  tail -n 1 "$out/$name.out" >"$out/$name.json"
  cat "$out/$name.json"
  [ $status -eq 0 ] || return $status
  grep -q '^{.*}$' "$out/$name.json" || fail 'the last line of stdout is no JSON object'
}

# field FILE KEY: the value of a top-level key, which stands before nested ones.
field() { grep -Eo "\"$2\": *(\"[^\"]*\"|[^,}]*)" "$1" | head -n 1 | sed 's/^[^:]*: *//; s/^"//; s/"$//'; }

# number FILE KEY: the same, and an error if it is no number.
number() {
  local value
  value=$(field "$1" "$2")
  [[ $value =~ ^-?[0-9.]+([eE][-+]?[0-9]+)?$ ]] && printf '%s\n' "$value"
}

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'; }

# plain PATH: the path of the file, decompressed if it is not plain, made executable.
plain() {
  local target
  target="$scratch/$(basename "$1")"
  case $1 in
    *.xz) target=${target%.xz}; xz -dc "$1" >"$target" ;;
    *.gz) target=${target%.gz}; gzip -dc "$1" >"$target" ;;
    *) cp "$1" "$target" ;;
  esac && chmod +x "$target" && printf '%s\n' "$target"
}

# unpack PATH: the folder that holds `train` or CIFAR's binary files.
unpack() {
  local folder=$1 found
  if [ -f "$1" ]; then
    folder=$scratch/data
    mkdir -p "$folder"
    if command -v unzip >/dev/null; then unzip -q "$1" -d "$folder"; else python3 -m zipfile -e "$1" "$folder"; fi >&2 || return 1
  fi
  found=$(find "$folder" -maxdepth 3 \( -type d -name train -o -name data_batch_1.bin -o -name train.bin \) -print -quit)
  [ -n "$found" ] && dirname "$found"
}

device_facts() {
  case $device in
    cuda*) limited nvidia-smi || { fail 'nvidia-smi finds no GPU'; return; } ;;
  esac
  ours devices devices || return
  grep -qi "${device%%:*}" "$out/devices.json" || fail "the binary offers no device ${device%%:*}; was it built with that feature?"
}

# The reference tensors of every network, and the layers whose kernels differ from the CPU's.
parity() {
  [ -n "$parity_binary" ] || { skip 'no --parity-binary'; return; }
  [ -n "$fixtures" ] || { skip 'no --fixtures'; return; }
  local test passed
  test=$(plain "$parity_binary") || return
  IDARTS_FIXTURES=$(realpath "$fixtures") IDARTS_TEST_DEVICE=$device IDARTS_REQUIRE_ALL=1 \
    limited "$test" parity --test-threads=1 --nocapture >"$out/parity.out"
  local status=$?
  cat "$out/parity.out"
  [ $status -eq 0 ] || return $status
  passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$out/parity.out")
  [ "${passed:-0}" -gt 0 ] || { fail 'no test of that name ran'; return; }
  why="$passed tests"
}

# time_against STAGE BATCH: our step and PyTorch's by turns, so that both see the same machine.
time_against() {
  local stage=$1 batch=$2 round with_peer='' mine theirs
  local python_args=("$stage" --batch "$batch" --steps "$steps" --threads "$threads" --device "${device/vulkan*/cuda}")
  : >"$scratch/mine"
  : >"$scratch/theirs"
  [ -n "$peer" ] && python3 -c 'import torch' && with_peer=yes
  for ((round = 1; round <= rounds; round++)); do
    ours "bench-$stage-$round" bench "$stage" --device "$device" --batch "$batch" --steps "$steps" --threads "$threads" || return
    number "$out/bench-$stage-$round.json" step_s >>"$scratch/mine" || { fail 'no step_s in the result'; return; }
    [ -n "$with_peer" ] || continue
    limited python3 "$peer" "${python_args[@]}" >"$scratch/peer" || { fail "the peer: ${why:-failed}"; return; }
    tail -n 1 "$scratch/peer" | tee "$out/peer-$stage-$round.json"
    number "$out/peer-$stage-$round.json" step_s >>"$scratch/theirs" || { fail 'no step_s in the result of the peer'; return; }
  done
  mine=$(median <"$scratch/mine")
  theirs=$(median <"$scratch/theirs")
  why="batch $batch, $mine s a step, peak $(field "$out/bench-$stage-1.json" peak_mib) MiB"
  if [ -n "$theirs" ]; then
    why+="; PyTorch $theirs s, peak $(field "$out/peer-$stage-1.json" peak_mib) MiB"
    why+="; ratio $(awk -v a="$theirs" -v b="$mine" 'BEGIN { printf "%.2f", a / b }')"
  else
    why+='; no PyTorch to compare with'
  fi
}

short_search() {
  ours search search "${data_args[@]}" "${search_args[@]}" --device "$device" --seed 1 --out "$out/search" || return
  [ -s "$out/search/genotype.yaml" ] || { fail 'no genotype.yaml'; return; }
  number "$out/search.json" valid_loss >/dev/null || { fail "valid_loss is $(field "$out/search.json" valid_loss)"; return; }
  why="valid loss $(field "$out/search.json" valid_loss), $(field "$out/search.json" wall_s) s"
}

short_build() {
  [ -s "$out/search/genotype.yaml" ] || { skip 'no genotype from the search'; return; }
  ours build build "$out/search/genotype.yaml" "${data_args[@]}" "${build_args[@]}" --device "$device" --seed 1 --no-validate --out "$out/model.onnx" || return
  [ -s "$out/model.onnx" ] || { fail 'no model.onnx'; return; }
  why="$(field "$out/build.json" params) parameters, top1 $(field "$out/build.json" top1)"
}

# The same model through the shaders. No adapter is a fact about the machine; one that computes wrongly is a failure.
shaders() {
  local name=$1
  shift
  [ -s "$out/model.onnx" ] || { skip 'no model from the build'; return; }
  # Beside the GPU there is often a software adapter.
  case $device in
    cuda*) set -- "$@" --adapter NVIDIA ;;
  esac
  ours "$name" "$@" 2>"$scratch/stderr"
  local status=$?
  cat "$scratch/stderr"
  if [ $status -eq 2 ] && grep -qi 'no .*adapter' "$scratch/stderr"; then
    skip "$(grep -i -m 1 'no .*adapter' "$scratch/stderr")"
    return
  fi
  return $status
}

validate_model() {
  shaders validate validate "$out/model.onnx" "${validate_data[@]}"
  local status=$?
  [ $status -ne 1 ] || why='the outputs do not agree'
  [ $status -eq 0 ] || return $status
  [ "$(field "$out/validate.json" ok)" = true ] || { fail 'the result does not say ok'; return; }
  why="$(field "$out/validate.json" adapter), max abs $(field "$out/validate.json" max_abs)"
}

time_inference() {
  shaders infer bench infer "$out/model.onnx" --batch 1 || return
  number "$out/infer.json" median_ms >/dev/null || { fail 'no median_ms in the result'; return; }
  why="$(field "$out/infer.json" adapter), median $(field "$out/infer.json" median_ms) ms"
}

binary=$(plain "$binary") || die 'the binary cannot be unpacked'
"$binary" --version || die "$binary does not start here"
data_args=(--preset quick) validate_data=()
if [ -n "$data" ]; then
  folder=$(unpack "$data") || die "--data $data: no folder train and no CIFAR binary files in it"
  data_args=(--data "$folder") validate_data=(--data "$folder")
fi
printf 'device %s, results in %s, %d s for unpacking\n' "$device" "$out" "$SECONDS"

# What later parts need stands first, what only measures last; the limits leave room for one part that hangs.
part device 30 device_facts
part parity 90 parity
part search 120 short_search
part build 120 short_build
part validate 60 validate_model
part bench-search 90 time_against search "$search_batch"
part bench-train 90 time_against train "$train_batch"
part bench-infer 30 time_inference

printf '\n%-13s %-8s %7s  %s\n' part result seconds what
for i in "${!names[@]}"; do
  printf '%-13s %-8s %7d  %s\n' "${names[i]}" "${results[i]}" "${seconds[i]}" "${whys[i]}"
done | tee "$out/summary.txt"
failed=0 ran=0
for result in "${results[@]}"; do
  [ "$result" != FAILED ] || failed=$((failed + 1))
  [ "$result" = SKIPPED ] || ran=$((ran + 1))
done
printf '%d parts ran, %d failed, %d s\n' "$ran" "$failed" "$SECONDS"
[ "$failed" -eq 0 ] && [ "$ran" -gt 0 ]
