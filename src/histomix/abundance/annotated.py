"""Annotated matrices (h5ad) as references and as labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LabelError, MissingLabelError

if TYPE_CHECKING:
    from anndata import AnnData


def read_h5ad(path: Path) -> AnnData:
    """Read an h5ad file.

    Raises
    ------
    LabelError
        The file is absent, damaged or of another kind.
    """
    import anndata

    if not path.exists():
        raise MissingLabelError("there is no such file", where=path, mend="Check the path")
    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise LabelError(
            f"cannot be read as h5ad ({error})", where=path, mend="Check that the file is whole"
        ) from error
