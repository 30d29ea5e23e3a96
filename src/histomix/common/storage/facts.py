"""What a table says of itself in ``uns``: plain nested data where AnnData can hold it, JSON where it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from ...provenance import parse_json

#: The end of the name of a fact that stands there as JSON: nothing (None), lists of unlike things, names with a slash.
JSON = ".json"
_SCALARS = (str, bool, int, float)
_LARGEST = 2**63
#: No file of ours is nested deeper.
_DEEPEST = 50


def stored_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they are put into ``uns``; `read_facts` gives them back, equal and of the same types.

    Parameters
    ----------
    facts
        Plain values of JSON: mappings with names, lists, text, numbers, booleans and None.

    Raises
    ------
    ValueError
        A value is none of JSON, such as an infinite number.
    """
    stored: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping) and all(_plain_name(one) for one in value):
            stored[name] = stored_facts(value)
        elif _plain(value):
            json.dumps(value, allow_nan=False)  # raises for what is no JSON
            stored[name] = list(value) if isinstance(value, list | tuple) else value
        else:
            stored[f"{name}{JSON}"] = json.dumps(value, allow_nan=False)
    return stored


def read_facts(stored: Any) -> Any:
    """Facts of ``uns`` as they were before `stored_facts`, whether they come from memory or from a file.

    Parameters
    ----------
    stored
        What stands in ``uns``. The text of a JSON is read too.

    Raises
    ------
    ValueError
        It is neither, or a part of it is no JSON, or stands twice, or is something that no fact is.
    """
    return parse_json(stored) if isinstance(stored, str) else _read(stored, 0)


def facts_in(stored: h5py.Group | h5py.Dataset) -> Any:
    """As `read_facts`, of an open HDF5 file, without what else is in it (ValueError too)."""
    return read_facts(_of_hdf5(stored, 0))


def _of_hdf5(part: h5py.Group | h5py.Dataset, depth: int) -> Any:
    if isinstance(part, h5py.Group):
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        return {name: _of_hdf5(one, depth + 1) for name, one in part.items()}
    value = part.asstr()[()] if h5py.check_string_dtype(part.dtype) else part[()]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _read(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping):
        facts: dict[str, Any] = {}
        for key, part in value.items():
            name = str(key).removesuffix(JSON)
            if name in facts:
                raise ValueError(f"'{name}' stands there twice")
            facts[name] = parse_json(_text(part, name)) if name != key else _read(part, depth + 1)
        return facts
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(one, _SCALARS) for one in value):
        return list(value)
    if value is None or isinstance(value, _SCALARS):
        return value
    raise ValueError(f"it has a {type(value).__name__}, which is no fact")


def _text(part: Any, name: str) -> str:
    if not isinstance(part, str):
        raise ValueError(f"'{name}' is no JSON")
    return str(part)


def _plain_name(name: Any) -> bool:
    """Whether HDF5 and Zarr take a name as it is."""
    odd = not isinstance(name, str) or name in ("", ".", "..") or not _encodes(name)
    return not (odd or "/" in name or name.endswith(JSON))


def _plain(value: Any) -> bool:
    """Whether HDF5 and Zarr hold a value so that it comes back as it was."""
    if isinstance(value, list | tuple):
        scalars = all(isinstance(one, _SCALARS) for one in value)
        return bool(value) and scalars and len({type(one) for one in value}) == 1 and all(map(_plain, value))
    if isinstance(value, str):
        return _encodes(value)
    if isinstance(value, bool | float):
        return True
    return isinstance(value, int) and -_LARGEST <= value < _LARGEST


def _encodes(value: str) -> bool:
    """Whether text is UTF-8 without a zero, which HDF5 would end it at."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
