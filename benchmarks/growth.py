"""How the verbs grow: each at three sizes, in a process of its own, with what it takes and how long it says nothing.

    python benchmarks/growth.py [--quick] [--only label,evaluate] [--sizes 3] [--json FILE]

Per verb and size: seconds, seconds of processor time, the largest memory of the process and its children (sampled
twenty times a second; of a command in a process of its own, that one's alone), what it left on disk, and the longest
time in which it told nothing (neither progress nor a remark; the loading of libraries is the first such time, and is
told apart). The exponents are those between the smallest and the largest size: processor time, memory above that of the
smallest, and disk against the items (spots, tiles or maps); 1 is in proportion. With --quick the sizes are small, and
all is done in two minutes on two quiet cores. Prints Markdown.

Inputs are generated: counts of `made_sections.py`, features drawn from normal distributions that labels depend on, a
phantom for what looks at pixels, and maps of random compositions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

Run = Callable[[], object]
#: Sizes of each verb: what is counted, quick sizes, and those of real cohorts.
SIZES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "label": ("spots", (300, 600, 1200), (2000, 8000, 32_000)),
    "embed": ("spots", (30, 60, 120), (200, 800, 3200)),
    "embed again": ("spots", (30, 60, 120), (200, 800, 3200)),
    "train ridge": ("spots", (1000, 2000, 4000), (5000, 20_000, 50_000)),
    "train mlp": ("spots", (500, 1000, 2000), (5000, 20_000, 50_000)),
    "train knn": ("spots", (1000, 2000, 4000), (5000, 20_000, 50_000)),
    "evaluate": ("spots", (1000, 2000, 4000), (5000, 20_000, 50_000)),
    "predict": ("tiles", (100, 400, 1600), (1600, 6400, 25_600)),
    "export": ("tiles", (400, 1600, 6400), (10_000, 40_000, 160_000)),
    "cohort": ("maps", (4, 8, 16), (40, 160, 640)),
    "head show": ("heads", (1, 1, 1), (1, 1, 1)),
}


def prepared(verb: str, size: int, folder: Path) -> Run:
    """Make what a verb reads; returns what is measured. ``folder / "out"`` is where it writes."""
    import histomix as hm

    out = folder / "out"
    told = {"progress": _silence.progress}
    if verb == "label":
        from made_sections import made_counts, made_signatures

        signatures = made_signatures(4000, 20)
        sheet = _section(folder, made_counts(size, 2000, signatures, 0))
        import pandas as pd

        table = pd.DataFrame(signatures, [f"G{gene}" for gene in range(4000)], [f"T{one}" for one in range(20)])
        return lambda: hm.label(sheet, reference=table, out=out, **told)
    if verb.startswith("embed"):
        side = 110 * math.ceil(math.sqrt(size / 2)) + 300
        sheet = hm.make_phantom(
            folder / "phantom", donors=2, sections_per_donor=1, size_um=(side, side), counts=False, progress=False
        )
        if verb == "embed again":
            hm.embed(sheet, out=out, progress=False)
        return lambda: hm.embed(sheet, out=out, **told)
    if verb.startswith("train"):
        training = _training(folder, size)
        return lambda: hm.train(*training, head=verb.split()[1], out=out, **told)
    if verb == "evaluate":
        training = _training(folder, size)
        return lambda: hm.evaluate(*training, heads=["ridge"], folds="donor", nuclei=False, out=out, **told)
    if verb == "predict":
        slide, head = _slide_and_head(folder, size)
        return lambda: hm.predict_slides([slide], head, out, **told)
    if verb == "export":
        maps = _maps(folder, 1, size, 30)
        return lambda: hm.export_maps([maps], to="csv", out=out, **told)
    if verb == "cohort":
        maps = _maps(folder, size, 400, 30)
        return lambda: hm.cohort_tables([maps], out, **told)
    if verb == "head show":
        hm.train(*_training(folder, 200), head="ridge", out=folder / "head", progress=False)
        command = [sys.executable, "-c", "from histomix.cli import main; main()", "head", "show", str(folder / "head")]
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    raise SystemExit(f"there is no verb {verb}")


def _section(folder: Path, counts: Any) -> Path:
    """A sheet of one section of counts."""
    import anndata
    import pandas as pd

    side = math.ceil(math.sqrt(counts.shape[0]))
    keys = [f"{at % side}x{at // side}" for at in range(counts.shape[0])]
    adata = anndata.AnnData(counts, obs=pd.DataFrame(index=keys))
    adata.var_names = [f"G{gene}" for gene in range(counts.shape[1])]
    adata.obsm["spatial"] = np.stack(np.divmod(np.arange(len(keys)), side), axis=1)[:, ::-1] * 100.0
    adata.write_h5ad(folder / "S.h5ad")
    (folder / "sheet.csv").write_text(f"section,donor,spots,image\nS,d,{folder / 'S.h5ad'},\n")
    return folder / "sheet.csv"


def _training(folder: Path, size: int, n_features: int = 256, n_types: int = 30) -> tuple[Any, Any, Any]:
    """A cohort of sections of 250 spots, four of a donor, its features and its labels."""
    import anndata
    import pandas as pd

    import histomix as hm
    from histomix.abundance import Abundance
    from histomix.embedding.features import build_features

    rng = np.random.default_rng(0)
    spots = min(250, max(size // 8, 25))
    names = [f"S{number}" for number in range(max(8, size // spots))]
    weights = rng.normal(size=(n_features, n_types)) / math.sqrt(n_features)
    side = math.ceil(math.sqrt(spots))
    features, labels, rows = {}, {}, ["section,donor,spots,image"]
    for number, name in enumerate(names):
        keys = [f"{at % side}x{at // side}" for at in range(spots)]
        xy = np.stack(np.divmod(np.arange(spots), side), axis=1)[:, ::-1] * 200.0 + 200.0
        X = rng.normal(size=(spots, n_features)).astype(np.float32)
        Y = np.exp(2 * X @ weights + rng.normal(size=(spots, n_types)))
        tiles = pd.DataFrame({"x_px": xy[:, 0], "y_px": xy[:, 1], "tissue": 1.0}, index=keys)
        features[name] = build_features(X, tiles, _manifest(name, spots, n_features))
        shares = pd.DataFrame(Y / Y.sum(axis=1, keepdims=True), keys, [f"T{one}" for one in range(n_types)])
        labels[name] = Abundance(shares, "proportion")
        table = anndata.AnnData(np.ones((spots, 1), dtype=np.float32), obs=pd.DataFrame(index=keys))
        table.obsm["spatial"] = xy
        table.write_h5ad(folder / f"{name}.h5ad")
        rows.append(f"{name},d{number // 4 if len(names) > 8 else number // 2},{folder / f'{name}.h5ad'},")
    (folder / "sheet.csv").write_text("\n".join(rows) + "\n")
    return hm.read_cohort(folder / "sheet.csv"), features, labels


def _manifest(section: str, spots: int, dim: int) -> dict[str, Any]:
    from histomix.embedding.identity import encoder_facts
    from histomix.encoders import load_encoder

    encoder = load_encoder("builtin", threads=1)
    return {
        "section": section,
        "identity": f"made {section}",
        "tiles": spots,
        "tile": encoder.tile_spec().to_dict(),
        "encoder": {**encoder_facts(encoder), "dim": dim},
        "dtype": "float32",
        "slide": {"file": f"{section}.tif", "mpp": 0.5, "mpp_source": "sheet", "fingerprint": f"made {section}"},
        "alignment": None,
    }


def _slide_and_head(folder: Path, tiles: int) -> tuple[Path, Path]:
    """A slide that a section of the phantom is laid out on again and again, and a ridge."""
    import tifffile

    import histomix as hm
    from histomix.slides import open_slide

    sheet = hm.make_phantom(folder / "phantom", donors=2, sections_per_donor=1, size_um=(500, 500), progress=False)
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=sheet.parent / "reference.csv", progress=False)
    features = hm.embed(cohort, progress=False)
    hm.train(cohort, features, labels, head="ridge", out=folder / "head", progress=False)
    with open_slide(cohort.rows[0].image, 0.5) as slide:
        pixels = slide.read(0, 0, slide.width_px, slide.height_px, 0.5)
    side_px = math.ceil(math.sqrt(tiles)) * 224
    times = math.ceil(side_px / min(pixels.shape[:2]))
    large = np.tile(pixels, (times, times, 1))[:side_px, :side_px]
    tifffile.imwrite(
        folder / "slide.tif",
        large,
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return folder / "slide.tif", folder / "head"


def _maps(folder: Path, count: int, tiles: int, n_types: int) -> Path:
    """Maps of random compositions, each of five fragments of tissue."""
    import anndata
    import pandas as pd

    rng, side = np.random.default_rng(0), math.ceil(math.sqrt(tiles))
    row, column = np.divmod(np.arange(tiles), side)
    xy = np.stack([column + 0.5, row + 0.5], axis=1) * 224.0
    for number in range(count):
        values = rng.dirichlet(np.full(n_types, 0.3), tiles).astype(np.float32)
        obs = pd.DataFrame(
            {
                "x_px": xy[:, 0],
                "y_px": xy[:, 1],
                "tissue": 1.0,
                "novelty": np.float32(0.5),
                "in_scope": True,
                "read_ok": True,
                "fragment": np.arange(tiles) * 5 // tiles + 1,
            },
            index=[f"{c}x{r}" for c, r in zip(column, row, strict=True)],
        )
        table = anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"T{one}" for one in range(n_types)]))
        table.obsm["spatial"] = xy
        facts = {
            "slide": {"mpp": 0.5, "bounds_px": [0, 0], "fingerprint": "made"},
            "places": "grid",
            "cell_px": 224.0,
            "unit": "proportion",
        }
        table.uns["manifest"] = json.dumps({**facts, "head": {"digest": "made"}})
        (folder / "maps" / f"M{number}").mkdir(parents=True)
        table.write_h5ad(folder / "maps" / f"M{number}" / "composition.h5ad")
    return folder / "maps"


class Silence(logging.Handler):
    """The longest time between two things that were told, and after which of them it came."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.begin()

    def begin(self) -> None:
        self.last, self.after = time.perf_counter(), "the start"
        self.longest, self.longest_after = 0.0, ""

    def told(self, what: str) -> None:
        now = time.perf_counter()
        if now - self.last > self.longest:
            self.longest, self.longest_after = now - self.last, self.after
        self.last, self.after = now, what

    def progress(self, task: str, done: int, total: int) -> None:
        self.told(f"{task} {done}/{total}")

    def emit(self, record: logging.LogRecord) -> None:
        self.told(f"remark {record.getMessage()[:30]}")


_silence = Silence()


@contextlib.contextmanager
def peak_of_tree(found: dict[str, float], children_only: bool = False) -> Iterator[None]:
    """The largest memory of this process and its children while a block runs, in MiB, beside what there was before."""
    over, me = threading.Event(), psutil.Process()
    found["before"] = 0.0 if children_only else me.memory_info().rss / 2**20

    def watch() -> None:
        while not over.wait(0.05):
            total = 0
            for process in (*([] if children_only else [me]), *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            found["peak"] = max(found.get("peak", found["before"]), total / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(verb: str, size: int) -> dict[str, Any]:
    """Run one verb at one size in this process."""
    logging.getLogger("histomix").setLevel(logging.INFO)
    logging.getLogger("histomix").addHandler(_silence)
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        run = prepared(verb, size, Path(place))
        before = os.times()
        _silence.begin()
        start = time.perf_counter()
        # A command of its own has a memory of its own.
        with peak_of_tree(memory, children_only=verb == "head show"):
            run()
        seconds, after = time.perf_counter() - start, os.times()
        _silence.told("the end")
        out = Path(place) / "out"
        disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if out.exists() else 0
    used = sum(getattr(after, name) - getattr(before, name) for name in ("user", "system", "children_user"))
    return {
        "seconds": seconds,
        "processor": used,
        "peak": memory.get("peak", memory["before"]),
        "disk": disk / 2**20,
        "silence": _silence.longest,
        "silent_after": _silence.longest_after,
    }


def exponent(sizes: tuple[int, ...], values: list[float]) -> float | None:
    """Of growth between the smallest and the largest; None where nothing grew."""
    if sizes[-1] == sizes[0] or min(values[0], values[-1]) <= 0:
        return None
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", help="verbs, with commas between")
    parser.add_argument("--sizes", type=int, default=3, help="only the first so many sizes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", nargs=2, metavar=("VERB", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    columns = ("verb", "items", "s", "processor s", "peak, MiB", "disk, MiB", "longest silence, s (after)", "exponents")
    print(f"| {' | '.join(columns)} (time, disk) |\n{'|---' * len(columns)}|")
    figures: dict[str, list[dict[str, Any]]] = {}
    for verb in arguments.only.split(",") if arguments.only else SIZES:
        what, quick, real = SIZES[verb]
        sizes = (quick if arguments.quick else real)[: arguments.sizes]
        for size in dict.fromkeys(sizes):
            command = [sys.executable, __file__, "--one", verb, str(size)]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"{verb} at {size:,} {what} failed:\n{ran.stderr}")
            found = json.loads(ran.stdout.splitlines()[-1])
            figures.setdefault(verb, []).append({"size": size, **found})
            grown = ""
            if size == sizes[-1] and len(set(sizes)) > 1:
                powers = (exponent(sizes, [one[key] for one in figures[verb]]) for key in ("processor", "disk"))
                grown = ", ".join("-" if power is None else f"{power:.2f}" for power in powers)
            cost = f"{found['seconds']:.1f} | {found['processor']:.1f} | {found['peak']:.0f} | {found['disk']:.1f}"
            silent = f"{found['silence']:.1f} ({found['silent_after']})"
            print(f"| {verb} | {size:,} {what} | {cost} | {silent} | {grown} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
