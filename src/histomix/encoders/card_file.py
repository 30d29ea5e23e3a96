"""A user's own encoder: a TorchScript or ONNX file, and a card file beside it that says what it is.

The card is YAML or JSON::

    name: our-vit
    model: our_vit.pt        # beside the card; .onnx, or TorchScript as .pt, .ts or .torchscript
    size_px: 224
    mpp: 0.5
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
    dim: 384
    licence: our own

The model takes normalised float32 images (n, 3, size_px, size_px), for any n, and gives (n, dim). ``title``,
``commercial_use``, ``parameters``, ``paper`` and ``views`` may be added.

A TorchScript file holds a program, which runs when it is loaded and when it embeds, with your rights: it can overwrite
your files. It is loaded only where its code is trusted (``--trust-code``, ``trust_code=True``). An ONNX file holds a
graph of operators, which read and write nothing but their tensors; weights that lie in files beside it belong to it,
and to the digest by which the encoder is known.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.yaml_text import YamlFile
from ..errors import EncoderError, MissingEncoderError
from ..provenance import digest_file, digest_json
from .card import Encoder, EncoderCard
from .onnx.files import model_digests
from .onnx.session import OnnxSession
from .views import check_output, check_tiles, check_views, mean_of_views

if TYPE_CHECKING:
    from ..slides import TileSpec

_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "model": str,
    "size_px": int,
    "mpp": (int, float),
    "mean": list,
    "std": list,
    "dim": int,
    "licence": str,
}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "commercial_use": bool,
    "parameters": (int, float),
    "paper": str,
    "views": int,
}
_TORCHSCRIPT = (".pt", ".ts", ".torchscript")
_AS_EXPECTED = "Export it to take float32 images (n, 3, size_px, size_px) for any n and to give (n, dim)"


def read_card_file(path: str | os.PathLike[str]) -> EncoderCard:
    """Read a card file; its model's path becomes the card's ``files``.

    Raises
    ------
    EncoderError
        The file cannot be read, or has faults (all are listed), or its model is absent or of another kind.
    """
    hint = "Correct the card file; histomix.encoders.card_file shows one"
    facts = YamlFile(Path(path), EncoderError, hint, "card file").values()
    if not isinstance(facts, dict):
        raise EncoderError("the card file holds no table of names and values", where=path, hint=hint)
    if faults := _faults(facts):
        raise EncoderError(f"the card file has faults: {'; '.join(faults)}", where=path, hint=hint)
    model = Path(path).parent / facts["model"]
    if model.suffix.lower() not in (*_TORCHSCRIPT, ".onnx"):
        raise EncoderError(
            f"the model {model.name} is neither ONNX (.onnx) nor TorchScript ({', '.join(_TORCHSCRIPT)})",
            where=path,
            hint="Export it as one of them",
        )
    if not model.is_file():
        raise MissingEncoderError("there is no such model file", where=model, hint=f"Put it beside {Path(path).name}")
    return EncoderCard(
        name=facts["name"],
        title=str(facts.get("title", facts["name"])),
        source="file",
        architecture=model.name,
        size_px=facts["size_px"],
        mpp=float(facts["mpp"]),
        mean=_channels(facts["mean"]),
        std=_channels(facts["std"]),
        pooling="model",
        dim=facts["dim"],
        parameters=float(facts.get("parameters", 0)),
        licence=facts["licence"],
        commercial_use=facts.get("commercial_use"),
        gated=False,
        paper=facts.get("paper", ""),
        views=facts.get("views", 1),
        files=(str(model.absolute()),),
        unconfirmed=() if "parameters" in facts else ("parameters",),
    )


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _faults(facts: dict[str, Any]) -> list[str]:
    from ..slides.tiles import MAX_MPP

    known = {**_REQUIRED, **_OPTIONAL}
    faults = [f"{name} is missing" for name in _REQUIRED if name not in facts]
    faults += [f"{name} is not known" for name in facts if name not in known]
    for name, value in facts.items():
        # In Python, true is a number.
        wrong = not isinstance(value, known.get(name, object))
        wrong = wrong or (isinstance(value, bool) and known.get(name) is not bool)
        if name in ("mean", "std") and not wrong:
            numbers = [one for one in value if isinstance(one, int | float) and not isinstance(one, bool)]
            wrong = len(value) != 3 or len(numbers) != 3 or (name == "std" and min(numbers) <= 0)
        elif name in ("size_px", "mpp", "dim") and not wrong:
            wrong = not 0 < value < float("inf") or (name == "mpp" and value > MAX_MPP)
        elif name == "views" and not wrong:
            wrong = value not in (1, 4, 8)
        if name in known and wrong:
            faults.append(f"{name} cannot be {value!r}")
    return faults


def runs_code(card: EncoderCard) -> bool:
    """Whether the model of a card file is a program (TorchScript), rather than a graph of operators (ONNX)."""
    return card.source == "file" and not card.files[0].lower().endswith(".onnx")


def load_card_file(
    card: EncoderCard,
    threads: int | None = None,
    views: int | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> Encoder:
    """Load the model of a card that `read_card_file` read, and try it on two blank tiles.

    Raises
    ------
    EncoderError
        The model is a TorchScript program that is not trusted, cannot be read, does not take two tiles of the card's
        size, or does not give (2, dim).
    """
    path = Path(card.files[0])
    facts = dataclasses.asdict(card)
    chosen = check_views(card.views if views is None else views)
    decisive = {key: facts[key] for key in ("size_px", "mpp", "mean", "std", "dim")}
    is_program = runs_code(card)
    if is_program and not trust_code:
        raise EncoderError(
            f"{card.name} is a TorchScript program, which runs with your rights and can overwrite your files",
            where=path,
            hint="If you trust whoever made it, add --trust-code (in Python trust_code=True); else ask for it as ONNX",
        )
    model = {path.name: digest_file(path)} if is_program else model_digests(path)
    digest = digest_json({"model": model, "views": chosen, **decisive})
    make = _load_torchscript if is_program else _load_onnx
    encoder = make(card, path, digest, threads, chosen, device)
    encoder.embed(np.full((2, card.size_px, card.size_px, 3), 255, dtype=np.uint8))
    return encoder


def _unusable(card: EncoderCard, path: Path, error: Exception) -> EncoderError:
    reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
    return EncoderError(
        f"the model of {card.name} cannot be used ({reason})",
        where=path,
        hint=_AS_EXPECTED,
    )


def _load_torchscript(
    card: EncoderCard, path: Path, digest: str, threads: int | None, views: int, device: str
) -> Encoder:
    import torch

    from .torch.base import TorchEncoder

    class TorchScriptEncoder(TorchEncoder):
        """A TorchScript file with its card."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            try:
                embedding: torch.Tensor = self.model(images)
                return embedding
            except (RuntimeError, ValueError, TypeError) as error:
                raise _unusable(card, path, error) from error

    try:
        with warnings.catch_warnings():
            # Of torch, to those who write such files.
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            model = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise _unusable(card, path, error) from error
    return TorchScriptEncoder(card, model.eval(), digest, threads, views, device)


def _load_onnx(card: EncoderCard, path: Path, digest: str, threads: int | None, views: int, device: str) -> Encoder:
    if device not in ("auto", "cpu"):
        raise EncoderError(f"an ONNX file runs on the CPU, not on {device!r}", hint="Choose the device auto or cpu")
    return OnnxEncoder(card, path, digest, threads, views)


class OnnxEncoder:
    """An ONNX file with its card; see `histomix.encoders.Encoder`.

    Parameters
    ----------
    card
        What the encoder is.
    path
        The ONNX file: one input, float32 (n, 3, size_px, size_px); its first output is the embedding.
    digest
        See `histomix.encoders.Encoder`.
    threads
        CPU threads; None lets ONNX Runtime take one for each core.
    views
        Flips and rotations to average (1, 4 or 8).

    Raises
    ------
    EncoderError
        ONNX Runtime cannot read the file.
    """

    def __init__(self, card: EncoderCard, path: Path, digest: str, threads: int | None = None, views: int = 1) -> None:
        self.card = card
        self.dim = card.dim
        self.views = views
        self.digest = digest
        self.session = OnnxSession(path, threads, what=f"the model of {card.name}", hint=_AS_EXPECTED)
        self._scale = (1.0 / (255.0 * np.asarray(card.std))).astype(np.float32)
        self._offset = (-np.asarray(card.mean) / np.asarray(card.std)).astype(np.float32)

    def tile_spec(self) -> TileSpec:
        """Size and scale of the tiles that `embed` takes."""
        from ..slides import TileSpec

        return TileSpec(size_px=self.card.size_px, mpp=self.card.mpp)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles, uint8 (n, size_px, size_px, 3), as float32 (n, dim).

        Raises
        ------
        EncoderError
            The tiles have another shape or type, or the model cannot take them or gives something else.
        """
        tiles = check_tiles(tiles, self.card.size_px, self.card.name)
        if len(tiles) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        return mean_of_views(tiles, self.views, self._embed_once)

    def _embed_once(self, tiles: np.ndarray) -> np.ndarray:
        images = (tiles * self._scale + self._offset).transpose(0, 3, 1, 2)
        embeddings = self.session.run(images)
        check_output(embeddings, len(tiles), self.card)
        return embeddings
