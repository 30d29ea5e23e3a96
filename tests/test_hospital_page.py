"""docs/hospital-it.md says every address and folder: compared with the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import histomix
from histomix.common import quiet

PACKAGE = Path(histomix.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "hospital-it.md"
_HOST = re.compile(r"https?://([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)")
#: Files that call a network, by way of these libraries; each is on the page, by verb.
CALLERS = {
    "common/transfer/download.py": {"aiohttp", "fsspec"},
    "common/transfer/store.py": {"fsspec"},
    "common/transfer/web.py": {"aiohttp", "fsspec", "urllib.request"},
    "datasets/fetch.py": {"huggingface_hub"},
    "encoders/torch/weights.py": {"huggingface_hub"},
    "encoders/torch/zoo.py": {"lazyslide_models"},
    "prediction/cluster/cluster.py": {"distributed"},
    "prediction/cluster/local.py": {"distributed"},
    "prediction/cluster/nodes.py": {"distributed"},
    "sharing/repository.py": {"huggingface_hub"},
}
_NETWORK = {
    *("aiobotocore", "aiohttp", "asyncssh", "boto3", "botocore", "dask_jobqueue", "distributed", "ftplib", "fsspec"),
    *("gcsfs", "http", "httpx", "huggingface_hub", "lazyslide_models", "paramiko", "pooch", "requests", "s3fs"),
    *("smtplib", "tornado", "transformers", "urllib.request", "urllib3", "websockets", "xmlrpc"),
}


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def part(title: str) -> str:
    """A section of the page."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page(), re.M | re.S)
    assert found, f"the page has no section {title}"
    return found[1]


def hosts_of_source() -> set[str]:
    kinds = (".py", ".js", ".html", ".css", ".j2")
    files = [path for path in PACKAGE.rglob("*") if path.suffix in kinds]
    return {host for path in files for host in _HOST.findall(path.read_text(encoding="utf-8"))}


def test_every_host_in_the_source_is_on_the_page_and_the_other_way_round() -> None:
    text = part("Addresses that are called")
    hosts = set(re.findall(r"`((?:[a-z0-9-]+\.)+[a-z]{2,})`", text))
    assert hosts == hosts_of_source()
    table, _, rest = text.partition("Addresses that are only written")
    called = {host for host in hosts if f"`{host}`" in table}
    assert called and not any(f"`{host}`" in rest for host in called)
    for host in called:
        line = next(line for line in table.splitlines() if f"`{host}`" in line)
        assert re.search(r"`(fetch|embed|head \w+)`", line), f"the page does not say which verb calls {host}"


@cache
def imports(path: Path) -> set[str]:
    """Libraries that a file imports when it runs; what only a type checker sees is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in unseen:
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and id(node) not in unseen:
            found.add(node.module or "")
    return found


def test_only_known_files_reach_for_a_network() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        names = imports(path)
        used = {library for library in _NETWORK for name in names if name == library or name.startswith(f"{library}.")}
        if used:
            found[path.relative_to(PACKAGE).as_posix()] = used
    known = {name: libraries for name, libraries in CALLERS.items() if (PACKAGE / name).is_file()}
    assert {name: used for name, used in found.items() if not used <= known.get(name, set())} == {}


@pytest.mark.parametrize(
    ("library", "file"), [("onnxruntime", "encoders/onnx/session.py"), ("openvino", "common/quiet.py")]
)
def test_one_file_alone_opens_a_library_that_would_send(library: str, file: str) -> None:
    users = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if library in imports(path)}
    assert users <= {file}


def test_every_variable_and_folder_is_on_the_page() -> None:
    for name in quiet._NO_TELEMETRY:
        assert f"`{name}=1`" in part("Telemetry of libraries")
    for name in quiet._NO_METADATA:
        assert f"`{name}=false`" in part("Addresses that are called")
    folders = part("Folders that are written")
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r'cache_folder\("([\w-]+)"', path.read_text(encoding="utf-8")):
            assert f"| `{name}/` in the cache |" in folders
    assert "`slides/` in the cache" in folders
