"""The family of errors: each is also of Python's own kind, survives a process, and is not swallowed on its way."""

from __future__ import annotations

import ast
import builtins
import copy
import errno
import importlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.cohort.clinical import read_clinical
from histomix.common.geometry.polygons import read_regions
from histomix.embedding.features import read_feature_file
from histomix.errors import (
    ClusterError,
    DownloadError,
    EncoderError,
    FeatureError,
    HeadError,
    HistomixError,
    InputError,
    LabelError,
    MapError,
    MissingExtraError,
    MissingFileError,
    SectionError,
    SheetError,
    SlideError,
    StorageError,
    UnknownNameError,
    origins,
)
from histomix.evaluation import read_evaluation, read_groups
from histomix.heads import make_estimator
from histomix.provenance import atomic_path
from histomix.spots import read_spots
from histomix.spots.formats.tenx.positions import read_scalefactors

from .conftest import Job

PACKAGE = Path(hm.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def _kinds(base: type[HistomixError] = HistomixError) -> Iterator[type[HistomixError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


KINDS = sorted({kind for kind in _kinds() if kind.__module__.startswith("histomix.")}, key=lambda kind: kind.__name__)


def made(kind: type[HistomixError]) -> HistomixError:
    """An error of a kind, with all that it can hold."""
    if issubclass(kind, SheetError):
        return kind(["row 2: no donor", "row 3: no image"], where=Path("sheet.csv"))
    if issubclass(kind, MissingExtraError):
        return kind("pyarrow", "st", "reading Parquet")
    return kind("the 'spots' lie beside the tissue", where=Path("a.svs"), hint="Turn the image")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_being_pickled(kind: type[HistomixError], protocol: int) -> None:
    error = made(kind)
    error.add_note("while it rained")
    for back in (pickle.loads(pickle.dumps(error, protocol)), copy.deepcopy(error)):  # noqa: S301
        assert type(back) is kind and str(back) == str(error) and back.args == error.args
        assert (back.what, back.where, back.hint) == (error.what, error.where, error.hint)
        for name in ("errno", "filename", "strerror", "name", "problems", "__notes__"):
            assert getattr(back, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_all_that_it_holds(kind: type[HistomixError]) -> None:
    # A KeyError would show its text quoted, and an OSError its number.
    error = made(kind)
    assert str(error).startswith(f"{error.where}: {error.what}" if error.where else error.what)
    assert str(error.hint) in str(error) and not str(error).startswith(("'", '"', "["))


def test_python_s_own_kinds() -> None:
    for kind in KINDS:
        if issubclass(kind, InputError):
            assert issubclass(kind, ValueError)
        assert kind.__name__.startswith("Missing") <= issubclass(kind, FileNotFoundError | ImportError)
        assert kind.__name__.startswith("Unknown") <= issubclass(kind, KeyError)
    assert issubclass(MissingExtraError, ImportError) and issubclass(StorageError, OSError)
    assert issubclass(DownloadError, ConnectionError) and issubclass(ClusterError, ConnectionError)
    assert not issubclass(HeadError, OSError | KeyError)
    absent = made(MissingFileError)
    assert isinstance(absent, OSError) and (absent.errno, absent.filename) == (errno.ENOENT, "a.svs")


ABSENT: dict[str, tuple[type[HistomixError], Callable[[Path], Any]]] = {
    "sheet": (SheetError, hm.read_cohort),
    "head": (HeadError, hm.load_head),
    "slide": (SlideError, lambda path: hm.open_slide(path, 0.5)),
    "spots": (SectionError, read_spots),
    "anything": (SectionError, hm.inspect_data),
    "feature": (FeatureError, read_feature_file),
    "map": (MapError, hm.CompositionMap.open),
    "labels": (LabelError, lambda path: hm.read_abundance(path / "labels.csv")),
    "weights": (EncoderError, lambda path: hm.load_encoder("uni", weights=path)),
    "card": (EncoderError, lambda path: hm.load_encoder(str(path / "card.yaml"))),
    "evaluation": (InputError, read_evaluation),
    "report": (InputError, lambda path: hm.write_report([path], path.parent / "report")),
    "regions": (InputError, read_regions),
    "clinical": (InputError, read_clinical),
}


@pytest.mark.parametrize("name", ABSENT)
def test_an_absent_file_is_a_file_not_found_error(name: str, tmp_path: Path) -> None:
    kind, open_it = ABSENT[name]
    with pytest.raises(FileNotFoundError) as caught:
        open_it(tmp_path / "none")
    assert isinstance(caught.value, kind) and isinstance(caught.value, MissingFileError) and caught.value.hint


def test_an_unknown_name_is_a_key_error(job: Job) -> None:
    for kind, ask in (
        (HeadError, lambda: make_estimator("oracle")),
        (EncoderError, lambda: hm.load_encoder("oracle")),
        (SectionError, lambda: hm.read_cohort(job.sheet).section("oracle")),
        (LabelError, lambda: hm.label(hm.read_cohort(job.sheet), method="oracle")),
    ):
        with pytest.raises(KeyError, match="oracle") as caught:
            ask()
        assert isinstance(caught.value, kind) and isinstance(caught.value, UnknownNameError)


def test_the_command_line_still_refuses_with_2(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["head", "show", str(tmp_path / "none")])
    assert found.exit_code == 2 and "Traceback" not in found.output


# A handler of one of Python's errors must not catch ours on the way: what calls raise, and what stands there to read.


def test_the_words_of_an_error_are_not_wrapped_in_others(tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("type,family\nT cells,lymphoid\n")
    with pytest.raises(InputError, match="lacks the columns") as caught:
        read_groups(groups)
    assert "cannot be read" not in str(caught.value)
    (tmp_path / "scalefactors_json.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(SectionError, match="UTF-8") as other:
        read_scalefactors(tmp_path)
    assert "JSON" not in str(other.value)


def test_a_full_disk_under_a_folder_that_is_written_is_told_once(tmp_path: Path) -> None:
    full = StorageError("the disk is full (errno = 28)", where=tmp_path / "maps" / "a.h5ad", hint="Free some space")
    with pytest.raises(StorageError) as caught, atomic_path(tmp_path / "maps"):
        raise full
    assert caught.value is full


def _within(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """Nodes of a block without those of functions that are only defined in it."""
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node
            yield from _within(list(ast.iter_child_nodes(node)))  # type: ignore[misc]


def _value(node: ast.expr | None, names: dict[str, Any]) -> tuple[type[BaseException], ...]:
    """The classes of errors that an expression names, as far as they are known outside functions."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    found: list[type[BaseException]] = []
    for part in parts:
        part = part.value if isinstance(part, ast.Starred) else part
        try:
            value = eval(compile(ast.Expression(part), "-", "eval"), {**vars(builtins), **names})  # type: ignore[arg-type]
        except (NameError, AttributeError):  # of a library that is imported where it is used
            continue
        found += value if isinstance(value, tuple) else [value]
    return tuple(found)


def _raised(node: ast.Raise, names: dict[str, Any]) -> tuple[type[BaseException], ...]:
    """The class of an error that is raised, by its name or by what its maker says that it returns."""
    call = node.exc
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return ()
    maker = names.get(call.func.id)
    maker = (
        names.get(getattr(maker, "__annotations__", {}).get("return"))
        if callable(maker) and not isinstance(maker, type)
        else maker
    )
    return (maker,) if isinstance(maker, type) and issubclass(maker, HistomixError) else ()


def _swallowed(tree: ast.Module, names: dict[str, Any]) -> Iterator[str]:
    managers = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any("contextmanager" in ast.unparse(mark) for mark in function.decorator_list)
        for node in _within(function.body)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        thrown: set[type[BaseException]] = set()
        for inner in _within(node.body):
            if isinstance(inner, ast.Raise):
                thrown |= set(_raised(inner, names))
            if isinstance(inner, ast.Yield) and node in managers:  # what the block raises comes out here
                thrown |= set(KINDS)
        for handler in node.handlers:
            kinds = _value(handler.type, names) if handler.type else (BaseException,)
            ours = tuple(kind for kind in kinds if issubclass(kind, HistomixError))
            caught = {kind for kind in thrown if issubclass(kind, ours or ())}
            theirs = {kind for kind in thrown - caught if issubclass(kind, kinds) and Exception not in kinds}
            for kind in theirs if BaseException not in kinds else ():
                yield f"line {handler.lineno}: {ast.unparse(handler).splitlines()[0]} catches {kind.__name__}"
            thrown -= caught | theirs


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_handler_of_python_s_errors_stands_in_the_way_of_ours(path: Path) -> None:
    parts = ("histomix", *path.relative_to(PACKAGE).with_suffix("").parts)
    try:
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    except MissingExtraError as error:
        pytest.skip(str(error))
    except ModuleNotFoundError as error:
        pytest.skip(f"needs an extra ({error.name} is not installed)")
    assert not list(_swallowed(ast.parse(path.read_text(encoding="utf-8")), vars(module)))


def test_the_rule_finds_what_it_should() -> None:
    raised = "try:\n    if x:\n        raise StorageError('full')\nexcept OSError:\n    pass\n"
    let = raised.replace("except OSError", "except StorageError:\n    raise\nexcept OSError")
    block = "@contextlib.contextmanager\ndef it():\n    try:\n        yield\n    except KeyError:\n        pass\n"
    names = {"StorageError": StorageError}
    assert list(_swallowed(ast.parse(raised), names)) and not list(_swallowed(ast.parse(let), names))
    assert list(_swallowed(ast.parse(block), names)) and not list(_swallowed(ast.parse(block.split("\n", 1)[1]), names))


def test_what_an_error_came_from_is_walked_once_however_it_is_tied() -> None:
    first, second, third, alone = ValueError("1"), KeyError("2"), OSError("3"), TypeError("4")
    first.__cause__, first.__context__ = second, third
    second.__context__ = first
    third.__cause__ = third
    assert list(origins(first)) == [first, second, third]
    assert list(origins(alone)) == [alone] and not list(origins(None))
