"""The features of one section as AnnData: built, written, read back and verified."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from ..common.formats import refuse_newer
from ..common.storage.facts import facts_in, read_facts, stored_facts
from ..common.storage.h5ad import read_h5ad, write_h5ad
from ..common.strangers.hdf5 import check_hdf5
from ..common.words import reason
from ..errors import FeatureError, InputError, MissingFeatureError
from ..progress import told
from ..provenance import atomic_path, digest_bytes, digest_json, read_json
from .by_section import Features, features_card
from .identity import encoder_identity, require_same_encoder
from .other_scales import scale_sample
from .precision import precision_shifts
from .restaining import stain_shifts

#: Of the file's layout; raised when an older version would misread it.
LAYOUT = 1
_COLUMNS = ["x_px", "y_px", "tissue"]
_EMBED_AGAIN = "Remove it and run the same embed command again"
_Folder = str | os.PathLike[str]
#: Features of a cohort: by section, what `embed` gives for several encoders, their folders, or a list of such.
FeatureSource = (
    Mapping[str, ad.AnnData]
    | Mapping[str, Mapping[str, ad.AnnData]]
    | _Folder
    | Sequence[Mapping[str, ad.AnnData] | _Folder]
)


def build_features(X: np.ndarray, tiles: pd.DataFrame, manifest: Mapping[str, Any]) -> ad.AnnData:
    """Features of one section.

    Parameters
    ----------
    X
        Embeddings (n, dim), float16 or float32.
    tiles
        Tile table in the same order: index = spot key; ``x_px``, ``y_px`` = centre in level-0 px; ``tissue`` = share.
    manifest
        What they were made from; gains ``content_digest``, of the embeddings, the spot keys and the tile table.
    """
    obs = tiles[_COLUMNS].astype(float)
    obs.index = obs.index.astype(str).rename("spot")
    features = ad.AnnData(X=X, obs=obs)
    features.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy()
    facts = {"format": LAYOUT, **manifest, "content_digest": _digest(features)}
    features.uns["manifest"] = stored_facts(facts)
    return features


def write_features(path: Path, features: ad.AnnData) -> None:
    """Write the features of one section, whole or not at all.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    with atomic_path(path) as temporary:
        write_h5ad(temporary, features)


def feature_manifest(features: ad.AnnData) -> dict[str, Any]:
    """What features were made from.

    Returns
    -------
    dict
        ``section``, ``slide`` (file name, fingerprint, size, mpp and its source, upsampling), ``tile``, ``encoder``
        (name, digest, dim, views, licence, revision), ``dtype``, ``identity``, ``alignment``, ``preview``,
        ``versions``.

    Raises
    ------
    FeatureError
        The table carries no manifest of features, or that of a newer histomix.
    """
    hint = "Make features with: histomix embed"
    if "manifest" not in features.uns:
        raise FeatureError("the table has no manifest, so it does not hold features of histomix", hint=hint)
    try:
        manifest: dict[str, Any] = read_facts(features.uns["manifest"])
        encoder_identity(manifest)
        _ = manifest["section"], manifest["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise FeatureError(
            f"the manifest of the features is incomplete or damaged ({reason(error)})", hint=hint
        ) from error
    refuse_newer(manifest, LAYOUT, "the features were", None, FeatureError)
    return manifest


def read_feature_file(path: str | os.PathLike[str]) -> ad.AnnData:
    """Read and verify the features of one section.

    Raises
    ------
    FeatureError
        The file is absent, damaged, or not what its manifest says.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFeatureError("there is no such file", where=path, hint="Make features with: histomix embed")
    features = read_h5ad(path, FeatureError, "the file is damaged or not an h5ad file", _EMBED_AGAIN)
    try:
        manifest = feature_manifest(features)
    except FeatureError as error:
        raise FeatureError(error.what, where=path, hint=error.hint) from error
    problem = _problem(features, manifest, path.stem)
    if problem:
        raise FeatureError(problem, where=path, hint=_EMBED_AGAIN)
    return features


def read_manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Manifests of the features in a folder, section -> manifest, without reading embeddings.

    A file without a readable manifest is left out: whoever reads its content will say what is wrong with it.

    Raises
    ------
    FeatureError
        A file was made by a newer histomix.
    """
    manifests = {}
    for path in sorted(folder.glob("*.h5ad")):
        try:
            check_hdf5(path, FeatureError)
            with h5py.File(path) as file:
                manifest = facts_in(file["uns/manifest"])
            encoder_identity(manifest)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
            continue
        refuse_newer(manifest, LAYOUT, "the features were", path, FeatureError)
        manifests[path.stem] = manifest
    return manifests


#: What the ``manifest.json`` of every folder of features has, and no other.
OVERVIEW_OWN = "encoder"


def read_overview(folder: Path) -> dict[str, Any]:
    """The folder's ``manifest.json``; empty when there is none that can be read, since every file has its own."""
    try:
        return read_json(folder / "manifest.json")
    except InputError:
        return {}


def write_overview(folder: Path, overview: Mapping[str, Any]) -> None:
    """Write the folder's ``manifest.json`` (StorageError when that fails)."""
    with atomic_path(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps(overview, indent=1, allow_nan=False) + "\n", encoding="utf-8", newline="\n")


def read_features(folder: str | os.PathLike[str]) -> dict[str, ad.AnnData]:
    """Read a folder that `embed` wrote.

    Returns
    -------
    dict
        Section -> features (AnnData: X (n, dim); obs ``x_px``, ``y_px``, ``tissue``; names are spot keys).

    Raises
    ------
    FeatureError
        The folder holds no features; a file is damaged or contradicts its manifest; two files are of different encoders
        or tiles; or a file is outdated, because embedding it again failed. The message names the file.

    Examples
    --------
    >>> hm.read_features("features")["P1S1"].n_vars == hm.cards()[0].dim
    True
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.h5ad"))
    if not paths:
        what = "the folder holds no features (*.h5ad)" if folder.is_dir() else "there is no such folder"
        if "unit" in read_overview(folder):
            what = "the folder holds labels of spots, and no features"
        raise FeatureError(what, where=folder, hint="Make features with: histomix embed SHEET --out FEATURES")
    features = {path.stem: read_feature_file(path) for path in told("look through features (sections)", paths)}
    manifests = {path: feature_manifest(features[path.stem]) for path in paths}
    expected = encoder_identity(manifests[paths[0]])
    wanted = read_overview(folder).get("wanted", {})
    for path, manifest in manifests.items():
        require_same_encoder(expected, encoder_identity(manifest), path, expected_by=f"in {paths[0].name}")
        if wanted.get(path.stem, manifest["identity"]) != manifest["identity"]:
            what = "the features are outdated: the slide, the spots or the settings changed, and embedding again failed"
            raise FeatureError(what, where=path, hint="Run the embed command again, or remove the file")
    return Features(features)


class SectionFeatures(Mapping[str, ad.AnnData]):
    """Section -> features in a folder, read and verified each time they are asked for: memory holds none of them.

    Parameters
    ----------
    folder
        Where they are stored.
    shapes
        Tiles and features of each section, in the order of the cohort.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, int]]) -> None:
        self.folder, self.shapes = folder, dict(shapes)

    def __getitem__(self, section: str) -> ad.AnnData:
        if section not in self.shapes:
            raise KeyError(section)
        return read_feature_file(self.folder / f"{section}.h5ad")

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _repr_html_(self) -> str:
        return features_card(self, self.shapes)


def feature_blocks(source: FeatureSource) -> list[Mapping[str, ad.AnnData]]:
    """Features by section, one mapping for each encoder, in memory. Raises as `read_features` does of a folder."""
    if isinstance(source, str | os.PathLike | SectionFeatures):
        return [_held(source)]
    if isinstance(source, Mapping):
        several = [_held(block) for block in source.values() if isinstance(block, Mapping)]
        return several or [source]
    return [_held(block) for block in source]


def _held(block: Mapping[str, ad.AnnData] | _Folder) -> Mapping[str, ad.AnnData]:
    if isinstance(block, SectionFeatures):  # several things are asked of each section
        return dict(block)
    return block if isinstance(block, Mapping) else read_features(block)


def feature_folders(source: FeatureSource) -> list[_Folder]:
    """Those of the features that were given as folders."""
    if isinstance(source, str | os.PathLike):
        return [source]
    return [] if isinstance(source, Mapping) else [block for block in source if not isinstance(block, Mapping)]


def _problem(features: ad.AnnData, manifest: Mapping[str, Any], section: str) -> str | None:
    """Where the content contradicts its manifest."""
    X, dim = features.X, manifest["encoder"]["dim"]
    if manifest["section"] != section:
        return f"the file holds features of section {manifest['section']}, not of {section}"
    if not isinstance(X, np.ndarray) or X.shape[1] != dim:
        return f"the embeddings have {features.n_vars} columns, and the manifest says {dim}"
    absent = [name for name in _COLUMNS if name not in features.obs]
    absent += [] if "spatial" in features.obsm else ["spatial"]
    if absent:
        return f"the tile table lacks {', '.join(absent)}"
    if any(features.obs[name].dtype.kind not in "iuf" for name in _COLUMNS):
        return "the places of the tiles are no numbers"
    if manifest.get("content_digest") != _digest(features):
        return "the embeddings, spot keys or places are not those that were written (their digest differs)"
    if not features.obs_names.is_unique:
        return "spot keys repeat"
    try:
        scale_sample(features, manifest)
        stain_shifts(features, manifest)
        precision_shifts(features, manifest)
    except FeatureError as error:
        return error.what
    except (KeyError, TypeError) as error:
        return f"what it says of other scales or stains is unknown ({reason(error)})"
    # NaN and infinity show in the extremes of a row. A row that is all NaN is a tile that could not be read.
    odd = ~(np.isfinite(X.min(axis=1, initial=0)) & np.isfinite(X.max(axis=1, initial=0)))
    return None if np.isnan(X[odd]).all() else "embeddings are not finite"


def _digest(features: ad.AnnData) -> str:
    """Of everything that whoever trains on features believes: embeddings, keys, places and shares of tissue."""
    tables = [np.asarray(features.obs[_COLUMNS], "<f8"), np.asarray(features.obsm["spatial"], "<f8")]
    content: Any = np.ascontiguousarray(features.X).reshape(-1).view(np.uint8).data  # not tobytes, which copies
    parts = [digest_bytes(content), *(digest_bytes(np.ascontiguousarray(table).tobytes()) for table in tables)]
    return digest_json([*parts, [str(key) for key in features.obs_names]])
