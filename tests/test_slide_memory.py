"""A slide of 40,000 x 40,000 px in bounded memory (minutes; ``-m slow``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "big_slide.py"


def measure(*words: str) -> dict[str, float]:
    command = [sys.executable, str(BENCHMARK), *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_very_large_slide_takes_at_most_1500_mib_above_the_model() -> None:
    found = measure("--side", "40000", "--stride-um", "224")
    assert found["tiles"] > 4000
    assert found["above_model_mib"] < 1500
