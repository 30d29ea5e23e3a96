"""The phantom's road in a process that has none of POSIX: ``python tests/foreign_system.py OUT``.

It lacks fcntl, resource, pwd, grp and termios, ``os.fork``, ``os.symlink``, ``os.sysconf`` and the like, ``SIGKILL``,
and ``/proc``; files that are open are neither removed nor replaced, ``os.rename`` replaces nothing, and text that names
no end of line gets CR LF, all as on Windows. What was refused goes into ``OUT/refused.json``.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
_FUNCTIONS = ("sysconf", "fork", "forkpty", "symlink", "link", "getuid", "geteuid", "getgid", "getloadavg", "killpg")
_FUNCTIONS += ("setsid", "chown", "mkfifo", "fchmod", "O_NOFOLLOW", "posix_fallocate")
_list, _read_link, _open = os.listdir, os.readlink, io.open


class ForeignSystem:
    """What is refused is kept in ``refused``: what, and where in histomix."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []

    def install(self) -> None:
        """Take POSIX away from this process."""
        for name in _MODULES:
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        for name in _FUNCTIONS:
            if hasattr(os, name):
                delattr(os, name)
        for name in ("SIGKILL", "SIGHUP", "SIGALRM"):
            delattr(signal, name)
        os.linesep = "\r\n"
        builtins.open = io.open = self.open  # type: ignore[assignment]
        os.replace, os.rename = self._moving(os.replace), self._moving(os.rename, replaces=False)
        os.unlink = os.remove = self._removing(os.unlink)

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Modules that are not there."""
        if name in _MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        """``open`` with the ends of lines of Windows, and without ``/proc``."""
        named = str(os.fspath(file)) if isinstance(file, str | os.PathLike) else ""
        # threadpoolctl finds libraries in the maps, on Linux only.
        if named.startswith("/proc") and not named.endswith("/maps"):
            raise PermissionError(13, "Permission denied", file)
        if newline is None and "b" not in mode and any(mark in mode for mark in "wax+"):
            newline = "\r\n"
        return _open(file, mode, buffering, encoding, errors, newline, *rest, **options)

    def _moving(self, real: Callable[..., None], replaces: bool = True) -> Callable[..., None]:
        def move(source: Any, target: Any, **places: Any) -> None:
            self._refuse_held(source)
            self._refuse_held(target)
            if not replaces and os.path.lexists(target):
                self._refuse(f"{source} was renamed over {target}")
            real(source, target, **places)

        return move

    def _removing(self, real: Callable[..., None]) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            self._refuse_held(path if dir_fd is None else Path(_read_link(f"/proc/self/fd/{dir_fd}"), path))
            real(path, dir_fd=dir_fd)

        return remove

    def _refuse_held(self, path: Any) -> None:
        """Refuse to touch a file, or a folder with one, that is open or mapped in this process."""
        place = str(Path(path).absolute())
        held = []
        for descriptor in _list("/proc/self/fd"):
            try:
                held.append(_read_link(f"/proc/self/fd/{descriptor}"))
            except OSError:
                continue
        with _open("/proc/self/maps", encoding="utf-8") as stream:
            held += [parts[5].strip() for line in stream if len(parts := line.split(None, 5)) == 6]
        for one in held:
            # A lock file is removed while it is open where that can be, and after it otherwise.
            if (one == place or one.startswith(place + os.sep)) and Path(one).is_file() and ".lock" not in one:
                self._refuse(f"{one} is open")

    def _refuse(self, what: str) -> None:
        ours = [line for line in traceback.format_stack() if "/histomix/" in line]
        self.refused.append((what, "".join(ours[-3:])))
        raise PermissionError(13, what)


def road(out: Path) -> None:
    """Everything from the phantom to its pages."""
    import histomix as hm
    from histomix.common.memory import available_memory
    from histomix.prediction import predict_slides
    from histomix.report import sections

    sections._MOST_PAIRS = 1  # few maps
    if available_memory(out) is not None:
        raise SystemExit("the memory of this system is known in spite of all")
    sheet = hm.make_phantom(out / "phantom", seed=3, donors=2, sections_per_donor=1, size_um=(500, 500))
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=sheet.parent / "reference.csv", out=out / "labels")
    hm.embed(cohort, out=out / "features")
    features = hm.embed(cohort, out=out / "features")  # kept
    scores = hm.evaluate(cohort, features, labels, heads=["ridge"], nuclei=False, spatial=False)
    for _ in range(2):  # the second takes the place of the first
        scores.save(out / "evaluation")
        hm.train(cohort, features, labels, head="ridge", out=out / "head")
    images = [str(row.image) for row in cohort.rows]
    for options in ({"keep_features": True}, {"stride_um": 60.0, "gzip": True}):
        for found in predict_slides(images[:1], out / "head", out / "maps", mpp=0.5, **options):  # type: ignore[arg-type]
            if found.error is not None:
                raise found.error
    commands = (
        f"report {out}/evaluation {out}/features {out}/labels {out}/head {out}/maps --out {out}/report",
        f"view {out}/maps {out}/evaluation --sheet {sheet} --slides {sheet.parent}/images --out {out}/viewer",
    )
    from typer.testing import CliRunner

    from histomix.cli.app import app

    for command in commands:
        result = CliRunner().invoke(app, [*command.split(), "--quiet"])
        if result.exit_code:
            raise SystemExit(result.output)


if __name__ == "__main__":
    # Other libraries know that they are on Linux; what they need of it is loaded before it goes.
    import h5py  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import platformdirs  # noqa: F401  (it chooses by the platform, and here that of the tests)
    import psutil  # noqa: F401
    import sklearn  # noqa: F401
    import torch  # noqa: F401

    warnings.filterwarnings("error", category=EncodingWarning, module=r"histomix(\.|$)")
    system = ForeignSystem()
    system.install()
    road(Path(sys.argv[1]))
    Path(sys.argv[1], "refused.json").write_text(json.dumps(system.refused), encoding="utf-8")
