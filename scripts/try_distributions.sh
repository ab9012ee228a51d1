#!/usr/bin/env bash
# Try built distributions as a user gets them: scripts/try_distributions.sh VENV FILE...
#
# VENV is a virtual environment that has the dependencies of the package. Each file, a wheel or a source distribution, is
# installed there in place of the one before, and asked about a clip that it renders, far from the checkout.
set -euo pipefail

bin="$(cd "$1/bin" && pwd)"
shift
files=()
for file in "$@"; do files+=("$(realpath "$file")"); done

workspace="$(mktemp -d)"
trap 'rm -rf "$workspace"' EXIT
unset PYTHONPATH
for file in "${files[@]}"; do
    name="$(basename "$file")"
    folder="$workspace/$name"
    mkdir "$folder"
    cd "$folder"
    "$bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall "$file"
    version="$("$bin/tangovlm" --version)"
    case "$name" in
    tangovlm-"${version##* }"[-.]*) ;;
    *) echo "$name says that it is $version" >&2; exit 1 ;;
    esac
    "$bin/tangovlm" demo --json >demo.json
    "$bin/tangovlm" ask tangovlm-demo/clip.mp4 "What color is the bar?" --json >ask.json
    "$bin/python" - "$name" <<'PYTHON'
import json
import sys
from pathlib import Path

import tangovlm


def last(path):
    return json.loads(Path(path).read_text(encoding="utf-8").splitlines()[-1])


demo, answer = last("demo.json"), last("ask.json")
assert Path(tangovlm.__file__).is_relative_to(sys.prefix), tangovlm.__file__
assert all(Path(demo[part]).stat().st_size for part in ("video", "picture", "report")), demo
assert (answer["answer"], answer["tokens_before"], answer["tokens_after"]) == ("red", 1024, 102), answer
print(f"{sys.argv[1]}: installed, demo written, {answer['tokens_after']} of {answer['tokens_before']} tokens kept")
PYTHON
done
