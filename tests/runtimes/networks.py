"""The networks that are exported, their seeded weights, and the images that they see."""

import random
import subprocess
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GENOTYPES = Path(__file__).parents[2] / "genotypes"
# Those that the program knows by name, and one that is a file only.
SHIPPED = {name: name for name in ("DARTS_V1", "DARTS_V2", "PC_DARTS_cifar", "PC_DARTS_image", "NASNet", "AmoebaNet")}
SHIPPED["idarts_cifar10_seed0"] = GENOTYPES / "idarts_cifar10_seed0.yaml"
SMALL = ["--cells", "5", "--channels", "8"]
# What a random genotype chooses from.
PRIMITIVES = [
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3",
    "dil_conv_5x5", "conv_7x1_1x7",
]  # fmt: skip


def networks(options):
    """Name, genotype, and the flags that choose the network."""
    found = []
    if "cifar" in options.networks:
        found += [(f"{name}-cifar", genotype, ["--network", "cifar"]) for name, genotype in SHIPPED.items()]
    if "imagenet" in options.networks:
        found += [(f"{name}-imagenet", genotype, ["--network", "imagenet"]) for name, genotype in SHIPPED.items()]
    if "random" in options.networks:
        for seed in range(options.random):
            path = options.work / f"random_{seed}.py"
            path.write_text(random_genotype(seed))
            found.append((f"random_{seed}", path, SMALL))
    return [network for network in found if options.match in network[0]]


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
    done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or "the program fails without a message")


def weights(options, name, genotype, *flags, gain=1.0):
    """Seeded weights that let a signal through. With the starting ones it fades within a few cells, and the logits are the
    classifier's bias, on which every program agrees whatever it computes. `gain` is for cells that take more away."""
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
            tensor[:] = gain * (2.0 if "preprocess" in key else 3.0) * choose.uniform(0.8, 1.2, tensor.shape)
        elif "norm" in key and key.endswith((".bias", ".running_mean")):
            tensor[:] = choose.normal(0, 0.05, tensor.shape)
    save_file(tensors, file)
    return file


def export(options, name, genotype, *flags):
    path = options.work / "models" / f"{name}.onnx"
    build(options, genotype, path, *flags)
    return path
