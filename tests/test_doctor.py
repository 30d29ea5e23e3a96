"""What doctor and errors say of libraries: the core, each extra, and the build of torch."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from histomix import extras
from histomix.cli.app import app
from histomix.errors import MissingExtraError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def doctor(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", "--encoder", "builtin", *words])
    return result.exit_code, result.stdout


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The package as pyproject.toml declares it, and versions of libraries that a test may take away or change."""
    texts = list(PROJECT["dependencies"])
    texts += [f'{one}; extra == "{name}"' for name, some in PROJECT["optional-dependencies"].items() for one in some]
    here = {canonicalize_name(Requirement(text).name): "1!0" for text in texts}

    def version(name: str) -> str:
        if canonicalize_name(name) not in here:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[canonicalize_name(name)]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)
    monkeypatch.setattr(importlib.metadata, "version", version)
    # Newer than anything but ranges with an end, of which pyro-ppl's is one.
    here["pyro-ppl"] = "1.9.1"
    return here


def test_doctor_knows_every_library_that_the_core_declares(declared: dict[str, str]) -> None:
    code, out = doctor("--json")
    facts = json.loads(out)
    core = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert code == 0 and core <= set(facts["installed"]) and facts["missing"] == []
    assert all(one["complete"] and not one["hint"] for one in facts["extras"].values())

    del declared["openslide-bin"], declared["timm"]
    code, out = doctor()
    assert code == 1
    assert '-> pip install "openslide-bin>=4.0.0.6" "timm>=1.0.31"' in out
    assert json.loads(doctor("--json")[1])["missing"] == ["openslide-bin", "timm"]


def test_doctor_says_what_an_extra_lacks_and_one_command_for_all(declared: dict[str, str]) -> None:
    del declared["s3fs"], declared["aiohttp"]
    declared["dask"] = "2023.1"
    code, out = doctor()
    assert code == 0, "extras are optional"
    assert "missing: aiohttp, s3fs" in out and "dask (2023.1 is here, needs >=2025.1)" in out
    assert out.count('pip install "histomix[st,cluster,remote]"') == 1 and out.count("pip install") == 1
    state = json.loads(doctor("--json")[1])["extras"]
    assert state["remote"]["missing"] == {"aiohttp": "missing", "s3fs": "missing"}
    assert 'histomix[remote]"' in state["remote"]["hint"] and state["onnx"]["complete"]


def test_an_extra_that_cannot_be_had_on_this_python_says_so(
    declared: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = extras.python_version()
    monkeypatch.setattr(extras, "UNAVAILABLE", {("remote", here): "nothing of it has wheels"})
    error = str(MissingExtraError("s3fs", "remote", "reading s3:// slides"))
    assert f"The extra remote cannot be had on Python {here}: nothing of it has wheels." in error
    assert "\n" not in error and "pip install" not in error
    assert 'pip install "histomix[onnx]"' in str(MissingExtraError("onnx", "onnx", "the runtime int8"))

    del declared["s3fs"], declared["onnx"]
    _, out = doctor()
    assert "nothing of it has wheels" in out and 'pip install "histomix[onnx,openvino]"' in out  # both need onnx


@pytest.mark.parametrize(
    ("cuda", "hip", "gpu", "said"),
    [
        ("13.0", None, False, "a build for CUDA 13.0; without a GPU the CPU build does the same"),
        ("13.0", None, True, "a build for CUDA 13.0\n"),
        (None, "7.1", True, "a build for ROCm 7.1\n"),
        (None, None, False, "a CPU build\n"),
    ],
)
def test_doctor_says_which_torch_it_is(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, hip: str | None, gpu: bool, said: str
) -> None:
    import torch

    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=cuda, hip=hip))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Imaginary A1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    out = doctor()[1]
    assert f"{torch.__version__}, {said}" in out
    assert ("Imaginary A1" in out) == gpu


def test_doctor_works_from_sources_that_were_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    code, out = doctor()
    assert code == 0 and "runs from its sources" in out and "ready" in out and "complete" not in out


def test_the_extras_are_those_of_the_package() -> None:
    optional = PROJECT["optional-dependencies"]
    assert set(extras.EXTRAS) == set(optional) - {"all", "dev"}
    assert re.findall(r"\[(.*)\]", optional["all"][0]) == [",".join(sorted(extras.EXTRAS))]
    assert {name for name, _ in extras.UNAVAILABLE} <= set(extras.EXTRAS)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_pins_name_and_fit_every_dependency(python: str) -> None:
    """What scripts/write_constraints.py wrote is not behind pyproject.toml."""
    lines = [line for line in (ROOT / f"constraints-{python}.txt").read_text().splitlines() if line[0] != "#"]
    pins = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [Requirement(text) for some in PROJECT["optional-dependencies"].values() for text in some]
    unfit = [
        str(one)
        for one in wanted
        if one.name != "histomix"
        and (canonicalize_name(one.name) not in pins or pins[canonicalize_name(one.name)] not in one.specifier)
    ]
    assert not unfit, f"run scripts/write_constraints.py: {unfit}"
