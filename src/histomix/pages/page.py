"""What every page shares: templates that escape, a policy that allows nothing foreign, and figures beside the page."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ..common.drawing import FAST_PNG, settle_layout
from ..common.palette import DARK, GROUND, INK
from ..common.words import RESEARCH_USE
from ..progress import Progress, silent

#: Of maps on the page, and of charts kept for slides and papers.
MAP_DPI, CHART_DPI = 130, 200
_LONGEST_NAME = 60
#: Pixels whose channels are closer than this are text, lines or paper, and no colour of a scale.
_NEUTRAL = 24
#: What matplotlib labels the axes of a colour bar with.
_COLOUR_BAR = "<colorbar>"
#: How much a dark page dims the glass of a slide, of 255.
_DIMMED = 46


def page_environment(room: str) -> Environment:
    """Templates of a room (``"report"``) in which every value is escaped and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader(f"histomix.{room}"),
        autoescape=select_autoescape(["html", "j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["research_use"] = RESEARCH_USE
    return environment


def content_policy(room: str, *templates: str) -> Markup:
    """The Content-Security-Policy of a page: pictures beside it, and the styles and scripts of its templates by digest.

    The digests are of the templates as they lie in the package, never of a finished page: what a hostile name smuggled
    into one, or a request to another computer, is refused by the browser (https://www.w3.org/TR/CSP3/).

    Parameters
    ----------
    room
        Whose templates they are.
    templates
        Those that hold the styles and scripts, and nothing of the user's.
    """
    environment = page_environment(room)
    text = "".join(environment.get_template(name).render() for name in templates)
    rules = ["default-src 'none'", "img-src 'self' data:", "base-uri 'none'", "form-action 'none'"]
    for name in ("style", "script"):
        parts = re.findall(rf"<{name}>(.*?)</{name}>", text, flags=re.DOTALL)
        rules += [f"{name}-src {' '.join(map(source_digest, parts))}"] if parts else []
    return Markup("; ".join(rules))


def source_digest(text: str) -> str:
    """What a policy calls a script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Drawer:
    """Saves figures beside a page under safe names.

    Parameters
    ----------
    folder
        Of the page; the figures go to ``figures/`` in it.
    total
        How many figures are expected, for ``progress``.
    progress
        Told of each.
    """

    def __init__(self, folder: Path, total: int = 0, progress: Progress = silent) -> None:
        self.folder, self.total, self.progress, self.done = folder, total, progress, 0
        (folder / "figures").mkdir()

    def picture(self, figure: Figure, *names: object) -> dict[str, str]:
        """Save a map as PNG, and what a dark page lays over it; ``{"light", "over"}: path``."""
        stem = self._stem(names)
        settle_layout(figure, MAP_DPI)
        figure.set_facecolor("white")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        Image.fromarray(drawn[..., :3]).save(self.folder / f"{stem}.png", **FAST_PNG)  # type: ignore[arg-type]
        Image.fromarray(_dark_cover(figure, drawn[..., :3])).save(self.folder / f"{stem}-over.png", optimize=True)
        self._tell()
        return {"light": f"{stem}.png", "over": f"{stem}-over.png"}

    def chart(self, figure: Figure, *names: object) -> dict[str, str]:
        """Save a chart as SVG for a light and a dark page, and as PNG; ``{"light", "dark", "png", "svg"}: path``."""
        stem = self._stem(names)
        settle_layout(figure, CHART_DPI)
        text = svg_text(figure)
        (self.folder / f"{stem}.svg").write_text(text, encoding="utf-8", errors="replace", newline="\n")
        (self.folder / f"{stem}-dark.svg").write_text(darkened(text), encoding="utf-8", errors="replace", newline="\n")
        figure.savefig(self.folder / f"{stem}.png", dpi=CHART_DPI, facecolor="white", metadata={"Software": None})
        self._tell()
        return {"light": f"{stem}.svg", "dark": f"{stem}-dark.svg", "png": f"{stem}.png", "svg": f"{stem}.svg"}

    def _stem(self, names: tuple[object, ...]) -> str:
        name = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", str(part)).strip("-") for part in names)[:_LONGEST_NAME]
        return f"figures/{self.done:03d}-{name.strip('-')}"

    def _tell(self) -> None:
        self.done += 1
        self.progress("report", self.done, max(self.total, self.done))


def _dark_cover(figure: Figure, drawn: np.ndarray) -> np.ndarray:
    """What makes a map one of a dark page when it lies over it: paper and text in its colours, and slides dimmed.

    The slides themselves are not stored twice.

    Parameters
    ----------
    figure
        The figure, drawn.
    drawn
        Its pixels, uint8 (height, width, 3).
    """
    slides, scales = np.zeros(drawn.shape[:2], bool), np.zeros(drawn.shape[:2], bool)
    for axes in figure.axes:
        left, bottom, right, top = np.round(axes.get_window_extent().extents).astype(int)
        place = slice(max(len(drawn) - top, 0), max(len(drawn) - bottom, 0)), slice(max(left, 0), max(right, 0))
        if axes.images:
            slides[place] = True
        elif axes.get_label() == _COLOUR_BAR:
            scales[place] = True
    cover = np.zeros((*slides.shape, 4), np.uint8)
    cover[slides, 3] = _DIMMED
    paper = ~slides & ~scales & (np.ptp(drawn, axis=2) < _NEUTRAL)
    ink = np.array([to_rgb(DARK[name]) for name in (GROUND, INK)]) * 255
    darkest = to_rgb(INK)[0] * 255
    amount = np.clip((255.0 - np.arange(256)) / (255.0 - darkest), 0, 1)[:, None]
    shades = (ink[0] + amount * (ink[1] - ink[0])).round().astype(np.uint8)
    cover[paper, :3] = shades[drawn[..., 0][paper]]
    cover[paper, 3] = 255
    return cover


def svg_text(figure: Figure) -> str:
    """A figure as SVG with a clear ground and text as outlines; the same figure gives the same text."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "histomix", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def darkened(svg: str) -> str:
    """The same chart in the colours of a dark page."""
    return re.sub("|".join(map(re.escape, DARK)), lambda match: DARK[match[0]], svg)
