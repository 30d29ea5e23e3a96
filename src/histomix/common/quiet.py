"""What libraries would send, ask or write on their own, forbidden by their own environment variables.

Libraries read these when they are imported, so they are set before. Processes that are started from here inherit them.

The package itself only forbids telemetry, which nothing else in a user's program can depend on. Where libraries keep
their files, and whether one asks the machine's cloud for credentials, may matter to the rest of a user's program: that
is set by the command line alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import StorageError

#: onnxruntime (a device id, and events to Microsoft), huggingface_hub (versions of what is installed
#: with each request, and a list of programs to recognise), and the convention of https://donottrack.sh.
_NO_TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
#: Folders of libraries, below ``libraries`` in the cache.
_FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TORCH_EXTENSIONS_DIR": "torch-extensions",
    "TORCHINDUCTOR_CACHE_DIR": "torch-inductor",
    "PYTORCH_KERNEL_CACHE_PATH": "torch-kernels",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
}
#: See ``python -P``.
_SAFE_PATH = "PYTHONSAFEPATH"
#: Credentials that the machine's cloud hands out at 169.254.169.254 (AWS, Google), asked for by nobody.
_NO_METADATA = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}


def no_telemetry() -> None:
    """Forbid telemetry to libraries that are imported from now on."""
    os.environ.update(dict.fromkeys(_NO_TELEMETRY, "1"))


def settle_libraries() -> None:
    """Put the files of libraries into the cache, and keep them from asking the cloud's metadata service.

    What the user has set stays. Weights that the user keeps in the folders of the hub's own tools and of torch are used
    there, as are the token of ``hf auth login`` and the user's ``matplotlibrc``. Where the cache cannot be used, the
    folders are temporary ones. What lies in the current folder, which may be a stranger's, sets nothing that runs: see
    `safe_children`.
    """
    from .cache import VARIABLE, cache_folder, cache_root

    os.environ[_SAFE_PATH] = "1"
    for name, value in {**_of_the_user(), **_NO_METADATA}.items():
        os.environ.setdefault(name, value)
    missing = {name: folder for name, folder in _FOLDERS.items() if name not in os.environ}
    try:
        if os.environ.get(VARIABLE):
            os.environ[VARIABLE] = str(cache_root())  # whole: workers stand in other folders
        place = cache_folder("libraries")
    except StorageError:  # told where the cache itself is needed
        place = Path(tempfile.mkdtemp(prefix="histomix-libraries-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    os.environ.update({name: str(place / folder) for name, folder in missing.items()})
    if Path("matplotlibrc").is_file():  # matplotlib reads it before the user's own
        import matplotlib

        matplotlib.rcParams["text.usetex"] = False  # TeX would run what the file says


@contextlib.contextmanager
def safe_children() -> Iterator[None]:
    """Processes of Python that are started while it is open import nothing from the current folder.

    Those of `multiprocessing`, and so Dask's workers, would look there first, even for modules of Python itself: what
    somebody put into a folder of slides would run.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _of_the_user() -> dict[str, str]:
    """Variables that lead libraries to what the user already has in their usual places."""
    try:
        home = Path.home()
    except RuntimeError:  # this user has none
        return {}
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    variables: dict[str, str] = {}
    if "HF_HOME" not in os.environ:
        hub = caches / "huggingface"
        variables["HF_TOKEN_PATH"] = str(hub / "token")
        if (hub / "hub").is_dir() and "HUGGINGFACE_HUB_CACHE" not in os.environ:
            variables["HF_HUB_CACHE"] = str(hub / "hub")
    if (caches / "torch" / "hub").is_dir():
        variables["TORCH_HOME"] = str(caches / "torch")
    settings = [
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "matplotlib" / "matplotlibrc",
        home / ".matplotlib" / "matplotlibrc",
    ]
    if "MPLCONFIGDIR" not in os.environ and (given := [path for path in settings if path.is_file()]):
        variables["MATPLOTLIBRC"] = str(given[0])
    return variables


def hub_cache() -> Path | None:
    """What the command line has fetched from the Hugging Face hub, if it does not keep it elsewhere; None: nothing."""
    from .cache import cache_folder, cache_root

    names = ("libraries", _FOLDERS["HF_HOME"], "hub")
    try:
        return cache_folder(*names) if cache_root().joinpath(*names).is_dir() else None
    except StorageError:  # no home, or filled by others: not used
        return None


def import_openvino() -> Any:
    """The library openvino without its telemetry, which has no switch: without the module that sends, it sends nothing.

    Raises
    ------
    ImportError
        openvino is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
