"""Exports networks and runs them in other runtimes; prints what loads and how far the outputs differ.

The outputs of onnxruntime without graph optimisation are what the others are compared with, relative to the spread of the
logits between images.
Networks: the shipped genotypes as CIFAR (20 cells, 36 channels, 32x32) and ImageNet networks (14 cells, 48 channels,
224x224), and random genotypes as small ones, all with seeded weights; for burn, which compiles each, all as small ones; for
int8 as well, calibrated on the built-in images and compared with our own logits of the quantised network. With `--results`
every outcome is kept in a file, what it holds is not run again, and the table is of all that it holds. The exit status is 1
if a runtime that must load a model does not, or differs by more than its tolerance; a network that has no form for candle
is counted apart.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from networks import SMALL, export, images, networks, weights
from runtimes import BURN, PACKAGES, Session, rows
from safetensors.numpy import load_file

# In int8 a number in the middle between two codes becomes either: largest and mean difference, and classes that agree.
TOLERANCE_INT8, MEAN_INT8, SAME_INT8 = 5e-2, 1e-2, 0.98
INT8 = "onnxruntime, CPU, `--int8` (5 cells, 8 channels)"
FORMAT = "onnx.checker, strict shape inference, onnxsim"
# Logits must vary between images by this share of the largest one.
MIN_SPREAD = 0.01
# What the scales of the weights are multiplied by, until the logits vary.
GAINS = (1.0, 1.5, 2.0, 3.0)


class Network:
    """One network: its exported variants, its images, and what the reference computes."""

    def __init__(self, options, name, genotype, flags):
        self.options, self.name, self.genotype, self.flags = options, name, genotype, flags
        self.made, self.references = {}, {}

    def model(self, variant):
        """The path of the exported model; raises if there is none."""
        if variant not in self.made:
            base = "small" if variant == "small" else "plain"
            # The weights are chosen with the plain file.
            self.reference(base)
        if variant not in self.made:
            more = {"fp16": ["--fp16"], "candle": ["--target", "candle"]}[variant]
            self.made[variant] = self.export(variant, *more)
        return self.made[variant]

    def export(self, variant, *more):
        flags = self.flags
        if variant == "small" and flags != SMALL:
            flags = [*flags, *SMALL]
        file = self.options.work / "models" / f"{self.name}-{'small' if variant == 'small' else 'full'}" / "weights.safetensors"
        return export(self.options, f"{self.name}-{variant}", self.genotype, *flags, "--weights", file, *more)

    def reference(self, variant):
        """Batches, the logits of each, and how far the logits of one class are apart for different images: the rest does
        not depend on the image."""
        base = "small" if variant == "small" else "plain"
        if base not in self.references:
            flags = [*self.flags, *SMALL] if base == "small" and self.flags != SMALL else self.flags
            for gain in GAINS:
                weights(self.options, f"{self.name}-{'small' if base == 'small' else 'full'}", self.genotype, *flags, gain=gain)
                path = self.export(base)
                session = Session(path, optimise=False)
                size = [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim][1:]
                batches = [images(count, size) for count in (1, 7)]
                expected = [session(batch) for batch in batches]
                spread = float((expected[1].max(0) - expected[1].min(0)).max())
                largest = float(np.abs(expected[1]).max())
                # Written so that a NaN is none.
                if spread > MIN_SPREAD * largest and np.isfinite(largest):
                    break
            else:
                raise SystemExit(f"{self.name}: logits up to {largest:.1e} that vary by {spread:.1e}: they would tell nothing")
            self.made[base], self.references[base] = path, (batches, expected, spread)
        return self.references[base]


def int8(options, name, genotype):
    """A small quantised network, calibrated on the built-in images, in onnxruntime: the largest difference from our logits,
    of their spread. Raises if too much differs."""
    small = ["--preset", "quick", *SMALL]
    folder = options.work / "models" / f"{name}-int8"
    path = folder / "model.onnx"
    for gain in GAINS:
        file = weights(options, f"{name}-int8", genotype, *small, gain=gain)
        command = [options.binary, "build", genotype, *small, "--epochs", "0", "--weights", file, "--int8", "--json", "-q"]
        command += ["--samples", "200", "--out", folder]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        samples = load_file(folder / "samples.safetensors")
        want = samples["logits"]
        spread = float((want.max(0) - want.min(0)).max())
        if spread > MIN_SPREAD * float(np.abs(want).max()):
            break
    onnx.checker.check_model(onnx.load(path), full_check=True)
    worst = 0.0
    for optimise in (False, True):
        got = Session(path, optimise)(samples["images"])
        apart = np.abs(got - want) / spread
        same = float((got.argmax(1) == want.argmax(1)).mean())
        # Written so that a NaN does not agree.
        if not (apart.max() <= TOLERANCE_INT8 and apart.mean() <= MEAN_INT8 and same >= SAME_INT8):
            raise RuntimeError(f"it differs by {apart.max():.1e}, {apart.mean():.1e} on average, {same:.3f} of the classes agree")
        worst = max(worst, float(apart.max()))
    return worst


def format_checks(path):
    """The model by the rules of ONNX itself."""
    import onnxsim

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    simple, agrees = onnxsim.simplify(model)
    before, after = ([node.op_type for node in m.graph.node] for m in (model, simple))
    if not agrees or before != after:
        raise RuntimeError(f"onnxsim changes the nodes: {len(before)} before, {len(after)} after")


def difference(run, batch, want):
    """The largest difference of a logit."""
    if hasattr(run, "difference"):
        return run.difference(batch, want)
    got = np.asarray(run(batch), np.float32)
    if got.shape != want.shape:
        raise RuntimeError(f"logits {got.shape} instead of {want.shape}")
    return float(np.abs(got - want).max())


def outcome(network, row, table):
    """What came of one network in one row: `difference`, and `why` or `refused` if it is not as it should be."""
    try:
        if row == FORMAT:
            format_checks(network.model("plain"))
            return {"difference": 0.0}
        if row == INT8:
            return {"difference": int8(network.options, network.name, network.genotype)}
        _, runtime, tolerance, variant = table[row]
        batches, expected, spread = network.reference(variant)
        try:
            path = network.model(variant)
        except RuntimeError as error:
            if variant != "candle":
                raise
            return {"refused": str(error).splitlines()[-1]}
        run = runtime(path)
        worst = max(difference(run, batch, want) / spread for batch, want in zip(batches, expected))
        # Written so that a NaN does not agree.
        return {"difference": worst} if worst <= tolerance else {"difference": worst, "why": f"it differs by {worst:.1e}"}
    except Exception as error:
        return {"why": str(error).strip().splitlines()[0] if str(error).strip() else repr(error)}


def compile_burn(options, chosen):
    """burn-onnx makes source code of models, so that all are compiled into one program."""
    models = [str(network.model("small").resolve()) for network in chosen]
    command = ["cargo", "build", "--release", "--locked", "-q", "--manifest-path", str(PACKAGES["burn"][0] / "Cargo.toml")]
    command += ["--target-dir", str(options.work / "programs" / "burn")]
    subprocess.run(command, check=True, env={**os.environ, "IDARTS_MODELS": os.pathsep.join(models)})


def print_table(results):
    print("| program | version | loads and agrees | largest difference, of the logits' spread |\n|---|---|---|---|")
    failures = []
    for row, entry in results.items():
        outcomes = entry["networks"]
        tried = {name: found for name, found in outcomes.items() if "refused" not in found}
        good = [found["difference"] for found in tried.values() if "why" not in found]
        apart = len(outcomes) - len(tried)
        count = f"{len(good)} of {len(tried)}" + (f", {apart} have no such form" if apart else "")
        worst = "-" if row == FORMAT or not good else f"{max(good):.1e}"
        print(f"| {row} | {entry['version']} | {count} | {worst} |")
        failures += [(row, name, found.get("why") or f"not written: {found['refused']}") for name, found in outcomes.items()
                     if "why" in found or "refused" in found]
    for row, name, why in failures:
        print(f"{row}: {name}: {why}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--networks", default="cifar,imagenet,random", help="groups of networks (default %(default)s)")
    parser.add_argument("--match", default="", metavar="TEXT", help="only networks whose names hold this")
    parser.add_argument("--random", type=int, default=20, help="how many random genotypes (default %(default)s)")
    parser.add_argument("--rows", action="append", metavar="TEXT", help="only rows of the table whose names hold this (or another)")
    parser.add_argument("--without", action="append", default=[], metavar="TEXT", help="no rows whose names hold this (or another)")
    parser.add_argument("--results", type=Path, metavar="FILE.json", help="keep outcomes here and go on from them")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of --results")
    options = parser.parse_args()
    options.binary, options.work = options.binary.resolve(), options.work.resolve()

    kept = options.results and options.results.exists()
    results = json.loads(options.results.read_text()) if kept else {}
    table = rows(options.work)
    versions = {row: entry[0] for row, entry in table.items()}
    versions |= {INT8: version("onnxruntime"), FORMAT: f"{version('onnx')}, {version('onnxsim')}"}
    chosen = [Network(options, *network) for network in networks(options)]

    def wanted(row, network):
        chosen_row = not options.rows or any(text in row for text in options.rows)
        if options.table or not chosen_row or any(text in row for text in options.without):
            return False
        # Of large images the program for burn would be large, and int8 is small by itself.
        if network.name.endswith("-imagenet") and row in (INT8, BURN):
            return False
        return network.name not in results.get(row, {}).get("networks", {})

    burn = [network for network in chosen if wanted(BURN, network)]
    if burn:
        compile_burn(options, burn)
    for network in chosen:
        for row in versions:
            if not wanted(row, network):
                continue
            found = outcome(network, row, table)
            entry = results.setdefault(row, {"version": versions[row], "networks": {}})
            entry["version"], entry["networks"][network.name] = versions[row], found
            print(f"{network.name}: {row}: {found}", file=sys.stderr, flush=True)
            if options.results:
                options.results.write_text(json.dumps(results, indent=1))
    ordered = {row: results[row] for row in [*versions, *results] if row in results}
    print_table(ordered)
    return 1 if any("why" in found for entry in ordered.values() for found in entry["networks"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
