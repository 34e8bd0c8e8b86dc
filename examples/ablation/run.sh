#!/bin/sh
# The four searches of README.md, one after another: run.sh DATA OUT
# DATA is what --data takes; OUT/NAME is the folder of each run. Runs that were cut off go on, finished ones are kept.
set -eu
[ $# -eq 2 ] || { echo 'usage: run.sh DATA OUT' >&2; exit 2; }
data=$1
out=$2

search() {
    name=$1
    shift
    [ ! -e "$out/$name/genotype.yaml" ] || return 0
    if [ -e "$out/$name/checkpoint" ]; then
        idarts-compile search --resume "$out/$name"
        return
    fi
    idarts-compile search --preset cifar10 --data "$data" --subset 4000 --epochs 10 --batch-size 64 --seed 1 \
        --out "$out/$name" "$@"
}

search pc-darts --method pc-darts
search idarts --method idarts
search eta2-edge --method idarts --set backtracking.eta=eta2
search eta2-element --method idarts --set backtracking.eta=eta2 --set backtracking.reading=element
