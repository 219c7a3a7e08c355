"""Bar and line plots as small SVG files."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 200, 44, 48
_HEIGHT = 320
_COLOURS = ("#0b6e99", "#c2571a", "#4b8b3b", "#7a4fa3", "#8a6d00")
_STYLE = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:14px}.g{stroke:#ddd}.a{stroke:#888}"

Series = Sequence[tuple[float, float]]


def draw_bars(title: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """A horizontal bar for the ratio of each figure, with a line from its lowest to its highest round."""
    row, left = 40, 20
    width = WIDTH - left - 90
    highest = max(1.0, *(figure["highest"] for figure in figures))
    scale = width / highest
    parts = [_render_text(left, 24, title, "t")]
    for number, figure in enumerate(figures):
        y = _TOP + number * row
        parts.append(_render_text(left, y + 10, f"{figure['subject']}, against {figure['baseline']}"))
        parts.append(
            f'<rect x="{left}" y="{y + 15}" width="{figure["ratio"] * scale:.1f}" height="12" fill="{_COLOURS[0]}"/>'
        )
        low, high = (left + figure[name] * scale for name in ("lowest", "highest"))
        parts.append(f'<path d="M{low:.1f} {y + 21}H{high:.1f}" stroke="#222" stroke-width="1.5"/>')
        parts.append(
            _render_text(left + max(figure["ratio"], figure["highest"]) * scale + 8, y + 25, f"{figure['ratio']:g}")
        )
    bottom = _TOP + len(figures) * row
    ratio_1_x = left + scale
    parts.append(f'<path d="M{ratio_1_x:.1f} {_TOP}V{bottom}" stroke="#888" stroke-dasharray="3 3"/>')
    return _render_svg(bottom + 12, parts)


def draw_lines(
    title: str, x_title: str, y_title: str, series: Mapping[str, Series], *, logarithmic: bool = False
) -> str:
    """A line for each series. The vertical axis begins at 0; `logarithmic` is about the horizontal axis."""
    points = [point for line in series.values() for point in line]
    scale_x = math.log10 if logarithmic else float
    xs = [scale_x(x) for x, _ in points]
    low, high = min(xs), max(xs)
    y_max = _round_up(max(y for _, y in points))

    def x_position(x: float) -> float:
        return _LEFT + (scale_x(x) - low) / ((high - low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def y_position(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / y_max * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_render_text(_LEFT, 24, title, "t")]
    for step in range(5):
        y = y_max * step / 4
        parts.append(f'<path class="g" d="M{_LEFT} {y_position(y):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_render_text(_LEFT - 8, y_position(y) + 4, f"{y:g}", anchor="end"))
    ticks = sorted({x for x, _ in points})
    ticks = ticks if len(ticks) <= 6 else [ticks[round(n * (len(ticks) - 1) / 5)] for n in range(6)]
    parts += [
        _render_text(x_position(x), _HEIGHT - _BOTTOM + 18, f"{x:,g}" if x < 1e6 else f"{x:,.0f}", anchor="middle")
        for x in ticks
    ]
    parts.append(f'<path class="a" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>')
    parts.append(_render_text((_LEFT + WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_title, anchor="middle"))
    parts.append(_render_text(_LEFT, _TOP - 6, y_title))
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x_position(x):.1f},{y_position(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _TOP + 16 + 20 * number
        parts.append(f'<path d="M{WIDTH - _RIGHT + 14} {y - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(_render_text(WIDTH - _RIGHT + 38, y, name))
    return _render_svg(_HEIGHT, parts)


def _round_up(value: float) -> float:
    """The next 1, 2, 2.5, 4, 5 or 8 times a power of ten, whose quarters are short numbers."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 2.5, 4, 5, 8, 10) if step * power >= value)


def _render_text(x: float, y: float, text: str, css_class: str = "", anchor: str = "start") -> str:
    cls = f' class="{css_class}"' if css_class else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{cls}>{escape(text)}</text>'


def _render_svg(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
