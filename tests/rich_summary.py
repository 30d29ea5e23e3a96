"""What further analyses add to the summary of an evaluation, with plausible numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    r"$\frac{",
    "_hidden \u202egnp.exe",
    '"><img src=x onerror=x>',
)


def enriched(summary: dict[str, Any], head: str) -> dict[str, Any]:
    """A copy of a summary with an audit, tests, detectability, calibration, spatial statistics and inflation."""
    types, sections = summary["cell_types"], summary["sections"]
    rng = np.random.default_rng(0)
    levels = [0.5, 0.8, 0.9, 0.95]
    matrix = rng.normal(0, 0.2, (len(types), len(types)))
    matrix = (matrix + matrix.T) / 2
    missing = [[None if i == j else float(matrix[i, j]) for j in range(len(types))] for i in range(len(types))]
    return {
        **summary,
        "audit": [
            {"rule": "few_donors", "severity": "note", "message": "Only two donors", "numbers": {"donors": 2}},
            {
                "rule": "donor_overlap",
                "severity": "error",
                "message": f"Donor {HOSTILE[4]} in two folds",
                "numbers": {},
            },
        ],
        "probe": {"accuracy": 0.93, "chance": 0.5, "statement": "Features name the section"},
        "tests": [
            {
                **{"a": head, "b": "mean", "metric": "pearson", "target": "label", "n_donors": 2, "difference": 0.5},
                **{"low": 0.4, "high": 0.6, "p": 0.0004, "p_adjusted": 0.002, "statement": "The head is better"},
            },
            {
                **{"a": head, "b": "other", "metric": "rmse", "target": "label", "n_donors": 2, "difference": -0.01},
                **{"low": None, "high": None, "p": None, "p_adjusted": None, "statement": None},
            },
        ],
        "detectability": [
            {
                **{
                    "cell_type": name,
                    "pearson": 0.8 - 0.2 * place,
                    "low": 0.7 - 0.2 * place,
                    "high": 0.9 - 0.2 * place,
                },
                **{"p": 0.001, "p_adjusted": 0.01, "ceiling": 0.81, "share_of_ceiling": 0.5, "detectable": place < 2},
                "group": None if place == 0 else ["epithelial", "immune"][place % 2],
            }
            for place, name in enumerate(types)
        ],
        "calibration": {
            head: {
                "levels": levels,
                "coverage": [0.52, 0.81, 0.91, 0.94],
                "width": [0.1, 0.2, 0.3, 0.4],
                "statement": "91 % of held-out values lie in their 90 % intervals",
            },
            "mean": None,
        },
        "spatial": {
            "moran": [
                {"section": section, "head": head, "cell_type": name, "label": 0.3, "prediction": 0.2 + 0.1 * place}
                for section in sections
                for place, name in enumerate(types)
            ],
            "colocalisation": [
                {
                    **{"head": head, "section": section, "radius_um": 150, "cell_types": types, "p": 0.001},
                    **{"label": matrix.tolist(), "prediction": missing, "correlation": 0.87, "null_mean": 0.01},
                }
                for section in sections
            ],
            "domains": [
                {"head": head, "section": name, "ari_label": 0.5, "ari_prediction": 0.4, "ari_regions": None}
                for name in sections
            ],
        },
        "inflation": [
            {"protocol": name, "head": head, "metric": "pearson", "mean": mean, "low": mean - 0.1, "high": None}
            for name, mean in (("donor", 0.6), ("random", 0.8))
        ],
    }
