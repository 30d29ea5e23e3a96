"""A trained head with its card: applied to features, saved and loaded without running code from the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.words import reason
from ..embedding import encoder_identity, feature_manifest, require_same_encoder
from ..errors import FeatureError, HeadError, InputError, MissingHeadError
from ..notebook import card_html
from ..provenance import atomic_path, digest_bytes, digest_json, read_json, require_folder, write_json
from ..spots.describe import describe_result
from .answers.rule import AnswerRule, answer_rule
from .apply import HeadOutput, apply_head, readable_rows
from .base import CompositionRegressor
from .cards.text import card_facts, card_markdown
from .dataset import join_blocks, positions_um
from .files import CARD, FILES, HINT, INTERVALS, NOVELTY, SCALE, STAIN, WEIGHTS, check_card, read_arrays
from .neighbourhood import Positions
from .registry import make_estimator
from .saved import check_told
from .stain import StainDamping
from .trust.intervals import Intervals
from .trust.novelty import NoveltyModel
from .trust.scale import ScaleModel

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Head:
    """A trained head.

    Parameters
    ----------
    card
        What the head was trained on and for; see `histomix.heads.train`.
    estimator
        The fitted estimator.
    novelty_model
        Tells how unlike the training tiles a tile is.
    intervals
        Intervals around the predictions; None where the head is not calibrated.
    stain_damping
        What is done to features before the estimator sees them; None where the features did not tell what stain does.
    scale_model
        Tells how much larger a slide looks; None where the features that the head was trained on could not tell.
    """

    card: dict[str, Any]
    estimator: CompositionRegressor
    novelty_model: NoveltyModel
    intervals: Intervals | None = None
    stain_damping: StainDamping | None = None
    scale_model: ScaleModel | None = None

    @staticmethod
    def of(source: Head | str | os.PathLike[str]) -> Head:
        """The head itself, or that of a folder. Raises as `load_head`."""
        return source if isinstance(source, Head) else load_head(source)

    @property
    def context_um(self) -> float:
        """How far around a tile the head looks, um from centre to centre; 0 when it sees the tile alone."""
        return self.estimator.context_um

    @property
    def answer_rule(self) -> AnswerRule | None:
        """Gives tiles their answers; None where the card says nothing of them, as that of an older head."""
        return answer_rule(self.card)

    def apply(
        self,
        X: Any,
        xy_um: np.ndarray,
        section: Any = "slide",
        tiles: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> HeadOutput:
        """Apply the head to tiles of one slide.

        Parameters
        ----------
        X
            Embeddings, ``(n, n_features)``; several encoders stand side by side in the order of the card. Any array
            that gives rows by their numbers will do: it is read in chunks, so that a memory-mapped file is not loaded
            whole. A row with NaN could not be read: it is NaN in the result, and nobody's neighbour.
        xy_um
            Tile centres, ``(n, 2)``, um from the corner of their slide.
        section
            Name of the slide, or one name a row: rows of two slides are never neighbours.
        tiles
            Gives the pixels of rows by their number, for a head that was trained end to end.

        Returns
        -------
        HeadOutput

        Raises
        ------
        HeadError
            The features have another number of columns, or there is not one place a row.
        """
        positions = None
        if self.estimator.needs_positions or self.context_um:
            names = np.broadcast_to(np.asarray(section), (len(X),))
            positions = Positions(names, np.asarray(xy_um, dtype=np.float64), tiles)
        return self._apply(X, positions)

    def output(self, features: AnnData | Sequence[AnnData]) -> HeadOutput:
        """Apply the head to features of one slide: what `apply` gives, for the tiles of `predict_features`.

        Takes what `predict_features` takes and raises the same.
        """
        _, X, positions = self._matrix(features)
        return self._apply(X, positions)

    def _apply(self, X: Any, positions: Positions | None) -> HeadOutput:
        models = self.estimator, self.novelty_model, self.intervals
        return apply_head(*models, X, positions, self.stain_damping, self.scale_model)

    def _repr_html_(self) -> str:
        return card_html(*card_facts(self.card))

    def scope(self, in_scope: np.ndarray) -> dict[str, Any]:
        """Judge a slide by which of its readable tiles are in scope, bool ``(n,)``; see `NoveltyModel.scope`."""
        return self.novelty_model.scope(in_scope)

    def predict_features(self, features: AnnData | Sequence[AnnData]) -> pd.DataFrame:
        """Predict the composition of tiles from their features.

        Parameters
        ----------
        features
            Features of one slide; of a head on several encoders, one table each in the order of its card.

        Returns
        -------
        Tiles x cell types in the unit of the head, float64, indexed by tile key. A tile with NaN features (it could not
        be read) is NaN.

        Raises
        ------
        FeatureError
            The features are of another encoder, weights or tile than the head was trained on.
        """
        import pandas as pd

        keys, X, positions = self._matrix(features)
        rows = readable_rows(X)
        values = np.full((len(X), len(self.card["cell_types"])), np.nan)
        if len(rows):
            seen = X[rows] if self.stain_damping is None else self.stain_damping(X[rows])
            values[rows] = self.estimator.predict(seen, None if positions is None else positions[rows])
            check_told(values[rows], "the cells of a tile")
        return pd.DataFrame(values, index=keys, columns=self.card["cell_types"])

    def novelty(self, features: AnnData | Sequence[AnnData]) -> np.ndarray:
        """Percentile of each tile's novelty among held-out training tiles, 0 to 1, ``(n,)``; NaN if unreadable.

        Takes what `predict_features` takes and raises the same.
        """
        return self.output(features).novelty

    def card_markdown(self) -> str:
        """The card as Markdown, for people; see `histomix.heads.card_markdown`."""
        return card_markdown(self.card)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``card.json`` and the arrays to a folder, whole or not at all.

        Raises
        ------
        HeadError
            The path is a file, or a folder that holds anything but a head.
        StorageError
            The folder cannot be written.
        """
        target = Path(folder)
        check_place(target)
        with atomic_path(target) as temporary:
            temporary.mkdir()
            parts = self.estimator, self.novelty_model, self.intervals, self.stain_damping, self.scale_model
            for name, data in _files(*parts).items():
                (temporary / name).write_bytes(data)
            write_json(temporary / CARD, self.card)

    def _matrix(self, features: AnnData | Sequence[AnnData]) -> tuple[pd.Index, np.ndarray, Positions | None]:
        tables = list(features) if isinstance(features, Sequence) else [features]
        encoders = self.card["encoders"]
        names = ", ".join(encoder["name"] for encoder in encoders)
        hint = f"Embed the tiles with the encoder of the head: {names}"
        if len(tables) != len(encoders):
            raise FeatureError(f"the head needs features of {names}; {len(tables)} tables were given", hint=hint)
        for table, encoder in zip(tables, encoders, strict=True):
            manifest = feature_manifest(table)
            where = f"features of {manifest.get('section') or 'the slide'}"
            try:
                expected = encoder_identity({"encoder": encoder, "tile": encoder})
                by = "that the head was trained on"
                require_same_encoder(expected, encoder_identity(manifest), where, by, believe_stated=True)
            except FeatureError as error:
                raise FeatureError(error.what, where=error.where, hint=hint) from error
            if table.n_vars != encoder["dim"] or not table.obs_names.equals(tables[0].obs_names):
                raise FeatureError(
                    "the features do not have the dimension or the tiles expected", where=where, hint=hint
                )
        keys, X = join_blocks(tables)
        needs_positions = self.estimator.needs_positions or self.context_um
        return keys, X, Positions(np.zeros(len(X), int), positions_um(tables[0], keys)) if needs_positions else None


def check_place(folder: str | os.PathLike[str]) -> None:
    """Refuse (HeadError) a place to save to that is a file, or a folder with anything but a head."""
    target = Path(folder)
    try:
        require_folder(target)
    except InputError as error:
        raise HeadError(error.what, where=error.where, hint=error.hint) from error
    if target.is_dir() and not {path.name for path in target.iterdir()} <= FILES:
        raise HeadError("the place to save to holds other files", where=target, hint="Name a new folder for the head")


def seal(
    card: Mapping[str, Any],
    estimator: CompositionRegressor,
    novelty_model: NoveltyModel,
    intervals: Intervals | None = None,
    stain_damping: StainDamping | None = None,
    scale_model: ScaleModel | None = None,
) -> dict[str, Any]:
    """Complete a card with the digests of the arrays and, last, of the card itself."""
    arrays = _files(estimator, novelty_model, intervals, stain_damping, scale_model)
    files = {name: digest_bytes(data) for name, data in arrays.items()}
    complete = {**card, "files": files}
    return {**complete, "digest": digest_json(complete)}


def head_elsewhere(source: str) -> MissingHeadError:
    """The error where an archive or an address is given for a head's folder."""
    return MissingHeadError(
        "is a head to be taken first: its licence is shown, and its files are checked",
        where=source,
        hint=f"Take it with: histomix head pull {source} --out HEAD, and give that folder",
    )


def load_head(folder: str | os.PathLike[str]) -> Head:
    """Load a head that `Head.save` wrote.

    Raises
    ------
    HeadError
        A file is missing or changed, or the head is of a kind or format that this version does not know.

    Examples
    --------
    >>> hm.load_head("head").card["unit"]
    'proportion'
    """
    source, folder = os.fspath(folder), Path(folder)
    if not (folder / CARD).is_file():
        if folder.is_file() and (folder.parent / CARD).is_file():
            raise MissingHeadError(
                "is a file of a head, and a head is a folder", where=folder, hint=f"Give its folder: {folder.parent}"
            )
        if folder.suffix.lower() == ".zip" or source.startswith("hf:"):
            raise head_elsewhere(source)
        what = f"the folder holds no head ({CARD} is missing)" if folder.is_dir() else "there is no such folder"
        if (other := describe_result(folder)) is not None:
            what = f"is {other.what}, and no head"
        raise MissingHeadError(
            what, where=folder, hint="Make a head with: histomix train SHEET --features FEATURES --out HEAD"
        )
    try:
        card = read_json(folder / CARD, hint=HINT)
    except InputError as error:
        raise HeadError(error.what, where=error.where, hint=error.hint) from error
    check_card(card, folder / CARD)
    calibration = card.get("calibration")
    damped, scale_check = card.get("stain_damping"), card.get("scale_check")
    optional = {INTERVALS: calibration, STAIN: damped, SCALE: scale_check}
    wanted = [WEIGHTS, NOVELTY, *(name for name, facts in optional.items() if facts is not None)]
    arrays = {name: read_arrays(folder / name, card["files"].get(name)) for name in wanted}
    kind, parameters = card["head"], card["head"]["parameters"]
    try:
        # JSON has no tuples; the constructors take nothing else in their place.
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()
        }
        estimator = make_estimator(kind["kind"], **given).restore(arrays[WEIGHTS], kind["fitted"])
        if len(estimator.present_) != len(card["cell_types"]):
            raise HeadError(
                f"the arrays are of {len(estimator.present_)} cell types, the card of {len(card['cell_types'])}"
            )
        if estimator.n_features_in_ != sum(encoder["dim"] for encoder in card["encoders"]):
            raise HeadError(
                f"the arrays are for {estimator.n_features_in_} features, not for those of the card's encoders"
            )
        novelty_model = NoveltyModel.restored(arrays[NOVELTY], estimator.n_features_in_, len(estimator.present_))
        answer_rule(card)  # refused here, not in the middle of a slide
        intervals = None
        if calibration is not None:
            intervals = Intervals.restored(arrays[INTERVALS], card["unit"], len(card["cell_types"]), calibration)
            if intervals.needs_spread and type(estimator).predict_spread is CompositionRegressor.predict_spread:
                raise HeadError("the intervals need the spread of a committee, and the head has none")
        stain_damping = None
        if damped is not None:
            stain_damping = StainDamping.restored(arrays[STAIN], estimator.n_features_in_, damped)
        scale_model = None
        if scale_check is not None:
            scale_model = ScaleModel.restored(arrays[SCALE], card["encoders"][0]["dim"], scale_check)
    except HeadError as error:
        raise HeadError(error.what, where=folder, hint=error.hint or HINT) from error
    except TypeError as error:
        raise HeadError(
            f"the card's parameters are not those of a head ({reason(error)})", where=folder, hint=HINT
        ) from error
    return Head(card, estimator, novelty_model, intervals, stain_damping, scale_model)


def _files(
    estimator: CompositionRegressor,
    novelty_model: NoveltyModel,
    intervals: Intervals | None,
    stain_damping: StainDamping | None,
    scale_model: ScaleModel | None,
) -> dict[str, bytes]:
    from safetensors.numpy import save

    files = {WEIGHTS: save(estimator.fitted()[0]), NOVELTY: save(novelty_model.arrays())}
    more = {INTERVALS: intervals, STAIN: stain_damping, SCALE: scale_model}
    return {**files, **{name: save(part.arrays()) for name, part in more.items() if part is not None}}
