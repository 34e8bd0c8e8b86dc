"""Runs an ONNX classifier in onnxruntime: against known outputs, or on image files.

Takes the model's own metadata for everything that preprocessing needs: `input_size`, `resize`, `mean`, `std`, `classes`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

ENDINGS = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an ONNX file of idarts-compile")
    parser.add_argument("--expect", metavar="FILE", help="safetensors with images, logits and perhaps labels")
    parser.add_argument("--images", metavar="PATH", nargs="+", help="image files, folders, or a folder of class folders")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of a logit (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in one run (default %(default)s)")
    options = parser.parse_args()
    if not options.expect and not options.images:
        parser.error("give --expect or --images")
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")

    network = Network(options.model, options.batch_size)
    agrees = True
    if options.expect:
        agrees = compare(network, options.expect, options.tolerance)
    if options.images:
        classify(network, options.images)
    return 0 if agrees else 1


class Network:
    """A session, and how images become its input."""

    def __init__(self, path, batch_size):
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class of their own
            raise ValueError(error) from error
        self.input = self.session.get_inputs()[0]
        # A model exported with --static-batch takes exactly that many images.
        self.static = self.input.shape[0] if isinstance(self.input.shape[0], int) else None
        self.batch_size = self.static or batch_size
        self.metadata = self.session.get_modelmeta().custom_metadata_map

    def logits(self, images):
        """The outputs for images [N, 3, H, W], in batches."""
        out = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            count = len(part)
            if self.static and count < self.static:
                part = np.concatenate([part, np.zeros((self.static - count, *part.shape[1:]), part.dtype)])
            out.append(self.session.run(["logits"], {self.input.name: part})[0][:count])
        return np.concatenate(out)

    def read(self, key):
        """A JSON value of the metadata."""
        if key not in self.metadata:
            raise ValueError(f"the model has no metadata `{key}`: was it exported by idarts-compile?")
        return json.loads(self.metadata[key])

    def preprocess(self, path):
        """The floats [3, H, W] for an image file."""
        height, width = self.read("input_size")
        cover_height, cover_width = self.read("resize") if "resize" in self.metadata else (height, width)
        with Image.open(path) as image:
            image = image.convert("RGB")
        # Scaled, shape kept, until it just covers the given size; then the middle is cut out.
        if image.width * cover_height >= image.height * cover_width:
            scaled = (max(image.width * cover_height // image.height, cover_width), cover_height)
        else:
            scaled = (cover_width, max(image.height * cover_width // image.width, cover_height))
        image = image.resize(scaled, Image.Resampling.BILINEAR)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
        normalised = (pixels - np.array(self.read("mean"), np.float32)) / np.array(self.read("std"), np.float32)
        return normalised.transpose(2, 0, 1)


def compare(network, path, tolerance):
    """Prints how far the outputs are from those in the file; true if they agree."""
    expected = load_file(path)
    got = network.logits(expected["images"])
    if got.shape != expected["logits"].shape:
        raise ValueError(f"the model gives logits {got.shape}, the file has {expected['logits'].shape}")
    difference = float(np.abs(got - expected["logits"]).max())
    same = float((got.argmax(1) == expected["logits"].argmax(1)).mean())
    print(f"{len(got)} images, largest difference {difference:.3g}, same class for {same:.2%}")
    if "labels" in expected:
        print(f"accuracy {float((got.argmax(1) == expected['labels']).mean()):.2%}")
    # Written so that a NaN does not agree.
    return difference <= tolerance


def classify(network, paths):
    """Prints the class of each image, and the accuracy where the folder of an image names its class."""
    files = [file for path in paths for file in images_below(Path(path))]
    if not files:
        raise ValueError("no images found; looked for " + ", ".join(sorted(ENDINGS)))
    classes = network.read("classes")
    right = labelled = 0
    for start in range(0, len(files), network.batch_size):
        part = files[start : start + network.batch_size]
        logits = network.logits(np.stack([network.preprocess(file) for file in part]))
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        shares = exponents / exponents.sum(1, keepdims=True)
        for file, share in zip(part, shares):
            best = int(share.argmax())
            name = classes[best] if best < len(classes) else str(best)
            print(f"{file}\t{name}\t{share[best]:.3f}")
            if file.parent.name in classes:
                labelled += 1
                right += file.parent.name == name
    if labelled:
        print(f"accuracy {right / labelled:.2%} ({right} of {labelled})")


def images_below(path):
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
