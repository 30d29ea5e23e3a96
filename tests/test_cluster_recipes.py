"""The recipes of docs/clusters.md, run as far as they can be without the clusters they are for."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from .extras import extra_module

DOCS = Path(__file__).parent.parent / "docs" / "clusters.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def _block(language: str, word: str) -> str:
    (found,) = (block for block in _blocks(language) if word in block)
    return found


def test_the_slurm_recipe_makes_the_job_it_promises() -> None:
    extra_module("dev", "dask_jobqueue")
    names: dict[str, Any] = {}
    exec(_block("python", "SLURMCluster"), names)
    cluster = names["cluster"]
    try:
        script = cluster.job_script()
    finally:
        cluster.close()
    for directive in ("-p gpu", "-A pathology", "--cpus-per-task=8", "--gres=gpu:1", "-t 08:00:00"):
        assert f"#SBATCH {directive}" in script
    assert "source /shared/histomix/bin/activate" in script
    command = shlex.split(script.splitlines()[-1])
    worker = " ".join(command)
    assert "--nthreads 1 " in worker and "--resources GPU=1" in worker and "--lifetime 7h50m" in worker
    # The worker's own program knows all of these.
    from click.testing import CliRunner
    from distributed.cli.dask_worker import main

    known = CliRunner().invoke(main, ["--help"]).output
    assert all(option.partition("=")[0] in known for option in command if option.startswith("--"))


def test_what_follows_the_slurm_recipe_is_a_call_that_exists() -> None:
    from histomix.prediction import predict_slides

    calls = [node for node in ast.walk(ast.parse(_block("python", "predict_slides"))) if isinstance(node, ast.Call)]
    (call,) = (node for node in calls if ast.unparse(node.func).endswith("predict_slides"))
    inspect.signature(predict_slides).bind(*call.args, **{str(word.arg): word.value for word in call.keywords})


def test_the_kubernetes_recipe_has_what_the_operator_needs() -> None:
    (text,) = _blocks("yaml")
    found = yaml.safe_load(text)
    assert (found["apiVersion"], found["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    worker, scheduler = found["spec"]["worker"], found["spec"]["scheduler"]
    assert isinstance(worker["replicas"], int)
    (body,), (head,) = worker["spec"]["containers"], scheduler["spec"]["containers"]
    assert body["image"] == head["image"]
    assert body["args"][:4] == ["dask", "worker", "--name", "$(DASK_WORKER_NAME)"] and head["args"] == [
        "dask",
        "scheduler",
    ]
    assert all(isinstance(argument, str) for argument in body["args"])
    # Limits and requests, mounts and volumes, ports and targets belong together.
    assert body["resources"]["requests"].items() <= body["resources"]["limits"].items()
    assert {mount["name"] for mount in body["volumeMounts"]} == {volume["name"] for volume in worker["spec"]["volumes"]}
    service, ports = scheduler["service"], {port["name"]: port["containerPort"] for port in head["ports"]}
    assert service["selector"] == {
        "dask.org/cluster-name": found["metadata"]["name"],
        "dask.org/component": "scheduler",
    }
    assert (
        {port["targetPort"]: port["port"] for port in service["ports"]}
        == ports
        == {"tcp-comm": 8786, "http-dashboard": 8787}
    )


def test_the_ssh_recipe_calls_what_is_there() -> None:
    distributed = extra_module("cluster", "distributed")
    asked: dict[str, Any] = {}

    def pretend(*hosts: Any, **options: Any) -> None:
        asked.update(inspect.signature(distributed.SSHCluster).bind(*hosts, **options).arguments)

    code = _block("python", "SSHCluster").replace("from distributed import SSHCluster", "")
    exec(code, {"SSHCluster": pretend})
    for cls, options in ((distributed.Nanny, "worker_options"), (distributed.Scheduler, "scheduler_options")):
        known = set(inspect.signature(cls.__init__).parameters)
        assert set(asked[options]) <= known
