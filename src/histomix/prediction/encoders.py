"""A head with the encoders that its card names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..embedding import with_field_of_view
from ..encoders import card, load_encoder
from ..encoders.runtimes import optimise
from ..errors import EncoderError, HeadError
from ..heads import Head

if TYPE_CHECKING:
    from ..encoders import Encoder


class Model:
    """A head and its encoders, each loaded when it is first asked for, and once; threads may share it.

    Parameters
    ----------
    head
        The head, or a function that loads it.
    encoders
        Its encoders in the order of its card, or a function that loads them for the head.
    """

    def __init__(
        self, head: Head | Callable[[], Head], encoders: Sequence[Encoder] | Callable[[Head], Sequence[Encoder]]
    ) -> None:
        self._head, self._encoders = head, encoders
        self._lock = threading.RLock()

    @property
    def head(self) -> Head:
        """The head. Raises what its loading raises, at every call until it is loaded."""
        if not isinstance(self._head, Head):
            with self._lock:
                if not isinstance(self._head, Head):
                    self._head = self._head()
        return self._head

    def encoders(self) -> Sequence[Encoder]:
        """The encoders. Raises as `load_head_encoders`, at every call until they are loaded."""
        with self._lock:
            if callable(self._encoders):
                self._encoders = self._encoders(self.head)
            return self._encoders


def load_head_encoders(
    head: Head,
    weights: Sequence[str | os.PathLike[str]] | None = None,
    threads: int | None = None,
    trust_code: bool = False,
) -> list[Encoder]:
    """Load the encoders that a head's card names, in its order, each on the tile that the head was trained on.

    Parameters
    ----------
    head
        A trained head.
    weights
        Local weights, one for each encoder that does not bring its own, in the order of the card; for an encoder that a
        card file describes, that file.
    threads
        CPU threads of each encoder.
    trust_code
        Let an encoder run code of its own, see `histomix.encoders.load_encoder`.

    Raises
    ------
    HeadError
        The number of ``weights`` is not the number of encoders that take any, or the card file of one is missing.
    EncoderError
        An encoder cannot be loaded.
    """
    entries = head.card["encoders"]
    names = [encoder["name"] for encoder in entries]
    taking = [name for name in names if _source(name) not in ("builtin", "python")]
    if weights and len(weights) != len(taking):
        raise HeadError(
            f"{len(weights)} weights were given, and {len(taking)} of the head's encoders take any "
            f"({', '.join(taking) or 'the built-in one brings its own'})",
            hint="Give --weights once for each of these, in this order",
        )
    files = dict(zip(taking, weights, strict=True)) if weights else {}
    loaded = []
    for entry in entries:
        model = _load(entry["name"], files.get(entry["name"]), threads, trust_code)
        model = optimise(model, "int8" if entry.get("precision") == "int8" else "auto", threads)
        spec = model.tile_spec()
        own = (spec.size_px, spec.mpp) == (entry["size_px"], entry["mpp"])
        loaded.append(model if own else with_field_of_view(model, entry["size_px"] * entry["mpp"]))
    return loaded


def _source(name: str) -> str:
    """Where an encoder comes from; one that is known by no name is described by a card file."""
    try:
        return card(name).source
    except EncoderError:
        return "file"


def _load(name: str, file: str | os.PathLike[str] | None, threads: int | None, trust_code: bool) -> Encoder:
    if _source(name) != "file":
        return load_encoder(name, weights=file, threads=threads, trust_code=trust_code)
    if file is None:
        raise HeadError(
            f"the head's encoder {name} is none that histomix knows by name",
            hint="Give its card file (YAML or JSON) with --weights",
        )
    return load_encoder(os.fspath(file), threads=threads, trust_code=trust_code)
