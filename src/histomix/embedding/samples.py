"""What is looked at on a sample of a section's tiles, and kept beside its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError
from ..provenance import digest_bytes

if TYPE_CHECKING:
    from anndata import AnnData

#: A tile of a sample has at least this share of tissue.
_TISSUE = 0.5


def sample_rows(tissue: np.ndarray, most: int) -> np.ndarray:
    """Rows of a sample: ``most`` at most, evenly among those on tissue, by the share of tissue of all, ``(n,)``."""
    rows = np.flatnonzero(np.asarray(tissue) >= _TISSUE)
    if len(rows) <= most:
        return rows
    chosen: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    return chosen


def sample_facts(sample: np.ndarray | None, **more: Any) -> dict[str, Any] | None:
    """What a manifest says of a sample: its rows, what is told ``more``, and the digest of its numbers."""
    if sample is None:
        return None
    return {**more, "rows": len(sample), "digest": digest_bytes(np.ascontiguousarray(sample).tobytes())}


def kept_sample(
    features: AnnData, manifest: Mapping[str, Any], key: str, what: str
) -> tuple[np.ndarray, dict[str, Any]] | None:
    """A sample and what the manifest says of it; None where none was kept.

    Parameters
    ----------
    features, manifest
        Of one section.
    key
        Its name in ``uns`` and in the manifest.
    what
        What it is called in an error.

    Raises
    ------
    FeatureError
        It is not the one that was written.
    """
    facts = manifest.get(key)
    if facts is None:
        return None
    sample = features.uns.get(key)
    if not isinstance(sample, np.ndarray) or sample.dtype.kind != "f" or sample.shape[-1:] != (features.n_vars,):
        raise FeatureError(f"{what} are not what the manifest says")
    if not isinstance(facts, dict) or sample_facts(sample) != {name: facts.get(name) for name in ("rows", "digest")}:
        raise FeatureError(f"{what} are not those that were written (their digest differs)")
    return sample, facts
