"""Scores with their intervals as small drawings (SVG) that follow the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

#: Width and height of a drawing beside a row, px.
WIDTH, HEIGHT = 300, 26
_PAD = 8


class Axis:
    """A common scale for the drawings of one table, with round ends and ticks.

    Parameters
    ----------
    values
        Everything that has to fit; what is not finite is left out.
    """

    def __init__(self, values: Sequence[float | None]) -> None:
        known = [float(value) for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
        low, high = min([*known, 0.0]), max([*known, 0.0])
        step = _step((high - low) or 1.0)
        self.low, self.high = math.floor(low / step) * step, math.ceil(high / step) * step
        if self.high - self.low < step:
            self.high = self.low + step
        count = round((self.high - self.low) / step)
        self.ticks = [self.low + step * place for place in range(count + 1)]

    def at(self, value: float) -> float:
        """Place of a value, px."""
        fraction = (value - self.low) / (self.high - self.low)
        return round(_PAD + fraction * (WIDTH - 2 * _PAD), 1)

    def header(self) -> Markup:
        """The scale, for the head of the column."""
        marks = "".join(
            f'<text x="{self.at(tick)}" y="16" text-anchor="middle">{_tick(tick)}</text>' for tick in self.ticks
        )
        return _svg(f'<g class="ticks">{marks}</g>', "scale")

    def row(self, value: float | None, low: float | None, high: float | None, *, strong: bool, words: str) -> Markup:
        """One score with its interval; ``words`` are read to those who do not see it."""
        middle = HEIGHT / 2
        parts = [
            f'<line class="grid{" zero" if abs(tick) < 1e-9 else ""}" x1="{self.at(tick)}" x2="{self.at(tick)}" y1="0" '
            f'y2="{HEIGHT}"/>'
            for tick in self.ticks
        ]
        kind = "best" if strong else "other"
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            parts.append(
                f'<line class="range {kind}" x1="{self.at(low)}" x2="{self.at(high)}" y1="{middle}" y2="{middle}"/>'
            )
        if value is not None and math.isfinite(value):
            parts.append(f'<circle class="dot {kind}" cx="{self.at(value)}" cy="{middle}" r="5"/>')
        return _svg("".join(parts), words)


def _svg(content: str, words: str) -> Markup:
    return Markup(
        f'<svg class="forest" role="img" aria-label="{escape(words, quote=True)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">{content}</svg>'
    )


def _step(span: float) -> float:
    """A round step that divides a span into two to six parts."""
    raw = span / 5
    unit = 10 ** math.floor(math.log10(raw))
    return float(next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw - 1e-12))


def _tick(value: float) -> str:
    text = f"{value:.2g}" if abs(value) >= 1e-9 else "0"
    return text.replace("-", "−").replace("0.", ".", 1) if text not in ("0",) else text
