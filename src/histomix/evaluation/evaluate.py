"""`histomix.evaluate`: how well heads read spots that they were not trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..abundance import Abundance, labels_of
from ..common.storage.unfinished import say_recalled, unfinished_work
from ..common.threads import single_thread
from ..errors import InputError
from ..heads import DEFAULT
from ..progress import Progress, progress_bars
from ..provenance import require_writable
from .data import CohortData
from .groups import read_groups
from .measured.read_regions import read_section_regions
from .result import Evaluation, check_folder
from .run import held_out_scores
from .spatial.summary import add_spatial

if TYPE_CHECKING:
    from ..embedding import FeatureSource
    from ..spots import Cohort


def evaluate(
    cohort: Cohort | str | os.PathLike[str],
    features: FeatureSource,
    labels: Mapping[str, Abundance] | str | os.PathLike[str] | None = None,
    heads: Sequence[str] | Mapping[str, Any] = ("mean", "ridge", DEFAULT),
    folds: str | Sequence[str] | None = None,
    truth: Mapping[str, Abundance] | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress | bool = True,
    *,
    n_folds: int | None = None,
    test: CohortData | None = None,
    strict: bool = False,
    groups: Mapping[str, str] | str | os.PathLike[str] | None = None,
    nuclei: bool = True,
    spatial: bool = True,
    more_donors: bool = False,
    damp_stain: bool = True,
    radius_um: float | None = None,
    regions: str | os.PathLike[str] | None = None,
    features_folders: Sequence[str | os.PathLike[str]] = (),
) -> Evaluation:
    """Score heads on spots that they were not trained on.

    Every head is fitted anew in each fold, on that fold's training rows alone; all it chooses for itself, it chooses on
    inner splits of those by donor (by section where one donor is left). Before any fit, an audit looks for leaks.

    With ``out``, what is finished of a run that is killed is kept beside it, and the same call goes on from there; see
    `histomix.common.storage.unfinished`.

    Parameters
    ----------
    cohort, features, labels
        As for `histomix.train`. The ``reliability`` of labels becomes the metric ``"ceiling"``; their
        ``provenance["fitted_with"]`` tells which test labels were fitted together with training donors.
    heads
        Names of heads, or names with unfitted scikit-learn estimators whose ``fit`` takes ``groups``. The mean, ridge,
        a regression on nuclei (where slides can be opened) and the section mean are always beside them.
    folds
        ``"donor"`` (None means it), ``"site"``, ``"section"`` (optimistic) or ``"random"`` (leaky); see
        `histomix.evaluation.PROTOCOLS`. Several show how much the less honest add: the most honest is the result, the
        others are in ``inflation``.
    truth
        Known abundances by section (or their folder), in the unit of the labels or in cells per spot. Every head is
        scored against them as well, and so are the labels (as the head ``"label"``): the bar to approach.
    out
        Folder to write, see `Evaluation.save`.
    seed
        Seed of heads, folds and bootstrap: the same seed gives the same numbers.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told of each head in each fold.
    n_folds
        How many folds (see `histomix.evaluation.make_folds`).
    test
        A second cohort: heads are trained on the first and tested on this one. See `CohortData.of`.
    strict
        Refuse to score when the audit finds an error or a warning.
    groups
        Coarser group of each cell type, or a file of them (see `histomix.evaluation.read_groups`); None: chosen by the
        correlation of the labels.
    nuclei
        Count nuclei in the slides for the baseline of cellularity.
    spatial
        Add the spatial patterns, co-localisation and domains (see `histomix.evaluation.spatial_summary`).
    more_donors
        Tell what more donors in training do, for ridge and the last head (see `histomix.evaluation.more_donors`): to
        other sections of donors in training, and to donors that are not. It takes three donors with two sections or
        more, and some ten to forty more fits of each.
    damp_stain
        As for `histomix.train`: of each fold, learnt from its training sections.
    radius_um
        Length scale of the spatial scores; the pitch of the spots where left out.
    regions
        Folder of regions that a pathologist named, against which the domains are scored.
    features_folders
        Folders of features that were given as tables: previews in them are compared.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        The cohort cannot make the folds (with one donor ``folds="section"`` is left, which is optimistic), ``out``
        holds other files, the regions cannot be read, donors are too few for ``more_donors``, or the audit found
        something and is ``strict``.
    SheetError, FeatureError
        The cohort or the features cannot be read, or do not belong together.
    HeadError
        A head is unknown, cannot be fitted in a fold, or predicts values that are not finite.
    FolderBusyError
        Another process writes to ``out``.
    StorageError
        ``out`` cannot be written.
    LabelError
        The truth has other cell types than the labels, covers no spot, or is in proportions while labels count cells;
        or two cohorts have labels that do not fit together.

    Examples
    --------
    >>> scores = hm.evaluate("sheet.csv", "features", "labels", ["ridge"], spatial=False, nuclei=False, progress=False)
    >>> scores.summary["protocol"], scores.summary["n_donors"]
    ('donor', 3)
    """
    if out is not None:
        check_folder(out)
        require_writable(out)
    if regions is not None and not spatial:
        what = "regions are compared with spatial domains, which were left out"
        raise InputError(what, where=regions, hint="Leave the regions out too, or score spatial patterns (the default)")
    with progress_bars(progress) as report:
        data = CohortData.of(cohort, features, labels, features_folders)
        tested = test or data
        if spatial and regions is not None:
            read_section_regions(regions, list(tested.cohort.names))  # found wanting before the work, not after it
        # Most of it are products that are too small to be shared out; fits take the threads that they need.
        with unfinished_work(out, "an evaluation") as work, single_thread():
            result = held_out_scores(
                data,
                test,
                heads,
                folds,
                None if truth is None else labels_of(truth, tested.cohort),
                seed,
                report,
                n_folds=n_folds,
                strict=strict,
                groups=read_groups(groups) if isinstance(groups, str | os.PathLike) else groups,
                nuclei=nuclei,
                with_more_donors=more_donors,
                damp_stain=damp_stain,
            )
            say_recalled(work, "fits")
            if out is not None:
                result.save(out)
            if spatial:
                result = add_spatial(result, radius_um, seed, regions=regions, progress=report)
                if out is not None:
                    result.save_summary(out)
    return result
