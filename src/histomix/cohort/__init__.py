"""Cohort tables: what many maps say of their slides, ready to be joined with a clinical table."""

from .hotspots import TlsRule, getis_ord, tls_like
from .indices import evenness, joins, mixing, morisita_horn, shannon
from .measures import DEFINITIONS, map_rows
from .tables import CohortTables, cohort_tables, write_cohort

__all__ = [
    "DEFINITIONS",
    "CohortTables",
    "TlsRule",
    "cohort_tables",
    "evenness",
    "getis_ord",
    "joins",
    "map_rows",
    "mixing",
    "morisita_horn",
    "shannon",
    "tls_like",
    "write_cohort",
]
