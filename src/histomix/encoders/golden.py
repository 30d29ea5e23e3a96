"""Golden vectors: a tile whose numbers are known, against which the weights on a machine are held."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HistomixError, InputError, MissingFileError
from ..provenance import read_json
from .cards import card
from .load import availability, load_encoder

#: Files of a pair: the tile, its numbers, and (where the facts are not in `KNOWN`) how the tile is brought to them.
TILE, EXPECTED, FACTS = "tile.png", "expected.npy", "pair.json"
DATA_VARIABLE = "HISTOMIX_DATA"
#: A tile is a picture, not a slide; no encoder gives more numbers.
_MOST_PIXELS, _MOST_BYTES = 4096 * 4096, 8 << 20
AGREES, DIFFERS, MISSING = "agrees", "differs", "missing"


@dataclass(frozen=True)
class PairFacts:
    """How a pair was made.

    Parameters
    ----------
    resize_px
        The shorter side of the tile before the crop (bicubic); None: as it is.
    crop_px
        The side of the square that is cut from the middle; None: all of it.
    tolerance
        Largest difference of one number.
    source, licence
        Who published it, and under which licence.
    """

    resize_px: int | None = None
    crop_px: int | None = None
    tolerance: float = 1e-2
    source: str = ""
    licence: str = ""


#: Pairs that the authors of an encoder publish, each in the folder ``<key>_golden`` of the data.
KNOWN: Mapping[str, tuple[str, PairFacts]] = {
    "prov-gigapath": (
        "gigapath_golden",
        PairFacts(256, 224, 1e-2, "images/prov_normal_000_1.png and .pt of github.com/prov-gigapath", "Apache-2.0"),
    )
}


@dataclass(frozen=True)
class GoldenCheck:
    """What became of an encoder's golden pair.

    Attributes
    ----------
    encoder
        Name of the encoder.
    state
        ``"agrees"``: the weights here are what they claim to be. ``"differs"``: they, or what runs them, are others.
        ``"missing"``: there are no weights or no pair, so nothing was run.
    words
        The same in a sentence.
    hint
        What mends it; empty where it agrees.
    difference, cosine
        Largest difference of one number, and the cosine of the two vectors; None where nothing was run.
    tolerance
        What the difference may be.
    pair, source, licence
        Where the pair lies, who published it and under which licence.
    """

    encoder: str
    state: str
    words: str
    hint: str = ""
    difference: float | None = None
    cosine: float | None = None
    tolerance: float | None = None
    pair: str = ""
    source: str = ""
    licence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)

    def text(self) -> str:
        """For a person."""
        return f"golden pair of {self.encoder}: {self.words}" + (f"\n  -> {self.hint}" if self.hint else "")


def check_golden(
    encoder: str,
    weights: str | os.PathLike[str] | None = None,
    pair: str | os.PathLike[str] | None = None,
) -> GoldenCheck:
    """Run the tile of an encoder's golden pair and compare the numbers.

    Parameters
    ----------
    encoder
        Name of a card, or a card file.
    weights
        Local weights; None: those in the hub's cache. Nothing is downloaded.
    pair
        Folder with ``tile.png``, ``expected.npy`` (the numbers, float) and, where the pair is not the authors' own,
        ``pair.json`` (``resize_px``, ``crop_px``, ``tolerance``, ``source``, ``licence``); None: the authors' pair in
        the folder that HISTOMIX_DATA names.

    Raises
    ------
    EncoderError
        There is no encoder of that name.
    InputError
        The pair is there, but cannot be read.
    """
    encoder_card = card(encoder)
    known = KNOWN.get(encoder_card.name)
    folder = Path(pair) if pair is not None else _known_folder(known)
    if folder is None or (pair is None and not folder.is_dir()):
        return _missing(encoder, *_no_pair(encoder_card.name, known))
    facts = _facts(folder, known)
    told: dict[str, Any] = {
        "pair": str(folder),
        "source": facts.source,
        "licence": facts.licence,
        "tolerance": facts.tolerance,
    }
    tile, expected = _tile(folder / TILE, facts), _numbers(folder / EXPECTED)
    if expected.size != encoder_card.dim:
        raise InputError(
            f"holds {expected.size} numbers, and {encoder} gives {encoder_card.dim}",
            where=folder / EXPECTED,
            hint="Give the pair of this encoder",
        )
    if weights is None:
        state = availability(encoder)
        if not state.loadable:
            check = _missing(encoder, f"no weights to run it with: {state.reason}", state.hint)
            return dataclasses.replace(check, **told)
    try:
        # A pair is of the encoder itself, not of the mean over flips that features may be.
        found = load_encoder(encoder, weights, views=1).embed(tile[None])[0]
    except HistomixError as error:
        words = f"differs: the weights cannot be loaded as {encoder} ({error.what})"
        return GoldenCheck(encoder, DIFFERS, words, error.hint or "", **told)
    difference = float(np.abs(found - expected).max()) if np.isfinite(found).all() else float("inf")
    cosine = float(found @ expected / max(np.linalg.norm(found) * np.linalg.norm(expected), 1e-12))
    measured = f"largest difference {difference:.2g} (at most {facts.tolerance:g}), cosine {cosine:.5f}"
    if difference <= facts.tolerance:
        words = f"agrees: the weights here are what they claim to be; {measured}"
        return GoldenCheck(encoder, AGREES, words, "", difference, cosine, **told)
    hint = f"Remove these weights and get those of revision {encoder_card.revision or 'its page'} again"
    return GoldenCheck(encoder, DIFFERS, f"differs: {measured}", hint, difference, cosine, **told)


def _known_folder(known: tuple[str, PairFacts] | None) -> Path | None:
    data = os.environ.get(DATA_VARIABLE)
    return Path(data) / known[0] if data and known is not None else None


def _no_pair(name: str, known: tuple[str, PairFacts] | None) -> tuple[str, str]:
    own = "a folder with tile.png and expected.npy that you trust, with --pair FOLDER"
    if known is None:
        return f"no golden pair is known of {name}", f"Give {own}"
    folder, facts = known
    return (
        f"its pair is not here ({facts.source}, {facts.licence})",
        f"Put the tile and its numbers as {TILE} and {EXPECTED} into {folder} in the folder that {DATA_VARIABLE} "
        f"names, or give {own}",
    )


def _missing(encoder: str, words: str, hint: str) -> GoldenCheck:
    return GoldenCheck(encoder, MISSING, f"not run, {words}", hint)


def _facts(folder: Path, known: tuple[str, PairFacts] | None) -> PairFacts:
    if (folder / FACTS).is_file():
        given = read_json(folder / FACTS)
        names = {one.name for one in dataclasses.fields(PairFacts)}
        try:
            facts = PairFacts(**{name: value for name, value in given.items() if name in names})
            numbers = [one for one in (facts.resize_px, facts.crop_px) if one is not None]
            if not (all(isinstance(one, int) and 0 < one <= 4096 for one in numbers) and 0 < facts.tolerance < 1e6):
                raise ValueError("a size or the tolerance is none")
        except (TypeError, ValueError) as error:
            raise InputError(f"does not say how a pair was made ({error})", where=folder / FACTS) from error
        return facts
    return known[1] if known is not None and folder.name == known[0] else PairFacts(tolerance=1e-3)


def _tile(path: Path, facts: PairFacts) -> NDArray[np.uint8]:
    from PIL import Image

    if not path.is_file():
        raise MissingFileError("the tile of the pair is missing", where=path, hint=f"Put it there as {TILE}")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError("it is larger than any tile")
            image = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"cannot be read as a tile ({error})", where=path, hint="Give a PNG") from error
    if facts.resize_px is not None:
        factor = facts.resize_px / min(image.size)
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if facts.crop_px is not None:
        left, top = (round((side - facts.crop_px) / 2) for side in image.size)
        image = image.crop((left, top, left + facts.crop_px, top + facts.crop_px))
    return np.array(image, dtype=np.uint8)


def _numbers(path: Path) -> NDArray[np.float64]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than any embedding")
        values = np.load(path, allow_pickle=False)
        if not (isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating)):
            raise ValueError("it holds no numbers")
    except FileNotFoundError as error:
        raise MissingFileError("the numbers of the pair are missing", where=path) from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot be read as numbers ({error})", where=path, hint="Give what numpy.save wrote"
        ) from error
    return np.asarray(values, dtype=np.float64).ravel()
