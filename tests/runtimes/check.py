"""Exports networks and runs them in other runtimes; prints what loads and how far the outputs differ.

The outputs of onnxruntime without graph optimisation are what the others are compared with, relative to the spread of the
logits between images.
Networks: the shipped genotypes as CIFAR (20 cells, 36 channels, 32x32) and ImageNet networks (14 cells, 48 channels,
224x224), and random genotypes as small ones, all with seeded weights; for int8 all as small ones, calibrated on the built-in
images and compared with our own logits of the quantised network. The exit status is 1 if a runtime that must load a
model does not, or differs by more than its tolerance.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file, save_file

SHIPPED = ["DARTS_V1", "DARTS_V2", "PC_DARTS_cifar", "PC_DARTS_image", "NASNet", "AmoebaNet"]
# What a random genotype chooses from.
PRIMITIVES = [
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3",
    "dil_conv_5x5", "conv_7x1_1x7",
]  # fmt: skip
TOLERANCE = 1e-3
# float16 has 11 bits; the error grows with the depth.
TOLERANCE_HALF = 5e-2
# In int8 a number in the middle between two codes becomes either: largest and mean difference, and classes that agree.
TOLERANCE_INT8, MEAN_INT8, SAME_INT8 = 5e-2, 1e-2, 0.98
INT8 = "onnxruntime, CPU, `--int8`"
# Logits must vary between images by this share of the largest one.
MIN_SPREAD = 0.01


class Session:
    """onnxruntime on the CPU."""

    def __init__(self, path, optimise=True):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, images):
        return self.session.run(["logits"], {"input": images})[0]


class OpenCV:
    def __init__(self, path):
        import cv2

        self.net = cv2.dnn.readNetFromONNX(str(path))

    def __call__(self, images):
        self.net.setInput(images)
        return self.net.forward()


class OpenVINO:
    def __init__(self, path):
        import openvino

        # On the CPU it may choose bfloat16 by itself.
        self.model = openvino.compile_model(openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, images):
        return self.model(images)[0]


class Ncnn:
    """Through pnnx, for one image at a time: ncnn has no batches."""

    def __init__(self, path):
        import ncnn

        shape = [d.dim_value or 1 for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
        self.folder = tempfile.TemporaryDirectory()
        copy = Path(self.folder.name) / "m.onnx"
        copy.write_bytes(Path(path).read_bytes())
        # The package ships a program and puts it beside the interpreter.
        program = Path(sys.executable).with_name("pnnx")
        command = [str(program), str(copy), "inputshape=[" + ",".join(map(str, shape)) + "]", "fp16=0"]
        done = subprocess.run(command, cwd=self.folder.name, capture_output=True, text=True)
        param = copy.with_name("m.ncnn.param")
        if done.returncode or not param.exists():
            raise RuntimeError("pnnx: " + (done.stderr.strip().splitlines() or ["no output"])[-1])
        self.ncnn, self.net = ncnn, ncnn.Net()
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = False
        self.net.opt.use_bf16_storage = False
        if self.net.load_param(str(param)) or self.net.load_model(str(param.with_suffix(".bin"))):
            raise RuntimeError("ncnn does not load what pnnx wrote")

    def __call__(self, images):
        rows = []
        for image in images:
            with self.net.create_extractor() as run:
                run.input("in0", self.ncnn.Mat(np.ascontiguousarray(image)))
                rows.append(np.array(run.extract("out0")[1]).reshape(-1))
        return np.stack(rows)


class Tract:
    """The program of examples/tract, which compares by itself."""

    def __init__(self, path, program):
        self.path, self.program = path, program

    def difference(self, batch, want):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "expected.safetensors"
            save_file({"images": batch, "logits": want}, file)
            done = subprocess.run([self.program, self.path, "--expect", file], capture_output=True, text=True)
        found = re.search(r"largest difference (\S+?),?\s", done.stdout + " ")
        if not found:
            raise RuntimeError((done.stderr.strip().splitlines() or ["it fails without a message"])[-1])
        return float(found[1])


class Program:
    """A program that reads and writes raw float32 files."""

    def __init__(self, path, command):
        self.path, self.command = path, command

    def __call__(self, images):
        with tempfile.TemporaryDirectory() as folder:
            given, got = Path(folder) / "in", Path(folder) / "out"
            given.write_bytes(images.tobytes())
            arguments = [*self.command, str(self.path), str(given), str(got), *map(str, images.shape)]
            done = subprocess.run(arguments, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or ["it fails without a message"])[-1])
            return np.frombuffer(got.read_bytes(), np.float32).reshape(len(images), -1)


def images(count, size):
    """Seeded pictures [count, 3, H, W]: waves of some frequency and colour over noise, so that no two are alike on average."""
    choose = np.random.default_rng(count)
    _, height, width = size
    y, x = np.mgrid[0:height, 0:width] / height
    drawn = []
    for _ in range(count):
        waves = np.sin(2 * np.pi * (choose.uniform(-4, 4) * y + choose.uniform(-4, 4) * x) + choose.uniform(0, 6))
        colour = choose.normal(0, 1, (3, 1, 1))
        drawn.append(colour + choose.normal(0, 1, (3, 1, 1)) * waves + 0.3 * choose.standard_normal(size))
    return np.stack(drawn).astype(np.float32)


def random_genotype(seed):
    choose = random.Random(seed)

    def cell():
        nodes = []
        for node in range(4):
            places = choose.sample(range(node + 2), 2)
            nodes.append([[choose.choice(PRIMITIVES), place] for place in sorted(places)])
        return [edge for edges in nodes for edge in edges]

    def literal(edges):
        return "[" + ", ".join(f"('{name}', {place})" for name, place in edges) + "]"

    normal, reduce = cell(), cell()
    concat = "range(2, 6)"
    return (
        f"random_{seed} = Genotype(normal={literal(normal)}, normal_concat={concat}, "
        f"reduce={literal(reduce)}, reduce_concat={concat})\n"
    )


def build(options, genotype, out, *flags):
    command = [options.binary, "build", genotype, "--epochs", "0", "--no-validate", "--json", "-q", "--out", out, *flags]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def weights(options, name, genotype, *flags):
    """Seeded weights that let a signal through. With the starting ones it fades within a few cells, and the logits are the
    classifier's bias, on which every program agrees whatever it computes."""
    folder = options.work / "models" / name
    build(options, genotype, folder, *flags)
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    choose = np.random.default_rng(0)
    for key, tensor in tensors.items():
        if key.endswith("classifier.bias"):
            tensor[:] = 0
        elif "norm" in key and key.endswith(".weight"):
            # What ReLU and convolutions take away; two edges are added in a node.
            tensor[:] = (2.0 if "preprocess" in key else 3.0) * choose.uniform(0.8, 1.2, tensor.shape)
        elif "norm" in key and key.endswith((".bias", ".running_mean")):
            tensor[:] = choose.normal(0, 0.05, tensor.shape)
    save_file(tensors, file)
    return file


def export(options, name, genotype, *flags):
    path = options.work / "models" / f"{name}.onnx"
    build(options, genotype, path, *flags)
    return path


def int8(options, name, genotype):
    """A small quantised network, calibrated on the built-in images, in onnxruntime: the largest difference from our logits,
    of their spread. Raises if too much differs."""
    small = ["--preset", "quick", "--cells", "5", "--channels", "8"]
    file = weights(options, f"{name}-int8", genotype, *small)
    folder = options.work / "models" / f"{name}-int8"
    command = [options.binary, "build", genotype, *small, "--epochs", "0", "--weights", file, "--int8", "--json", "-q"]
    subprocess.run([str(part) for part in [*command, "--samples", "200", "--out", folder]], check=True, stdout=subprocess.DEVNULL)
    path, samples = folder / "model.onnx", load_file(folder / "samples.safetensors")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    want = samples["logits"]
    spread = float((want.max(0) - want.min(0)).max())
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


def networks(options):
    """Name, the path of the float32 model, and the flags that it was exported with."""
    found = []
    for genotype in SHIPPED:
        found.append((f"{genotype}-cifar", genotype, ["--network", "cifar"]))
    if not options.cifar_only:
        for genotype in SHIPPED:
            found.append((f"{genotype}-imagenet", genotype, ["--network", "imagenet"]))
    for seed in range(options.random):
        path = options.work / f"random_{seed}.py"
        path.write_text(random_genotype(seed))
        found.append((f"random_{seed}", path, ["--cells", "5", "--channels", "8"]))
    return found


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--random", type=int, default=20, help="how many random genotypes (default %(default)s)")
    parser.add_argument("--cifar-only", action="store_true", help="leave the ImageNet networks out")
    parser.add_argument("--tract", type=Path, help="the program of examples/tract; left out without it")
    options = parser.parse_args()
    options.binary = options.binary.resolve()

    web = ["node", str(options.work.resolve() / "web.mjs")]
    web_version = json.loads((options.work / "node_modules/onnxruntime-web/package.json").read_text())["version"]
    rows = {
        "onnxruntime, CPU": (version("onnxruntime"), Session, TOLERANCE, []),
        "onnxruntime, CPU, `--fp16`": (version("onnxruntime"), Session, TOLERANCE_HALF, ["--fp16"]),
        "onnxruntime-web, WebAssembly": (web_version, lambda path: Program(path, web), TOLERANCE, []),
        "OpenCV DNN": (version("opencv-python-headless"), OpenCV, TOLERANCE, []),
        "OpenVINO, CPU": (version("openvino"), OpenVINO, TOLERANCE, []),
        "ncnn, through pnnx": (f"{version('ncnn')}, {version('pnnx')}", Ncnn, TOLERANCE, []),
    }
    if options.tract:
        lock = Path(__file__).parents[2] / "examples" / "tract" / "Cargo.lock"
        release = re.search(r'name = "tract-onnx"\nversion = "(.+?)"', lock.read_text())[1]
        rows["tract"] = (release, lambda path: Tract(path, options.tract.resolve()), TOLERANCE, [])
    results = {row: [] for row in rows}
    results[INT8] = []
    results["onnx.checker, strict shape inference, onnxsim"] = []
    for name, genotype, flags in networks(options):
        flags = [*flags, "--weights", weights(options, name, genotype, *flags)]
        plain = export(options, name, genotype, *flags)
        half = export(options, f"{name}-fp16", genotype, *flags, "--fp16")
        reference = Session(plain, optimise=False)
        size = [d.dim_value for d in onnx.load(plain).graph.input[0].type.tensor_type.shape.dim][1:]
        batches = [images(count, size) for count in (1, 7)]
        expected = [reference(batch) for batch in batches]
        # How far the logits of one class are apart for different images: the rest does not depend on the image.
        spread = float((expected[1].max(0) - expected[1].min(0)).max())
        largest = float(np.abs(expected[1]).max())
        if not spread > MIN_SPREAD * largest:
            raise RuntimeError(f"{name}: logits up to {largest:.1e} that vary by {spread:.1e}: they would tell nothing")
        try:
            format_checks(plain)
            results["onnx.checker, strict shape inference, onnxsim"].append((name, 0.0, ""))
        except Exception as error:
            results["onnx.checker, strict shape inference, onnxsim"].append((name, None, str(error)))
        if not name.endswith("-imagenet"):
            try:
                results[INT8].append((name, int8(options, name, genotype), ""))
            except Exception as error:
                results[INT8].append((name, None, str(error)))
        for row, (_, runtime, tolerance, variant) in rows.items():
            try:
                run = runtime(half if variant else plain)
                worst = 0.0
                for batch, want in zip(batches, expected):
                    worst = max(worst, difference(run, batch, want) / spread)
                # Written so that a NaN does not agree.
                why = "" if worst <= tolerance else f"it differs by {worst:.1e}"
                results[row].append((name, worst, why))
            except Exception as error:
                results[row].append((name, None, str(error).strip().splitlines()[0] if str(error) else repr(error)))
            print(f"{name}: {row}: {results[row][-1][1:]}", file=sys.stderr)

    print("| program | version | loads and agrees | largest difference, of the logits' spread |\n|---|---|---|---|")
    for row, outcomes in results.items():
        good = [outcome for outcome in outcomes if not outcome[2]]
        worst = max((outcome[1] for outcome in good), default=0.0)
        release = rows[row][0] if row in rows else f"{version('onnx')}, {version('onnxsim')}"
        release = version("onnxruntime") if row == INT8 else release
        print(f"| {row} | {release} | {len(good)} of {len(outcomes)} | {f'{worst:.1e}' if row in rows or row == INT8 else '-'} |")
    failures = [(row, *outcome) for row, outcomes in results.items() for outcome in outcomes if outcome[2]]
    for row, name, _, why in failures:
        print(f"{row}: {name}: {why}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
