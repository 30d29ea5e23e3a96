"""Files of HDF5 that strangers made: refused where their data lie in other files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import InputError
from ...provenance import refuse_pipe

#: Groups in each other that a file may have; those of AnnData have a handful.
_DEEPEST = 100
_HINT = "Do not use it unless you know who made it; ask for one file that holds all of its data"


def check_hdf5(path: str | os.PathLike[str], kind: type[InputError] = InputError) -> None:
    """Refuse a file of HDF5 some of whose data lie in other files, which it can name anywhere on this computer.

    HDF5 follows an external link, reads external storage (any file, as raw bytes) and gathers a virtual dataset as if
    all of it were in the file: a table could bring what else its reader keeps into a result. What is no HDF5 at all is
    left to whoever reads it.

    Parameters
    ----------
    path
        The file.
    kind
        The error to raise.

    Raises
    ------
    InputError
        Or ``kind``: the file has such a part, or one that cannot be looked at; or it is a pipe.
    """
    import h5py

    refuse_pipe(path, kind)
    try:
        store = h5py.File(path, "r")
    except OSError:
        return
    with store:
        try:
            item = next(_elsewhere(store), None)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, SystemError) as error:
            raise kind(f"is damaged, or no plain HDF5 ({error})", where=path, hint=_HINT) from error
    if item is not None:
        raise kind(f"reads {item} from another file", where=path, hint=_HINT)


def absent_parts(path: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Which of the groups and datasets called ``names`` a file of HDF5 does not have."""
    import h5py

    with h5py.File(path, "r") as store:
        return [name for name in names if name not in store]


def _elsewhere(store: Any) -> Iterator[str]:
    """Parts of a file of HDF5 that lie in other files."""
    import h5py

    for name, group, link in _links(store):
        if isinstance(link, h5py.ExternalLink):
            yield name
        if not isinstance(link, h5py.HardLink):
            continue
        part = group[name.rpartition("/")[2]]
        # Files of anndata before 0.7 point to categories, which no link need lead to.
        categories = part.attrs.get("categories")
        if isinstance(categories, h5py.Reference) and _is_elsewhere(store[categories]):
            yield f"{name} (categories)"
        if _is_elsewhere(part):
            yield name


def _links(store: Any) -> Iterator[tuple[str, Any, Any]]:
    """Path, group and link of each link of a file, without following any but hard ones, and these once.

    From group to group: the walk of h5py looks for each link from the root, which takes minutes for some thousand
    groups in each other.
    """
    import h5py

    seen, waiting = {store["/"].id}, [("", store["/"], 1)]
    while waiting:
        path, group, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("its groups are nested too deeply")
        for name in group:
            link = group.get(name, getlink=True)
            yield f"{path}{name}", group, link
            if not isinstance(link, h5py.HardLink):
                continue
            part = group[name]
            if isinstance(part, h5py.Group) and part.id not in seen:
                seen.add(part.id)
                waiting.append((f"{path}{name}/", part, depth + 1))


def _is_elsewhere(part: Any) -> bool:
    import h5py

    if not isinstance(part, h5py.Dataset):
        return False
    virtual = part.virtual_sources() if part.is_virtual else []
    return bool(part.external) or any(source.file_name != "." for source in virtual)
