#!/usr/bin/env bash
# Loads exported models in the runtimes that users deploy to and compares the outputs; prints a table. Makes a virtual
# environment and a folder of Node packages, so it needs python3, node, npm and a package index.
#
#   tests/runtimes/run.sh BINARY WORK [options of check.py]
#
# BINARY: a release build of idarts-compile. WORK: a folder for environments and models; it is kept for the next run.
set -euo pipefail
binary=$(realpath "$1") work=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q -r "$here/requirements.txt"
[ -d "$work/node_modules/onnxruntime-web" ] || npm install --silent --no-audit --no-fund --prefix "$work" onnxruntime-web
cp "$here/web.mjs" "$work/"
exec "$work/venv/bin/python" "$here/check.py" --binary "$binary" --work "$work" "$@"
