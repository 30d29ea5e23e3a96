"""A head with the encoders that its card names."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..embedding import with_field_of_view
from ..encoders import card, load_encoder
from ..encoders.runtimes import in_place_of, optimise
from ..errors import EncoderError, HeadError, MissingExtraError
from ..heads import Head
from ..heads.cards.precision import TOLERATED

if TYPE_CHECKING:
    from ..encoders import Encoder

_LOG = logging.getLogger(__name__)


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
        model = _as_trained(model, entry.get("precision", "float32"), head.card.get("precision") or {}, threads)
        spec = model.tile_spec()
        own = (spec.size_px, spec.mpp) == (entry["size_px"], entry["mpp"])
        loaded.append(model if own else with_field_of_view(model, entry["size_px"] * entry["mpp"]))
    return loaded


def _as_trained(model: Encoder, precision: str, moves: Mapping[str, Any], threads: int | None) -> Encoder:
    """An encoder in the precision of the head's features; in float32 where this machine lacks it and little moves."""
    try:
        return optimise(model, "auto", threads, precision=precision)
    except (EncoderError, MissingExtraError) as error:
        sd, tolerated = moves.get("sd"), TOLERATED.get(precision, 0.0)
        if precision not in TOLERATED or not isinstance(sd, int | float) or not sd <= tolerated:
            raise
        _LOG.warning(
            "%s; %s computes in float32 instead of %s, which moves this head's predictions by %.2g %% of their SD",
            error.what,
            model.card.name,
            precision,
            100 * sd,
        )
        return in_place_of(optimise(model, "auto", threads, precision="float32"), precision)


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
