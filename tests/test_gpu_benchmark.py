"""The benchmark of a GPU runs whole on a CPU, with small networks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARK.parent.parent / "src")}
    command = [sys.executable, "-W", "ignore", str(BENCHMARK), "--tiny", "--out", str(out)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    (network,) = found["networks"].values()
    chosen = network["by_precision"][network["chosen"]]
    assert chosen["cosine"] >= 0.999 and network["by_precision"]["float32"]["cosine"] == pytest.approx(1)
    assert network["engine"]["tiles_per_second"] > 0 and network["engine"]["of_the_bare_model"] > 0
    assert found["slide"]["tiles"] > 0 and set(found["training"]["seconds"]) == {"ridge", "mlp"}
    assert found["reading"]["1 processes"] > 0
    deep = found["hist2cell-tiles"]
    if importlib.util.find_spec("torch_geometric") is None:
        assert deep is None
    else:
        assert deep["epochs"] == deep["of_epochs"] == 1 and deep["spots"] > 5 and -1 < deep["pearson"] < 1
