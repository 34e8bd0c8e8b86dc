#!/usr/bin/env bash
# Loads exported models in the runtimes that users deploy to and compares the outputs; prints a table. Makes a virtual
# environment and a folder of Node packages and compiles the programs for the runtimes that are crates, so it needs python3,
# node, npm, cargo, a C compiler, and package indexes.
#
#   tests/runtimes/run.sh BINARY WORK [options of check.py]
#
# BINARY: a release build of idarts-compile. WORK: a folder for environments, programs and models; it is kept for the next run.
set -euo pipefail
binary=$(realpath "$1") work=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work/bin"
work=$(realpath "$work")
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q -r "$here/requirements.txt"
[ -d "$work/node_modules/onnxruntime-web" ] || npm install --silent --no-audit --no-fund --prefix "$work" onnxruntime-web
cp "$here/web.mjs" "$work/"

# candle-onnx calls protoc when it is compiled; the Python package brings one.
if ! command -v protoc >/dev/null; then
  printf '#!/bin/sh\nexec "%s/venv/bin/python" -m grpc_tools.protoc "$@"\n' "$work" >"$work/bin/protoc"
  chmod +x "$work/bin/protoc"
  export PROTOC="$work/bin/protoc"
fi
# The one for burn is compiled again with the models in it; here its dependencies are.
for package in "$here/../../examples/tract" "$here/rten" "$here/candle" "$here/burn"; do
  cargo build --release --locked --quiet --manifest-path "$package/Cargo.toml" --target-dir "$work/programs/$(basename "$package")"
done
exec "$work/venv/bin/python" "$here/check.py" --binary "$binary" --work "$work" "$@"
