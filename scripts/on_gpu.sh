#!/usr/bin/env bash
# All measurements and tests that need a GPU, on a machine with only Python, PyTorch, transformers and pytest.
#
#   scripts/on_gpu.sh OUT [--rehearse] [--wheels DIR] [--limit SECONDS] [--only STEP[,STEP...]]
#
#   OUT         folder for the results: summary.tsv, steps.log, doctor.json, bench-*.jsonl
#   --rehearse  the same steps with small shapes on the CPU
#   --wheels    folder of packages that the machine lacks (default: wheels/ in the checkout or next to it)
#   --limit     seconds for all steps together (default: 540, or less with --only; three times as many in a rehearsal)
#   --only      run some of the steps; their names are in summary.tsv
#
# PYTHON names the interpreter (default: python3). Nothing is installed or downloaded. A step that fails or takes too long
# does not affect the others. Exit status: 0 if all steps succeed, 1 if a step fails, 2 for wrong arguments.
set -uo pipefail
SECONDS=0

mistake() {
    echo "on_gpu.sh: $1" >&2
    exit 2
}

out="" rehearse="" wheels="" limit="" only=""
while (($#)); do
    case "$1" in
        --rehearse) rehearse=yes ;;
        --wheels | --limit | --only)
            (($# > 1)) || mistake "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        -*) mistake "there is no option $1: see the top of the script" ;;
        *)
            [[ -z $out ]] || mistake "one folder for results is enough: $out or $1"
            out="$1"
            ;;
    esac
    shift
done
[[ -n $out ]] || mistake "name a folder for the results: scripts/on_gpu.sh OUT"
[[ -z $limit || $limit =~ ^[1-9][0-9]*$ ]] || mistake "--limit is $limit: give seconds"
[[ -z $wheels || -d $wheels ]] || mistake "--wheels is $wheels, which is no folder"
mkdir -p "$out" && out="$(cd "$out" && pwd)" || mistake "cannot write into $out"
[[ -z $wheels ]] || wheels="$(cd "$wheels" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

python="${PYTHON:-python3}"
work="$(mktemp -d)" && mkdir "$work/site"
trap 'rm -rf "$work"' EXIT
for folder in wheels ../wheels; do
    if [[ -z $wheels && -d $folder ]]; then wheels="$folder"; fi
done
export PYTHONPATH="$PWD/src:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

# An unpacked wheel can be imported without pip and without write access to the environment.
"$python" - "$work/site" ${wheels:+"$wheels"/*.whl} <<'PYTHON' || mistake "cannot unpack the wheels in $wheels"
import sys
import zipfile
from importlib import metadata
from pathlib import Path

target, *wheels = map(Path, sys.argv[1:])
there = {(each.metadata["Name"] or "").lower().replace("_", "-") for each in metadata.distributions()}
for wheel in wheels:
    if wheel.exists() and wheel.name.split("-")[0].lower().replace("_", "-") not in there:
        zipfile.ZipFile(wheel).extractall(target)
PYTHON

device=cuda
[[ -z $rehearse ]] || device=cpu
if [[ -z $rehearse ]]; then
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        mistake "PyTorch sees no GPU here: --rehearse runs the same steps on the CPU"
fi

# Name, minimum time in seconds, and command of each step. A step that ends early leaves its time to later ones.
steps=() shares=() commands=()
step() {
    [[ -z $only || ",$only," == *",$1,"* ]] || return 0
    steps+=("$1") shares+=("$2")
    shift 2
    commands+=("$(printf '%q ' "$@")")
}
bench() { # NAME SECONDS BENCHMARK ARGUMENTS...
    step "$1" "$2" "$python" -m tangovlm bench "$3" --device "$device" --out "$out/bench-$3.jsonl" "${@:4}"
}

step doctor 70 "$python" -m tangovlm doctor --json
if [[ -n $rehearse ]]; then
    for frames in 32 64 256; do bench "prune-$frames" 40 prune --shape "$((frames / 16)),4,4,64" --repeats 2; done
    bench prune-1024 40 prune --shape 64,4,4,64 --repeats 2 --no-reference
    bench prune-milonga 40 prune --method milonga --shape 2,4,4,64 --repeats 2
    bench scale 40 scale --shape 4,4,64 --frames 16 --batch 2 --repeats 1
    for model in llava-onevision qwen2.5-vl; do
        bench "ttft-$model" 55 ttft --size tiny --model "$model" --frames 2 --batch 1 \
            --retention 1.0 --retention 0.2 --retention 0.1 --repeats 1
    done
    bench profile 40 profile --retention 0.1 --repeats 1
else
    bench prune-32 30 prune --shape 32,14,14,3584
    bench prune-64 30 prune --shape 64,13,13,3584
    bench prune-256 60 prune --shape 256,14,14,3584
    # The reference reads a number from the device at every step of its loops, which takes too long at this size.
    bench prune-1024 40 prune --shape 1024,14,14,3584 --no-reference
    # Its reference finds runs token by token.
    bench prune-milonga 30 prune --method milonga --shape 32,14,14,3584 --no-reference
    bench scale 40 scale
    for model in llava-onevision qwen2.5-vl; do
        bench "ttft-$model" 55 ttft --size 7b --model "$model" --frames 32 --batch 1 \
            --retention 1.0 --retention 0.2 --retention 0.1
    done
    # All stages of a question on the embedded model; weights of larger models are not available here.
    bench profile 40 profile --retention 0.2 --retention 0.1 --repeats 5
fi
# The last step, because it uses the time that is left. Only files with GPU tests: others import packages that are missing.
mapfile -t files < <(grep -rlE 'mark\.gpu' tests --include='test_*.py' | sort)
step gpu-tests 90 "$python" -m pytest -m gpu -p no:cacheprovider --durations=5 "${files[@]}"
IFS=, read -ra wanted <<<"$only"
[[ -z $only ]] || ((${#steps[@]} == ${#wanted[@]})) || mistake "--only is $only: not all of these are steps"

# Results of a rehearsal are not comparable and must not be mixed with others.
if [[ -e $out/rehearsal ]]; then
    rm -f "$out"/bench-*.jsonl "$out/rehearsal"
elif [[ -n $rehearse ]] && compgen -G "$out/bench-*.jsonl" >/dev/null; then
    mistake "$out has figures of a GPU: choose another folder for a rehearsal"
fi
[[ -z $rehearse ]] || touch "$out/rehearsal"

whole=0
for share in "${shares[@]}"; do whole=$((whole + share)); done
if [[ -z $limit ]]; then
    limit=$whole
    # A slow machine is acceptable if nothing is measured.
    [[ -z $rehearse ]] || limit=$((3 * whole))
fi

summary="$out/summary.tsv" log="$out/steps.log"
printf 'step\tstatus\tseconds\tlimit\n' >"$summary"
{
    date -u '+%Y-%m-%d %H:%M UTC'
    nvidia-smi -L 2>/dev/null || echo "no GPU"
    "$python" --version
} >"$log" 2>&1

failed=0 due=0
for number in "${!steps[@]}"; do
    name="${steps[number]}"
    due=$((due + shares[number]))
    left=$((limit * due / whole - SECONDS))
    ((left > 0)) || left=1
    echo "$name: at most $left s"
    began=$SECONDS
    # After this signal, pytest still prints a summary.
    timeout --signal=INT --kill-after=10 "$left" bash -c "exec ${commands[number]}" >"$work/stdout" 2>"$work/stderr"
    status=$?
    ((status == 0)) || failed=1
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" "$left" >>"$summary"
    if [[ $name == doctor && -s $work/stdout ]]; then tail -n 1 "$work/stdout" >"$out/doctor.json"; fi
    {
        printf '\n=== %s: status %s\n%s\n' "$name" "$status" "${commands[number]}"
        # The output of a step has no limit; its end matters.
        tail -c 500000 "$work/stdout"
        tail -c 500000 "$work/stderr"
    } >>"$log"
done

cat "$summary"
echo "status 124 or 137: time limit exceeded; the output of the steps is in $log"
exit "$failed"
