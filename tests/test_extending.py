"""What docs/development/extending.md shows, run from top to bottom in an empty folder, each new thing then used."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix import export
from histomix.cli.app import app
from histomix.cli.export import Format as Offered
from histomix.encoders import availability, user
from histomix.errors import SectionError
from histomix.heads import HEADS
from histomix.spots import formats, sheet

PAGE = Path(__file__).parents[1] / "docs" / "development" / "extending.md"
#: First line of a block that is a file of the package, and of one that is an entry of a registry there.
FILE = re.compile(r"# src/(histomix/\S+)\.py\n")
ENTRY = re.compile(r"# in (\w+) of src/(histomix/\S+)\.py\n")


@dataclass(frozen=True)
class Walk:
    """The folder that the page was run in, and the names that each of its programs left."""

    folder: Path
    names: list[dict[str, Any]]

    def __getitem__(self, name: str) -> Any:
        return next(names[name] for names in reversed(self.names) if name in names)


def _module(path: str) -> str:
    return path.removesuffix("/__init__").replace("/", ".")


def _install(name: str, code: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have a file of the package that is not there."""
    path = folder / f"{name}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder, files = tmp_path_factory.mktemp("walk"), tmp_path_factory.mktemp("files")
    found = Walk(folder, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(user, "_registered", {})
        known = set(export.FORMATS)
        for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            if file := FILE.match(code):
                assert not (Path(hm.__file__).parents[1] / f"{file[1]}.py").exists()
                _install(_module(file[1]), code, files, patch)
            elif entry := ENTRY.match(code):
                registry = getattr(importlib.import_module(_module(entry[2])), entry[1])
                for name, value in ast.literal_eval(code[entry.end() :]).items():
                    patch.setitem(registry, name, value)
                # Made from the registry when its module is imported.
                patch.setattr(formats, "KNOWN", tuple(formats._MODULES))
                patch.setattr(sheet, "KNOWN", formats.KNOWN)
            else:
                names: dict[str, Any] = {"__name__": "walk"}
                exec(compile(code, str(PAGE), "exec"), names)
                found.names.append(names)
        yield found
        for name in set(export.FORMATS) - known:
            del export.FORMATS[name]


def test_an_encoder_of_ones_own_is_known_by_its_name_and_embeds(walk: Walk) -> None:
    assert "colour-grid" in {one.name for one in hm.cards()} and availability("colour-grid").loadable
    stored = hm.read_features(walk.folder / "features")
    for name, table in stored.items():
        section, encoder = walk["cohort"].section(name), hm.load_encoder("colour-grid")
        x, y = table.obs[["x_px", "y_px"]].to_numpy()[0]
        side = encoder.card.size_px * 2  # 1 um/px on a slide of 0.5
        with section.slide() as slide:
            tile = slide.read(round(x - side / 2), round(y - side / 2), 112, 112, 1.0)
        np.testing.assert_allclose(np.asarray(table.X[0]), encoder.embed(tile[None])[0], atol=0.02)


def test_a_format_of_spots_is_read_by_sheets_and_told_by_inspect(walk: Walk) -> None:
    first, section = walk["first"], walk["section"]
    assert list(section.keys) == list(first.keys)
    np.testing.assert_allclose(section.spots_px, first.spots_px)
    assert section.spot_diameter_um == first.spot_diameter_um
    done = CliRunner().invoke(app, ["inspect", str(walk.folder / "ours.dots.json"), "--json"])
    assert done.exit_code == 0 and "spots in JSON" in done.stdout
    damaged = walk.folder / "cut.dots.json"
    damaged.write_text((walk.folder / "ours.dots.json").read_text()[:100])
    with pytest.raises(SectionError, match="is no file of dots"):
        hm.inspect_data(damaged)


def test_a_head_is_trained_saved_and_opened_by_its_name(walk: Walk) -> None:
    assert "median" in HEADS
    head = walk["head"]
    assert head.card["head"]["kind"] == "median"
    stored = hm.read_features(walk.folder / "features")
    values = head.estimator.predict(np.asarray(next(iter(stored.values())).X))
    assert len(np.unique(values, axis=0)) == 1
    labels = np.concatenate([table.values for table in walk["labels"].values()])
    wanted = np.median(labels, axis=0)
    np.testing.assert_allclose(values[0], wanted / wanted.sum(), atol=1e-6)


def test_the_command_line_offers_every_export_of_the_package(walk: Walk) -> None:
    assert {one.value for one in Offered} == set(export.FORMATS) - {"means"}


def test_an_export_is_written_from_a_map_by_its_name(walk: Walk) -> None:
    told = json.loads(walk["written"].read_text())
    assert walk["result"].error is None and walk["written"].parent.name == "exports"
    composition = ad.read_h5ad(walk["result"].folder / "composition.h5ad")
    ok = composition.obs["read_ok"].to_numpy(bool)
    means = dict(zip(composition.var_names, np.asarray(composition.X)[ok].mean(axis=0), strict=True))
    assert told["means"] == pytest.approx(means, rel=1e-5) and told["unit"] == "proportion"
