"""Writes the checkpoints beside this file, with PyTorch; the tests of src/train/torch know what is in them.

Run it in an environment with torch: python tests/torch/write.py. The files are small: one convolution in the forms in which
training scripts save one.
"""

from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent


def tensors():
    """A state_dict as DARTS has it: weights, a batch counter, a tensor of the auxiliary head."""
    return OrderedDict(
        [
            ("stem.0.weight", torch.arange(6, dtype=torch.float32).reshape(2, 3, 1, 1) / 8),
            ("stem.1.num_batches_tracked", torch.tensor(7)),
            ("auxiliary_head.classifier.bias", torch.full((2,), 0.5)),
        ]
    )


def main():
    module = torch.nn.Sequential(OrderedDict(stem=torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1, bias=False))))
    module.stem[0].weight.data = tensors()["stem.0.weight"]
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    module.stem[0].weight.data = tensors()["stem.0.weight"]
    wrapped = torch.nn.DataParallel(module)
    checkpoint = {
        "epoch": 3,
        "state_dict": wrapped.state_dict(),
        "best_acc_top1": 97.43,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(tensors(), HERE / "state_dict.pt")
    torch.save(tensors(), HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(checkpoint, HERE / "checkpoint.pth.tar")
    torch.save(checkpoint, HERE / "legacy.pth.tar", _use_new_zipfile_serialization=False)
    # Other types, and views that are not laid out row by row.
    across = (torch.arange(6, dtype=torch.float32).reshape(3, 2) / 8).t()
    views = {
        "across": across,
        "half": across.half(),
        "bfloat16": across.bfloat16(),
        "double": across.double(),
        "tail": torch.arange(10, dtype=torch.float32)[4:],
        "spread": torch.ones(1).expand(2, 3),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(views, HERE / "views.pt")
    torch.save(module, HERE / "module.pt")


if __name__ == "__main__":
    main()
