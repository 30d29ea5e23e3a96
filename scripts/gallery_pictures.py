"""Draw docs/gallery: the lines of docs/gallery.md, in the folder of the tutorial, each figure as a small JPEG.

Usage: python scripts/gallery_pictures.py WORK [training.jpg ...]
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.pages import DOCS, Runner, blocks_of  # noqa: E402

#: A figure, its lines, and the picture below them.
_PICTURE = re.compile(r"```python\n(?P<code>[^`]*)```\n\n!\[[^\]]*\]\(gallery/(?P<name>[\w-]+\.jpg)\)")
_WIDTH_PX = 1100


def main(work: Path, *chosen: str) -> None:
    """Draw them, or those that are named."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    work.mkdir(parents=True, exist_ok=True)
    if (work / "tutorial" / "fine").is_dir():
        folder = work / "tutorial"
    else:
        runner = Runner(work.resolve())
        runner.page(DOCS / "tutorial.md", ("sh",))
        folder = runner.folder
    os.chdir(folder)
    names: dict[str, object] = {}
    exec(blocks_of(DOCS / "gallery.md")[0].text, names)
    for found in _PICTURE.finditer((DOCS / "gallery.md").read_text(encoding="utf-8")):
        if chosen and found["name"] not in chosen:
            continue
        exec(found["code"], names)
        figure = plt.gcf()
        figure.savefig("figure.png", dpi=130, bbox_inches="tight", facecolor="white")
        plt.close("all")
        picture = Image.open("figure.png").convert("RGB")
        picture.thumbnail((_WIDTH_PX, _WIDTH_PX))
        target = DOCS / "gallery" / found["name"]
        target.parent.mkdir(exist_ok=True)
        picture.save(target, quality=82, optimize=True, progressive=True)
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
