"""What commands do to the rest of the computer: where they connect, whom they look up, and what they write.

Two watchers see the same run. An audit hook in every Python process of it tells connections, look-ups and opened files
(also those of libraries in Python). strace, where it is installed and allowed, tells what the kernel was asked for, by
native code too. Where neither can see (native code without strace), the walk before and after still finds every file.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

#: Runs commands one after the other in one process, as the program would; a mark before each tells them apart. Of the
#: demo only the size is less than a user's, and of reports the number of maps.
_RUNNER = """
import json, os, sys
from pathlib import Path

def mark(number):
    try:
        os.open(f"/histomix-watched/{number}", os.O_RDONLY)
    except FileNotFoundError:
        pass

def small_demo():
    from functools import partial
    import histomix.datasets, histomix.evaluation, histomix.heads
    phantom = histomix.datasets.make_phantom
    small = dict(donors=3, sections_per_donor=1, size_um=(560, 560))
    histomix.datasets.make_phantom = lambda folder, **more: phantom(folder, **{**more, **small})
    histomix.evaluation.evaluate = partial(histomix.evaluation.evaluate, heads=("ridge",), nuclei=False)
    histomix.heads.train = partial(histomix.heads.train, head="ridge")

def few_pictures():
    import histomix.report.sections
    histomix.report.sections._MOST_PAIRS = 1

def run():
    plan = json.loads(Path(sys.argv[1]).read_text())
    codes = []
    if plan["script"]:
        mark(0)
        exec(plan["script"], {"__name__": "script"})
        codes.append(0)
    for number, words in enumerate(plan["commands"]):
        from histomix.cli import main

        mark(number)
        sys.argv = ["histomix", *words]
        if words[0] == "demo":
            small_demo()
        if words[0] in ("demo", "report"):
            few_pictures()
        try:
            main()
            codes.append(0)
        except SystemExit as end:
            codes.append(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    mark(len(codes))
    Path(plan["codes"]).write_text(json.dumps(codes))

if __name__ == "__main__":
    run()
"""

#: Loaded by every Python process of a run before anything else.
_HOOK = """
import json, os, sys

_log = os.open(os.environ["HISTOMIX_WATCH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def _path(value):
    return None if isinstance(value, int) else os.path.abspath(os.fsdecode(value))

def _told(kind, value):
    os.write(_log, (json.dumps([kind, value]) + "\\n").encode())

def _hook(event, args):
    try:
        if event == "open":
            path = _path(args[0])
            if path is not None and path.startswith("/histomix-watched/"):
                _told("mark", path.rpartition("/")[2])
            elif path is not None and isinstance(args[2], int) and args[2] & _WRITES:
                _told("write", path)
        elif event in ("socket.connect", "socket.bind", "socket.sendto"):
            if isinstance(args[1], tuple):
                _told("bind" if event == "socket.bind" else "connect", str(args[1][0]))
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            host = args[0]
            _told("look up", host.decode() if isinstance(host, bytes) else str(host or ""))
        elif event in ("os.mkdir", "os.truncate"):
            if (path := _path(args[0])) is not None:  # a handle was opened by its path before
                _told("write", path)
        elif event in ("os.rename", "os.link", "os.symlink"):
            _told("write", _path(args[1]))
    except (ValueError, OSError, TypeError):
        _told("unreadable", event)

sys.addaudithook(_hook)
"""

_CALLS = (
    "connect,sendto,sendmsg,sendmmsg,bind,open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,"
    "linkat,symlink,symlinkat,mknod,mknodat,truncate"
)
_WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_DEVICES = ("/dev/null", "/dev/tty", "/dev/urandom", "/proc/self/", "/dev/shm/sem.", "/dev/pts/", "/dev/nvidia")


@dataclass
class Seen:
    """What one command did."""

    code: int = 0
    connected: set[str] = field(default_factory=set)
    listened: set[str] = field(default_factory=set)
    looked_up: set[str] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)

    def beyond_loopback(self) -> set[str]:
        """Addresses and names that are not of this machine."""
        return {host for host in self.connected | self.looked_up | self.listened if not _is_loopback(host)}

    def outside(self, *allowed: Path) -> set[Path]:
        """What was written elsewhere than in some folders, and is no device."""
        return {
            path
            for path in self.written
            if not any(path.is_relative_to(folder) for folder in allowed) and not str(path).startswith(_DEVICES)
        }


@dataclass
class Scratch:
    """Fresh folders that a run takes for the user's own."""

    root: Path
    home: Path
    tmp: Path
    cwd: Path

    @classmethod
    def made(cls, root: Path) -> Scratch:
        """Folders below one."""
        found = cls(root, root / "home", root / "tmp", root / "cwd")
        for folder in (found.home, found.tmp, found.cwd):
            folder.mkdir(parents=True)
        return found

    @property
    def cache(self) -> Path:
        """Where the cache is then."""
        return self.home / ".cache" / "histomix"

    def files(self) -> set[Path]:
        """All that is in them now, folders too."""
        return {path for folder in (self.home, self.tmp, self.cwd) for path in folder.rglob("*")}


@cache
def strace() -> str | None:
    """The program, where it may trace here."""
    found = shutil.which("strace")
    works = found and subprocess.run([found, "-f", "-qq", "-e", "trace=none", "true"], capture_output=True).returncode
    return found if works == 0 else None


def watch(
    scratch: Scratch, commands: Sequence[Sequence[object]] = (), script: str = "", **environment: str
) -> list[Seen]:
    """Run commands as the program does, and tell what each did; strace watches too where it is at hand.

    Parameters
    ----------
    scratch
        Home, temporary and current folder of the run.
    commands
        Words after ``histomix``.
    script
        Python to run in their place.
    environment
        Variables beside those that a process needs at least.
    """
    plan, codes, log, trace = (scratch.root / name for name in ("plan.json", "codes.json", "audit.jsonl", "strace.txt"))
    words = [[str(word) for word in command] for command in commands]
    plan.write_text(json.dumps({"commands": words, "script": script, "codes": str(codes)}))
    hook = scratch.root / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_HOOK)
    (hook / "runner.py").write_text(_RUNNER)
    source = str(Path(__file__).parents[1] / "src")
    least = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join([str(hook), source]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(scratch.home),
        "TMPDIR": str(scratch.tmp),
        "HISTOMIX_WATCH": str(log),
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ},
    }
    command = [sys.executable, str(hook / "runner.py"), str(plan)]
    if tracer := strace():
        options = ["-f", "-qq", "-y", "-s", "4096", "--seccomp-bpf", "-e", f"trace={_CALLS}", "-e", "signal=none"]
        command = [tracer, *options, "-o", str(trace), *command]
    ended = subprocess.run(command, env={**least, **environment}, cwd=scratch.cwd, capture_output=True, text=True)
    if not codes.is_file():
        raise RuntimeError(f"the watched run ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    found = [Seen(code) for code in json.loads(codes.read_text())]
    everything = [Seen(), *found, Seen()]  # before the first mark, and after the last
    _take_audit(log, everything)
    if tracer:
        _take_trace(trace, everything)
    found[0] = _joined(everything[0], found[0])
    found[-1] = _joined(found[-1], everything[-1])
    for seen in found:
        seen.written = {path for path in seen.written if path not in (log, codes, plan)}
    scratch.root.joinpath("said.txt").write_text(ended.stdout + ended.stderr)
    return found


def _joined(one: Seen, other: Seen) -> Seen:
    return Seen(
        one.code or other.code,
        one.connected | other.connected,
        one.listened | other.listened,
        one.looked_up | other.looked_up,
        one.written | other.written,
    )


def _take_audit(log: Path, seen: list[Seen]) -> None:
    current = seen[0]
    for kind, value in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        if kind == "mark":
            current = seen[int(value) + 1]
        elif kind == "unreadable":
            raise RuntimeError(f"the audit hook cannot read the event {value}")
        elif kind == "write":
            current.written.add(Path(value))
        else:
            {"connect": current.connected, "bind": current.listened, "look up": current.looked_up}[kind].add(value)


def _take_trace(trace: Path, seen: list[Seen]) -> None:
    current = seen[0]
    unfinished: dict[str, str] = {}
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            unfinished[pid] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            call = unfinished.pop(pid, "") + resumed[1]
        if mark := re.search(r'"/histomix-watched/(\d+)"', call):
            current = seen[int(mark[1]) + 1]
            continue
        name = call.partition("(")[0]
        if found := re.search(r'inet_addr\("([\d.]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', call):
            address = found[1] or found[2]
            (current.listened if name == "bind" else current.connected).add(address)
        elif name not in ("connect", "bind", "sendto", "sendmsg", "sendmmsg"):
            failed = re.search(r"\)\s+= -1 ", call)
            if not failed and (_WRITING.search(call) or not name.startswith("open")):
                current.written |= _paths(name, call)


def _paths(name: str, call: str) -> set[Path]:
    """The paths that a call wrote: of those with two, the second."""
    positions = re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', call)
    if not positions:
        return set()
    folder, path = positions[-1] if name.startswith(("rename", "link", "symlink")) else positions[0]
    if not folder and not path.startswith("/"):
        return set()  # relative, without a folder: the audit hook and the walk see it
    return {Path(os.path.normpath(Path(folder) / path))}


def _is_loopback(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
