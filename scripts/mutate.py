"""Break the code in small ways and see whether its tests notice: ``python scripts/mutate.py metrics``.

Every mutant is one change of one operator, number, condition, entry or answer. It lives in memory only, in a process of
its own that is forked from one in which the tests of `TARGETS` have been collected, and runs them until one fails; no
file is changed. What is printed are the survivors, which no test noticed: each asks for a test, or for a line in
docs/development/tests.md that says why it changes nothing.

Needs a system that can fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import ast
import copy
import inspect
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "histomix"


@dataclass(frozen=True)
class Target:
    """Files of ``src/histomix`` and what pytest is to run for them; ``within`` keeps to some functions and classes."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    within: tuple[str, ...] = ()


TARGETS = {
    "metrics": Target(("common/metrics.py",), ("tests/test_metrics.py",)),
    "intervals": Target(("heads/trust/intervals.py", "heads/trust/quantiles.py"), ("tests/test_calibration.py",)),
    "pitch": Target(
        ("common/geometry/pitch.py", "common/geometry/toroidal_null.py"),
        ("tests/test_alignment.py", "tests/test_spatial.py", "-k", "test_pitch or a_shift_"),
    ),
    "polygons": Target(
        ("common/geometry/polygons.py",),
        (
            "tests/test_polygons.py",
            "tests/test_slide_maps.py",
            "tests/test_spatial.py",
            "-k",
            "regions_are or an_edge or geojson or polygons",
        ),
    ),
    "folds": Target(
        ("evaluation/folds.py", "heads/inner_folds.py"),
        (
            "tests/test_evaluation.py",
            "tests/test_heads.py",
            "-k",
            "every_row or folds_ or inner_groups_are or next_to_nothing or contiguous",
        ),
        within=("make_folds", "_spread", "_folds", "inner_folds", "inner_groups", "inner_splits"),
    ),
    "keys": Target(
        ("provenance.py", "embedding/identity.py", "embedding/storage.py", "prediction/job.py", "prediction/chunks.py"),
        (
            "tests/test_provenance.py",
            "tests/test_embedding.py",
            "tests/test_slide_runs.py",
            "-k",
            "provenance or identity or shard or the_key or difference",
        ),
        within=(
            *("digest_file", "digest_bytes", "digest_json", "fingerprint", "atomic_path"),
            *("features_identity", "encoder_identity", "encoder_differences"),
            *("Shards", "Settings", "features_key"),
        ),
    ),
}
#: A mutant that takes so many times as much of a processor as the tests did without it, and some seconds, is stopped.
PATIENCE, MORE_S = 4.0, 5.0

SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}


@dataclass(frozen=True)
class Mutant:
    """One change: where, what it was and what it became, and the whole module with it."""

    file: str
    line: int
    before: str
    after: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.before}  ->  {self.after}"


def mutants(file: str, within: Sequence[str] = ()) -> Iterator[Mutant]:
    """All mutants of a file, in the order of its lines."""
    tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
    for path in _places(tree, (), within):
        node = _at(tree, path)
        for changed in _changes(node):
            whole = copy.deepcopy(tree)
            parent, (field, number) = _at(whole, path[:-1]), path[-1]
            if number is None:
                setattr(parent, field, changed)
            else:
                getattr(parent, field)[number] = changed
            ast.fix_missing_locations(whole)
            yield Mutant(file, getattr(node, "lineno", 0), _text(node), _text(changed), whole)


Step = tuple[str, int | None]


def _places(node: ast.AST, path: tuple[Step, ...], within: Sequence[str]) -> Iterator[tuple[Step, ...]]:
    """Paths from a node to all below it whose change could matter to a test."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for number, child in children:
            if not isinstance(child, ast.AST) or _is_words(child):
                continue
            here = (*path, (field, number))
            named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            if named and within:
                if getattr(child, "name", "") in within:
                    yield from _places(child, here, ())
                continue
            if not within or not isinstance(node, ast.Module):
                yield here
                yield from _places(child, here, within)


def _is_words(node: ast.AST) -> bool:
    """Imports, docstrings, and what errors say."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.JoinedStr)):
        return True
    if isinstance(node, ast.If) and _text(node.test) == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _at(tree: ast.AST, path: Sequence[Step]) -> Any:
    node: Any = tree
    for field, number in path:
        node = getattr(node, field) if number is None else getattr(node, field)[number]
    return node


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What one node may become."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in SWAPS.get(type(operator), ()):
                yield _with(node, ops=[other()])
        case ast.BoolOp() | ast.BinOp() | ast.AugAssign():
            for other in SWAPS.get(type(node.op), ()):
                yield _with(node, op=other())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield _with(node, value=not value)
        case ast.Constant(value=int() | float() as value):
            yield _with(node, value=value + 1)
            if isinstance(value, int):
                yield _with(node, value=value - 1)
            elif value:
                yield _with(node, value=value * 2)
        case ast.Return(value=ast.expr() as value) if _text(value) != "None":
            yield _with(node, value=ast.Constant(None))
        case ast.Dict() if len(node.keys) > 1 and not all(_is_text(one) for one in node.values):
            for number in range(len(node.keys)):
                yield _with(node, keys=_without(node.keys, number), values=_without(node.values, number))
        case ast.Tuple(elts=[_, _, *_]) | ast.List(elts=[_, _, *_]) if isinstance(node.ctx, ast.Load):
            if all(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in node.elts):
                for number in range(len(node.elts)):
                    yield _with(node, elts=_without(node.elts, number))
        case ast.IfExp():
            yield node.body
            yield node.orelse


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, (ast.Constant, ast.JoinedStr))


def _with(node: ast.AST, **changes: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _without(items: Sequence[Any], number: int) -> list[Any]:
    return [*items[:number], *items[number + 1 :]]


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-35:]}"


def apply(mutant: Mutant) -> None:
    """Give the imported module the code of a mutant; functions keep their identity, whoever has imported them."""
    name = "histomix." + mutant.file.removesuffix(".py").replace("/", ".")
    module = sys.modules[name]
    scratch = {key: getattr(module, key) for key in ("__name__", "__package__", "__file__", "__spec__")}
    # A dataclass looks for its module there.
    exec(compile(mutant.tree, str(SOURCE / mutant.file), "exec", dont_inherit=True), scratch)
    others = [other for key, other in list(sys.modules.items()) if key.startswith(("histomix", "tests"))]
    for key, value in scratch.items():
        before = getattr(module, key, None)
        if key.startswith("__") or before is None:
            continue
        if isinstance(value, type):
            if value.__module__ == name:
                for part, changed in vars(value).items():
                    _replace(vars(before).get(part), changed)
        elif callable(value):
            if getattr(value, "__module__", None) == name:
                _replace(before, value)
        elif isinstance(value, (int, float, str, tuple, frozenset, dict)) and value != before:
            for other in others:
                if getattr(other, key, None) is before:
                    setattr(other, key, value)


def _replace(before: Any, changed: Any) -> None:
    """Put the code and the defaults of one function in the place of another's, under what wraps them."""
    if isinstance(changed, property):
        before, changed = getattr(before, "fget", None), changed.fget
    before, changed = (
        inspect.unwrap(getattr(one, "__func__", one)) if one is not None else one for one in (before, changed)
    )
    if isinstance(before, FunctionType) and isinstance(changed, FunctionType):
        if before.__code__.co_freevars == changed.__code__.co_freevars:
            before.__code__ = changed.__code__
        before.__defaults__, before.__kwdefaults__ = changed.__defaults__, changed.__kwdefaults__


class Runner:
    """A pytest plugin that runs the collected tests once for each mutant, each time in a process of its own.

    Attributes
    ----------
    results
        For each mutant ``"survived"``, ``"killed"`` or ``"stopped"`` (it took too long).
    """

    def __init__(self, found: Sequence[Mutant]) -> None:
        self.found = found
        self.results: list[str] = []
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            times = Path(folder) / "times.json"
            plain, used_s = self._run(session, None, 600.0, times)
            if plain != "survived" or not session.items:
                pytest.exit(f"the tests do not pass without any change ({plain})", 3)
            seconds = json.loads(times.read_text())
        # The quickest test that notices spares the others.
        session.items.sort(key=lambda item: seconds[item.nodeid])
        for mutant in self.found:
            result, _ = self._run(session, mutant, PATIENCE * used_s + MORE_S)
            self.results.append(result)
            if result != "killed":
                print(f"{result}: {mutant}", flush=True)
        return True

    def _run(
        self, session: pytest.Session, mutant: Mutant | None, limit_s: float, times: Path | None = None
    ) -> tuple[str, float]:
        """What became of the tests, and the processor's seconds that they took."""
        child = os.fork()
        if child == 0:
            code = 1  # whatever goes wrong is noticed
            try:
                session.config.pluginmanager.unregister(name="terminalreporter")
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), math.ceil(limit_s) + 1))
                if mutant is not None:
                    apply(mutant)
                items = session.items
                for item, following in zip(items, [*items[1:], None], strict=True):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    if session.testsfailed:
                        break
                else:
                    code = 0
                if times is not None:
                    times.write_text(json.dumps(self._seconds))
            finally:
                os._exit(code)
        _, status, usage = os.wait4(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        result = {0: "survived", -signal.SIGXCPU: "stopped", -signal.SIGKILL: "stopped"}.get(ended, "killed")
        return result, usage.ru_utime + usage.ru_stime


def main() -> int:
    """Run the targets; 1 where a mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--most", type=int, default=250, help="mutants at most, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", help="only mutants of these lines, as in 20-40")
    options = parser.parse_args()
    target = TARGETS[options.target]
    found = [mutant for file in target.files for mutant in mutants(file, target.within)]
    if options.lines:
        first, _, last = options.lines.partition("-")
        found = [mutant for mutant in found if int(first) <= mutant.line <= int(last or first)]
    total = len(found)
    if total > options.most:
        chosen = sorted(random.Random(options.seed).sample(range(total), options.most))
        found = [found[number] for number in chosen]
    os.chdir(ROOT)
    os.environ.pop("HISTOMIX_DATA", None)
    sys.path.insert(0, str(SOURCE.parent))
    runner, before = Runner(found), time.monotonic()
    code = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", *target.tests], plugins=[runner])
    if code == 3 or not runner.results:
        return 2
    survived, stopped = (runner.results.count(result) for result in ("survived", "stopped"))
    seconds = time.monotonic() - before
    print(f"{options.target}: {survived} of {len(found)} survived, {stopped} were stopped")
    print(f"({total} in all, seed {options.seed}; {seconds:.0f} s)")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
