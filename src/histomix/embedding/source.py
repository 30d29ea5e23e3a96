"""An encoder whose identity is known before, and often without, its weights being loaded."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..common.naming import safe_file_name
from ..errors import EncoderError
from ..provenance import digest_json, fingerprint
from ..slides import TileSpec
from .field import with_field_of_view
from .identity import encoder_facts

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..encoders.runtimes import Runtime

#: Sources whose weights only their loaders know.
_UNKNOWN_UNTIL_LOADED = ("python", "file", "zoo")


class EncoderSource:
    """An encoder, loaded only when a tile must be embedded.

    Finding the digest of weights may mean reading gigabytes. An encoder asked for by name therefore has the identity
    that the same request had in the last run on this folder: same card, same local weights, same histomix version.

    Parameters
    ----------
    encoder
        An encoder, or the name of one.
    weights, threads, trust_code
        Passed on to `histomix.encoders.load_encoder` when ``encoder`` is a name.
    fov_um, runtime
        See `histomix.embedding.with_field_of_view` and `histomix.encoders.runtimes.optimise`.

    Raises
    ------
    EncoderError
        The name is unknown, its local weights are absent, or weights were given with an encoder that is loaded.
    """

    def __init__(
        self,
        encoder: str | Encoder,
        weights: str | os.PathLike[str] | None,
        threads: int | None,
        *,
        fov_um: float | None = None,
        runtime: Runtime = "auto",
        trust_code: bool = False,
    ) -> None:
        self._name = encoder if isinstance(encoder, str) else None
        self._encoder = None if isinstance(encoder, str) else encoder
        self._weights, self._threads = weights, threads
        self._fov_um, self._runtime, self._trust_code = fov_um, runtime, trust_code
        self._ready: Encoder | None = None
        self.request: dict[str, Any] | None = None
        self._known: Mapping[str, Any] = {}
        if self._name is not None:
            self.request = _request(self._name, weights)
            if self.request is not None:
                self.request |= {"fov_um": fov_um, "runtime": runtime}
        elif weights is not None:
            mend = "Give the encoder's name with its weights, or an encoder alone"
            raise EncoderError("weights were given with an encoder that is already loaded", mend=mend)

    def recognise(self, recorded: Mapping[str, Any]) -> None:
        """Believe what the last run on a folder wrote to its ``manifest.json``, if it was of the same request."""
        if self.request is not None and recorded.get("request") == self.request:
            self._known = {"encoder": recorded["encoder"], "tile": recorded["tile"]}

    @property
    def name(self) -> str:
        """The encoder's name, fit for a folder."""
        from ..encoders import card

        name = card(str(self._name)).name if self._encoder is None else self._encoder.card.name
        return safe_file_name(re.sub(r"[^\w.+-]+", "_", name))

    def facts(self) -> dict[str, Any]:
        """Facts of the encoder, see `histomix.embedding.identity.encoder_facts`."""
        return dict(self._known["encoder"]) if self._known else encoder_facts(self.load())

    def tile_spec(self) -> TileSpec:
        """The tile that the encoder sees."""
        return TileSpec.from_dict(self._known["tile"]) if self._known else self.load().tile_spec()

    def load(self) -> Encoder:
        """The encoder itself.

        Raises
        ------
        EncoderError
            It cannot be loaded.
        """
        if self._ready is None:
            from ..encoders import load_encoder
            from ..encoders.runtimes import optimise

            found = self._encoder
            if found is None:
                found = load_encoder(self._name or "builtin", self._weights, self._threads, trust_code=self._trust_code)
            fast = optimise(found, self._runtime, threads=self._threads)
            self._ready = with_field_of_view(fast, self._fov_um)
            if self._known and encoder_facts(self._ready) != self._known["encoder"]:
                what = f"the encoder {self._name} is not the one that the folder's manifest.json recorded for it"
                raise EncoderError(what, mend="Choose another --out, or remove the old features and manifest.json")
        return self._ready


def _request(name: str, weights: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """What decides which encoder a name loads, found without loading it; None when its weights are not here yet."""
    from ..encoders import card
    from ..encoders.builtin import GRAPH
    from ..encoders.weights import cached_weights, find_weights

    found = card(name)
    if found.source in _UNKNOWN_UNTIL_LOADED:
        return None
    if weights is not None:
        path: Path | None = find_weights(found, weights)
    else:
        path = GRAPH if found.source == "builtin" else cached_weights(found)
    if path is None or not path.is_file():
        return None
    return {"card": digest_json(dataclasses.asdict(found)), "weights": fingerprint(path), "histomix": __version__}
