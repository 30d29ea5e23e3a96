"""A composition map that names nobody."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from ..common.anonymity.nameless import nameless_keys, nameless_manifest
from ..common.anonymity.pseudonyms import Pseudonyms
from ..common.storage.facts import stored_facts
from .composition import PLACE_COLUMNS, STATE_COLUMNS
from .map import BOUNDS, CompositionMap
from .reading import LEVELS
from .scverse import add_scverse, thumbnail_of

#: What a map consists of; whatever else is in the file may hold anything, and is left out.
_OBS = (*PLACE_COLUMNS, *STATE_COLUMNS, "in_focus", "answer_lower", "answer_upper")
_VAR = ("good_for", *LEVELS)
_LAYERS = (*BOUNDS, "super_resolved", "density per mm2")


def private_map(one: CompositionMap, names: Pseudonyms) -> CompositionMap:
    """A copy of a map with pseudonyms of its slide, patient and regions, and nothing that is not part of a map.

    Of a map that was predicted with pseudonyms these stay, whatever key they are of.

    Parameters
    ----------
    one
        The map.
    names
        The pseudonyms.
    """
    composition, known = one.adata, one.anonymised
    manifest = nameless_manifest({"name": one.name, **one.manifest}, None if known else names)
    obs = composition.obs[[column for column in composition.obs if column in _OBS]].copy()
    if "region" in obs and not known:
        obs["region"] = _renamed(obs["region"], names)
    keys = nameless_keys(list(composition.obs_names.astype(str)))
    obs.index = pd.Index(keys, name=composition.obs.index.name)
    told = [column for column in _VAR if column in composition.var]
    table = AnnData(composition.X, obs=obs, var=composition.var[told].set_axis(composition.var_names.astype(str)))
    for layer in _LAYERS:
        if layer in composition.layers:
            table.layers[layer] = composition.layers[layer]
    table.obsm["spatial"] = np.asarray(composition.obsm["spatial"])
    table.uns["manifest"] = stored_facts(manifest)
    if "spatial" in composition.uns:
        add_scverse(table, thumbnail_of(one.preview()))
    return CompositionMap(table, one.file)


def _renamed(regions: pd.Series, names: Pseudonyms) -> pd.Categorical:
    told = regions.astype(object).where(regions.notna(), None)
    return pd.Categorical([None if one in (None, "") else names.region(one) for one in told])
