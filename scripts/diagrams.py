"""Draw the diagrams of the docs as SVG, from the boxes and arrows in diagrams.yaml.

Usage: python scripts/diagrams.py [--check]

They have no fonts or scripts of their own and follow the reader's light or dark scheme. ``--check`` says which of
docs/diagrams/*.svg are not what this draws.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DRAWN = ROOT / "docs" / "diagrams"
_WIDE, _ACROSS, _LINE, _PAD, _EDGE = 208, 268, 18, 12, 20
#: Kinds of boxes: what a user brings, what the program does, what comes out, and what must stay where it is.
_STYLE = """
.panel{fill:#fbfbfd}.box{fill:#fff;stroke:#8d939f;stroke-width:1.3}.in{fill:#e8f1fb;stroke:#3d6fa5}
.do{fill:#f0e8fa;stroke:#7b4bb3}.out{fill:#e6f4ea;stroke:#3c8154}.stay{fill:#fdf0e3;stroke:#a8672a}
.group{fill:none;stroke:#8d939f;stroke-dasharray:6 5;stroke-width:1.3}text{fill:#22252a;font:13px system-ui,sans-serif}
.name{font-weight:650}.quiet{fill:#5d636c;font-size:12px}.arrow{fill:none;stroke:#5d636c;stroke-width:1.6}.head{fill:#5d636c}
@media(prefers-color-scheme:dark){.panel{fill:#1d1f26}.box{fill:#262933;stroke:#868c98}.in{fill:#1d3148;stroke:#6ea3da}
.do{fill:#33264a;stroke:#b48ae6}.out{fill:#1d3a28;stroke:#6dbd88}.stay{fill:#43301c;stroke:#dc9f5d}text{fill:#e9e8ee}
.quiet{fill:#b3b7c1}.arrow{stroke:#b3b7c1}.head{fill:#b3b7c1}}
""".replace("\n", "")


def svg(facts: dict[str, Any]) -> str:
    """One diagram: rows of boxes, arrows between them, and frames around some of them."""
    rows = facts["rows"]
    tall = [_PAD * 2 + _LINE * max(len(box["text"]) for box in row.values()) - 4 for row in rows]
    tops, places, y = [], {}, _EDGE + (14 if facts.get("frames") else 0)
    for row, high in zip(rows, tall, strict=True):
        tops.append(y)
        for column, (name, box) in enumerate(row.items()):
            places[name] = (_EDGE + 14 + _ACROSS * box.get("column", column), y, high)
        y += high + facts.get("gap", 54)
    width = max(x for x, _, _ in places.values()) + _WIDE + _EDGE + 14
    height = y - facts.get("gap", 54) + _EDGE + (10 if facts.get("frames") else 0)
    title = escape(facts["title"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}">',
        f'<title>{title}</title><style>{_STYLE}</style><rect class="panel" width="{width}" height="{height}" rx="10"/>',
        *(_frame(words, [places[name] for name in names]) for words, names in facts.get("frames", {}).items()),
        *(_arrow(places, *arrow) for arrow in facts.get("arrows", [])),
        *(_box(places[name], box) for row in rows for name, box in row.items()),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _box(place: tuple[float, float, float], box: dict[str, Any]) -> str:
    x, y, high = place
    lines = [
        f'<text class="{"name" if number == 0 else "quiet"}" x="{x + _PAD}" y="{y + _PAD + 12 + _LINE * number}">'
        f"{escape(words)}</text>"
        for number, words in enumerate(box["text"])
    ]
    kind = box.get("kind", "")
    return f'<rect class="box {kind}" x="{x}" y="{y}" width="{_WIDE}" height="{high}" rx="8"/>{"".join(lines)}'


def _frame(words: str, inside: list[tuple[float, float, float]]) -> str:
    left, top = min(x for x, _, _ in inside) - 12, min(y for _, y, _ in inside) - 24
    right = max(x for x, _, _ in inside) + _WIDE + 12
    bottom = max(y + high for _, y, high in inside) + 12
    label = f'<text class="quiet" x="{left + 10}" y="{top + 16}">{escape(words)}</text>'
    return f'<rect class="group" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" rx="10"/>{label}'


def _arrow(places: dict[str, tuple[float, float, float]], start: str, end: str, words: str = "") -> str:
    (x0, y0, high0), (x1, y1, high1) = places[start], places[end]
    if abs(y0 - y1) < 1:  # along the row
        right = x1 > x0
        a, b = (x0 + _WIDE * right, y0 + high0 / 2), (x1 + _WIDE * (not right), y1 + high1 / 2)
        tip = 7 if right else -7
        head = f"{b[0]},{b[1]} {b[0] - tip},{b[1] - 4.5} {b[0] - tip},{b[1] + 4.5}"
        place, anchor = ((a[0] + b[0]) / 2, a[1] - 7), "middle"
    else:
        down = y1 > y0
        a, b = (x0 + _WIDE / 2, y0 + high0 * down), (x1 + _WIDE / 2, y1 + high1 * (not down))
        tip = 7 if down else -7
        head = f"{b[0]},{b[1]} {b[0] - 4.5},{b[1] - tip} {b[0] + 4.5},{b[1] - tip}"
        place, anchor = ((a[0] + b[0]) / 2 + 8, (a[1] + b[1]) / 2 + 4), "start"
    line = f'<path class="arrow" d="M{a[0]},{a[1]}L{b[0]},{b[1]}"/><polygon class="head" points="{head}"/>'
    if not words:
        return line
    return f'{line}<text class="quiet" x="{place[0]}" y="{place[1]}" text-anchor="{anchor}">{escape(words)}</text>'


def main(arguments: list[str]) -> int:
    """Draw all, or say what is out of date."""
    facts = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    drawn = {f"{name}.svg": svg(one) for name, one in facts.items()}
    if arguments == ["--check"]:
        there = {path.name: path.read_text(encoding="utf-8") for path in DRAWN.glob("*.svg")}
        wrong = sorted(name for name in drawn.keys() | there.keys() if drawn.get(name) != there.get(name))
        if wrong:
            print(f"not what is drawn now: {', '.join(wrong)}: python scripts/diagrams.py", file=sys.stderr)
        return bool(wrong)
    DRAWN.mkdir(exist_ok=True)
    for name, text in drawn.items():
        (DRAWN / name).write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
