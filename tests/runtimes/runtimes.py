"""The programs that models are loaded in. Each class takes the path of a model; an instance maps images [N, 3, H, W] to logits.

`rows` is the table: what is run, in which version, on which variant of a model, and how far it may differ.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import save_file

HERE = Path(__file__).parent
TOLERANCE = 1e-3
# float16 has 11 bits; the error grows with the depth.
TOLERANCE_HALF = 5e-2
# The packages that are compiled, by name: where they are, and the crate whose release the table gives.
PACKAGES = {
    "tract": (HERE.parents[1] / "examples" / "tract", "tract-onnx"),
    "rten": (HERE / "rten", "rten"),
    "candle": (HERE / "candle", "candle-onnx"),
    "burn": (HERE / "burn", "burn-onnx"),
}
BURN = "burn, through burn-onnx (5 cells, 8 channels)"


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


def compiled(work, name):
    """The program of a package, as run.sh has built it."""
    folder, _ = PACKAGES[name]
    package = re.search(r'name = "(.+?)"', (folder / "Cargo.toml").read_text())[1]
    return work / "programs" / name / "release" / package


def release(name):
    """The version of a package's runtime in its lock file."""
    folder, crate = PACKAGES[name]
    return re.search(rf'name = "{crate}"\nversion = "(.+?)"', (folder / "Cargo.lock").read_text())[1]


def rows(work):
    """By row of the table: version, what loads a model, tolerance, variant of the model."""
    web = ["node", str(work / "web.mjs")]
    web_version = json.loads((work / "node_modules/onnxruntime-web/package.json").read_text())["version"]
    program = {name: [str(compiled(work, name))] for name in PACKAGES}
    own = version("onnxruntime")
    return {
        "onnxruntime, CPU": (own, Session, TOLERANCE, "plain"),
        "onnxruntime, CPU, `--fp16`": (own, Session, TOLERANCE_HALF, "fp16"),
        "onnxruntime, CPU, `--target candle`": (own, Session, TOLERANCE, "candle"),
        "onnxruntime-web, WebAssembly": (web_version, lambda path: Program(path, web), TOLERANCE, "plain"),
        "OpenCV DNN": (version("opencv-python-headless"), OpenCV, TOLERANCE, "plain"),
        "OpenVINO, CPU": (version("openvino"), OpenVINO, TOLERANCE, "plain"),
        "ncnn, through pnnx": (f"{version('ncnn')}, {version('pnnx')}", Ncnn, TOLERANCE, "plain"),
        "tract": (release("tract"), lambda path: Tract(path, program["tract"][0]), TOLERANCE, "plain"),
        "rten": (release("rten"), lambda path: Program(path, program["rten"]), TOLERANCE, "plain"),
        "candle, `--target candle`": (release("candle"), lambda path: Program(path, program["candle"]), TOLERANCE, "candle"),
        BURN: (release("burn"), lambda path: Program(path, program["burn"]), TOLERANCE, "small"),
    }
