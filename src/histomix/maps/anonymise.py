"""A composition map that names nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from ..common.nameless import nameless_keys, nameless_manifest
from ..common.pseudonyms import Pseudonyms
from .composition import BOUNDS, PLACE_COLUMNS, STATE_COLUMNS

#: What a map consists of; whatever else is in the file may hold anything, and is left out.
_OBS = (*PLACE_COLUMNS, *STATE_COLUMNS, "fragment", "answer")
_LAYERS = (*BOUNDS, "super_resolved", "density per mm2")


def private_map(composition: AnnData, names: Pseudonyms, name: str = "") -> AnnData:
    """A copy of a map with pseudonyms of its slide, patient and regions, and nothing that is not part of a map.

    Of a map that was predicted with pseudonyms these stay, whatever key they are of.

    Parameters
    ----------
    composition
        A map from `histomix.predict`.
    names
        The pseudonyms.
    name
        What the map is called where its manifest does not say it.
    """
    manifest = json.loads(composition.uns["manifest"])
    known = is_anonymised(manifest)
    manifest = nameless_manifest({"name": name, **manifest}, None if known else names)
    obs = composition.obs[[column for column in composition.obs if column in _OBS]].copy()
    if "region" in obs and not known:
        obs["region"] = _renamed(obs["region"], names)
    keys = nameless_keys(list(composition.obs_names.astype(str)))
    obs.index = pd.Index(keys, name=composition.obs.index.name)
    found = AnnData(composition.X, obs=obs, var=pd.DataFrame(index=composition.var_names.astype(str)))
    for layer in _LAYERS:
        if layer in composition.layers:
            found.layers[layer] = composition.layers[layer]
    found.obsm["spatial"] = np.asarray(composition.obsm["spatial"])
    found.uns["manifest"] = json.dumps(manifest)
    return found


def is_anonymised(manifest: Mapping[str, Any]) -> bool:
    """Whether the names in a manifest are pseudonyms."""
    return bool(manifest.get("anonymised"))


def map_name(manifest: Mapping[str, Any], folder: Path) -> str:
    """What a map is called: as its prediction was told, else as its folder."""
    return str(manifest.get("name") or folder.resolve().name)


def _renamed(regions: pd.Series, names: Pseudonyms) -> pd.Categorical:
    told = regions.astype(object).where(regions.notna(), None)
    return pd.Categorical([None if one in (None, "") else names.region(one) for one in told])
