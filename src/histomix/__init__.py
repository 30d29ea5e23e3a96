"""histomix reads cell-type composition from ordinary H&E slides.

The names below are loaded on first use, so that ``import histomix`` stays quick and pulls in neither torch nor scanpy.
Importing it forbids telemetry to the libraries that it uses (`histomix.common.quiet`), and sets nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .common.quiet import no_telemetry

no_telemetry()  # here, because a library reads it when it is imported, and any of the names below may import one

if TYPE_CHECKING:
    from . import pl
    from .abundance import Abundance, label, read_abundance, read_labels
    from .cohort import cohort_tables
    from .datasets import make_phantom
    from .embedding import embed, read_features
    from .encoders import cards, load_encoder
    from .evaluation import evaluate, score_map
    from .heads import Head, load_head, train
    from .maps import CompositionMap, write_composition
    from .prediction import predict
    from .report import write_report
    from .slides import Slide, TileSpec, open_slide
    from .spots import Cohort, Section, inspect_data, read_cohort

_ROOM_OF = {
    "Abundance": "abundance",
    "Cohort": "spots",
    "CompositionMap": "maps",
    "Head": "heads",
    "Section": "spots",
    "Slide": "slides",
    "TileSpec": "slides",
    "cards": "encoders",
    "cohort_tables": "cohort",
    "embed": "embedding",
    "evaluate": "evaluation",
    "inspect_data": "spots",
    "label": "abundance",
    "load_encoder": "encoders",
    "load_head": "heads",
    "make_phantom": "datasets",
    "open_slide": "slides",
    "predict": "prediction",
    "read_abundance": "abundance",
    "read_cohort": "spots",
    "read_features": "embedding",
    "read_labels": "abundance",
    "score_map": "evaluation",
    "train": "heads",
    "write_composition": "maps",
    "write_report": "report",
}

__all__ = [
    "Abundance",
    "Cohort",
    "CompositionMap",
    "Head",
    "Section",
    "Slide",
    "TileSpec",
    "__version__",
    "cards",
    "cohort_tables",
    "embed",
    "evaluate",
    "inspect_data",
    "label",
    "load_encoder",
    "load_head",
    "make_phantom",
    "open_slide",
    "pl",
    "predict",
    "read_abundance",
    "read_cohort",
    "read_features",
    "read_labels",
    "score_map",
    "train",
    "write_composition",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "pl":  # the figures, as a module: hm.pl.composition(...)
        return importlib.import_module(".pl", __name__)
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f".{_ROOM_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
