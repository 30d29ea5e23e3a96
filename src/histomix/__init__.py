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
    from .benchmark import Benchmark, run_benchmark
    from .cohort import CohortTables, TlsRule, cohort_tables
    from .datasets import fetch_cohort, make_phantom
    from .embedding import embed, import_features, read_features
    from .encoders import cards, doctor, load_encoder
    from .evaluation import CohortData, Evaluation, evaluate, read_evaluation, score_map
    from .export import LazySlideHead, add_composition_to_wsidata, export_maps
    from .heads import Head, load_head, train
    from .maps import CompositionMap, write_composition
    from .prediction import predict, predict_slides
    from .report import write_report
    from .road import demo, run
    from .sharing import head_facts, list_heads, pull_head, push_head
    from .slides import Slide, TileSpec, open_slide
    from .spots import Cohort, Section, draft_sheet, inspect_data, read_cohort
    from .studies import list_studies, plan, reproduce
    from .viewer import write_viewer

_ROOM_OF = {
    "Abundance": "abundance",
    "Benchmark": "benchmark",
    "Cohort": "spots",
    "CohortData": "evaluation",
    "CohortTables": "cohort",
    "CompositionMap": "maps",
    "Evaluation": "evaluation",
    "Head": "heads",
    "LazySlideHead": "export",
    "Section": "spots",
    "Slide": "slides",
    "TileSpec": "slides",
    "TlsRule": "cohort",
    "add_composition_to_wsidata": "export",
    "cards": "encoders",
    "cohort_tables": "cohort",
    "demo": "road",
    "doctor": "encoders",
    "draft_sheet": "spots",
    "embed": "embedding",
    "evaluate": "evaluation",
    "export_maps": "export",
    "fetch_cohort": "datasets",
    "head_facts": "sharing",
    "import_features": "embedding",
    "inspect_data": "spots",
    "label": "abundance",
    "list_heads": "sharing",
    "list_studies": "studies",
    "load_encoder": "encoders",
    "load_head": "heads",
    "make_phantom": "datasets",
    "open_slide": "slides",
    "predict": "prediction",
    "predict_slides": "prediction",
    "plan": "studies",
    "pull_head": "sharing",
    "push_head": "sharing",
    "read_abundance": "abundance",
    "read_cohort": "spots",
    "read_evaluation": "evaluation",
    "read_features": "embedding",
    "read_labels": "abundance",
    "reproduce": "studies",
    "run": "road",
    "run_benchmark": "benchmark",
    "score_map": "evaluation",
    "train": "heads",
    "write_composition": "maps",
    "write_report": "report",
    "write_viewer": "viewer",
}

__all__ = [
    "Abundance",
    "Benchmark",
    "Cohort",
    "CohortData",
    "CohortTables",
    "CompositionMap",
    "Evaluation",
    "Head",
    "LazySlideHead",
    "Section",
    "Slide",
    "TileSpec",
    "TlsRule",
    "__version__",
    "add_composition_to_wsidata",
    "cards",
    "cohort_tables",
    "demo",
    "doctor",
    "draft_sheet",
    "embed",
    "evaluate",
    "export_maps",
    "fetch_cohort",
    "head_facts",
    "import_features",
    "inspect_data",
    "label",
    "list_heads",
    "list_studies",
    "load_encoder",
    "load_head",
    "make_phantom",
    "open_slide",
    "pl",
    "plan",
    "predict",
    "predict_slides",
    "pull_head",
    "push_head",
    "read_abundance",
    "read_cohort",
    "read_evaluation",
    "read_features",
    "read_labels",
    "reproduce",
    "run",
    "run_benchmark",
    "score_map",
    "train",
    "write_composition",
    "write_report",
    "write_viewer",
]


def __getattr__(name: str) -> Any:
    if name == "pl":  # the figures, as a module: hm.pl.composition(...)
        return importlib.import_module(".pl", __name__)
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f".{_ROOM_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
