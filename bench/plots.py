"""Bar and line plots of ratios as small SVG files, each with labelled axes and its aims as dashed lines."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH = 760
"""The width of every plot. All lengths and positions are in units of the SVG file, from its upper left corner."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 100, 60, 48
_HEIGHT = 330
_BAR_LEFT, _BAR_RIGHT, _BAR_ROW = 20, 130, 58
_BAR_LEGEND = "Bar: median of the rounds. Black line: lowest to highest round. Dotted line: 1. Red line: aim."
_PLOT_RIGHT, _PLOT_BOTTOM = WIDTH - _RIGHT, _HEIGHT - _BOTTOM
_LINE_TITLE_Y, _Y_TITLE_BEFORE_AXIS, _Y_TITLE_ABOVE_PLOT = 20, 40, 12
_X_LABEL_BELOW_AXIS, _X_TITLE_ABOVE_END = 18, 10
_LEGEND_ROW, _LEGEND_TOP_MARGIN, _LEGEND_BOTTOM_MARGIN = 20, 10, 6
_TEXT_BELOW_MIDDLE = 4
"""How far the base line of a text is below the middle of its letters."""
_MAX_DOTS, _MAX_X_LABELS = 12, 6
_COLOURS = ("#0b6e99", "#c2571a", "#4b8b3b", "#7a4fa3", "#8a6d00", "#5a5a5a")
_BAR_COLOUR, _AIM_COLOUR = "#7fb3cc", "#b3261e"
_STYLE = (
    "text{font:12px sans-serif;fill:#222;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    ".t{font-weight:bold;font-size:14px}.s{fill:#666}.g{stroke:#ddd}.a{stroke:#888}"
    f".m{{fill:{_AIM_COLOUR}}}.l{{stroke:{_AIM_COLOUR};stroke-dasharray:5 3;stroke-width:1.5;fill:none}}"
)

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class AimLine:
    """A line at an aim's ratio, and its label."""

    ratio: float
    label: str


def draw_bars(title: str, axis_title: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """A horizontal bar for the ratio of each figure, with a line from its lowest to its highest round."""
    aims = [_read_aim(figure) for figure in figures]
    highest = max([1.0, *(figure["highest"] for figure in figures), *(aim.ratio for aim in aims if aim is not None)])
    axis_end = _round_up(highest)
    scale = (WIDTH - _BAR_LEFT - _BAR_RIGHT) / axis_end
    bottom = _TOP + len(figures) * _BAR_ROW
    parts = [_render_text(_BAR_LEFT, 24, title, "t")]
    for step in range(5):
        x = _BAR_LEFT + axis_end * scale * step / 4
        parts.append(f'<path class="g" d="M{x:.1f} {_TOP - 6}V{bottom}"/>')
        parts.append(_render_text(x, bottom + 16, f"{axis_end * step / 4:g}", anchor="middle"))
    parts.append(
        f'<path class="a" stroke-dasharray="2 3" d="M{_BAR_LEFT + scale:.1f} {_TOP - 6}V{bottom}"/>'
        f'<path class="a" d="M{_BAR_LEFT} {bottom}H{WIDTH - _BAR_RIGHT}"/>'
    )
    for number, (figure, aim) in enumerate(zip(figures, aims, strict=True)):
        parts += _render_bar(figure, aim, _TOP + number * _BAR_ROW, scale)
    parts.append(_render_text((_BAR_LEFT + WIDTH - _BAR_RIGHT) / 2, bottom + 36, axis_title, anchor="middle"))
    parts.append(_render_text(_BAR_LEFT, bottom + 58, _BAR_LEGEND, "s"))
    return _render_svg(bottom + 70, parts)


def _render_bar(figure: Mapping[str, Any], aim: AimLine | None, y: float, scale: float) -> list[str]:
    """A bar with its two lines of text above, its range of rounds, its aim and its ratio. `scale` is the length of
    1."""
    low, high = (_BAR_LEFT + figure[name] * scale for name in ("lowest", "highest"))
    end = max(_BAR_LEFT + figure["ratio"] * scale, high)
    parts = [
        _render_text(_BAR_LEFT + 4, y + 8, figure["subject"].replace("`", "")),
        _render_text(_BAR_LEFT + 4, y + 23, f"against {figure['baseline']}".replace("`", ""), "s"),
        f'<rect x="{_BAR_LEFT}" y="{y + 29}" width="{figure["ratio"] * scale:.1f}" height="13" fill="{_BAR_COLOUR}"/>',
        f'<path d="M{low:.1f} {y + 35.5}H{high:.1f}" stroke="#222" stroke-width="1.5"/>',
    ]
    if aim is not None:
        x = _BAR_LEFT + aim.ratio * scale
        parts.append(f'<path class="l" d="M{x:.1f} {y + 26}V{y + 45}"/>')
        end = max(end, x)
    parts.append(_render_text(end + 6, y + 40, f"{figure['ratio']:g}"))
    if aim is not None:
        parts.append(_render_text(end + 12 + 7 * len(f"{figure['ratio']:g}"), y + 40, f"({aim.label})", "m"))
    return parts


def _read_aim(figure: Mapping[str, Any]) -> AimLine | None:
    """The aim of a figure as it is stored, such as `≤ 1.1`."""
    number = re.search(r"[\d.]+", figure.get("aim", ""))
    return AimLine(float(number[0]), f"aim {figure['aim']}") if number else None


@dataclass(frozen=True, slots=True)
class _LinePlotScale:
    """The positions of values in the image of a line plot. The vertical axis begins at 0."""

    x_low: float
    x_high: float
    y_max: float
    logarithmic: bool

    @classmethod
    def covering(cls, points: Series, aims: Sequence[AimLine], *, logarithmic: bool) -> "_LinePlotScale":
        """The scale that shows all points and aims. `logarithmic` is about the horizontal axis."""
        xs = [math.log10(x) if logarithmic else x for x, _ in points]
        y_max = _round_up(max([*(y for _, y in points), *(aim.ratio for aim in aims)]))
        return cls(min(xs), max(xs), y_max, logarithmic)

    def x_position(self, value: float) -> float:
        """Where a value is on the horizontal axis, in SVG units from the left."""
        x = math.log10(value) if self.logarithmic else value
        return _LEFT + (x - self.x_low) / ((self.x_high - self.x_low) or 1) * (_PLOT_RIGHT - _LEFT)

    def y_position(self, value: float) -> float:
        """Where a value is on the vertical axis, in SVG units from the top."""
        return _PLOT_BOTTOM - value / self.y_max * (_PLOT_BOTTOM - _TOP)


def draw_lines(
    title: str,
    x_title: str,
    y_title: str,
    series: Mapping[str, Series],
    *,
    aims: Sequence[AimLine] = (),
    logarithmic: bool = False,
) -> str:
    """A line for each series. The vertical axis begins at 0; `logarithmic` is about the horizontal axis."""
    points = [point for line in series.values() for point in line]
    scale = _LinePlotScale.covering(points, aims, logarithmic=logarithmic)
    parts = [_render_text(_LEFT, _LINE_TITLE_Y, title, "t")]
    parts += _render_y_axis(scale)
    parts += _render_x_axis(scale, sorted({x for x, _ in points}))
    parts.append(_render_text((_LEFT + _PLOT_RIGHT) / 2, _HEIGHT - _X_TITLE_ABOVE_END, x_title, anchor="middle"))
    parts.append(_render_text(_LEFT - _Y_TITLE_BEFORE_AXIS, _TOP - _Y_TITLE_ABOVE_PLOT, y_title))
    for aim in aims:
        parts += _render_aim_line(scale, aim)
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _render_line(scale, line, colour)
        parts += _render_legend_entry(number, name, colour)
    return _render_svg(_HEIGHT + _LEGEND_BOTTOM_MARGIN + _LEGEND_ROW * len(series), parts)


def _render_y_axis(scale: _LinePlotScale) -> list[str]:
    """Horizontal grid lines at the quarters of the axis, each with its value."""
    parts = []
    for step in range(5):
        value = scale.y_max * step / 4
        y = scale.y_position(value)
        parts.append(f'<path class="g" d="M{_LEFT} {y:.1f}H{_PLOT_RIGHT}"/>')
        parts.append(_render_text(_LEFT - 8, y + _TEXT_BELOW_MIDDLE, f"{value:g}", anchor="end"))
    return parts


def _render_x_axis(scale: _LinePlotScale, values: Sequence[float]) -> list[str]:
    """The line of the axis, with the labels of these values, or of some of them if there are many."""
    if len(values) > _MAX_X_LABELS:
        last = len(values) - 1
        values = [values[round(number * last / (_MAX_X_LABELS - 1))] for number in range(_MAX_X_LABELS)]
    labels = [
        _render_text(
            scale.x_position(value),
            _PLOT_BOTTOM + _X_LABEL_BELOW_AXIS,
            f"{value:,g}" if value < 1e6 else f"{value:,.0f}",
            anchor="middle",
        )
        for value in values
    ]
    return [*labels, f'<path class="a" d="M{_LEFT} {_PLOT_BOTTOM}H{_PLOT_RIGHT}"/>']


def _render_aim_line(scale: _LinePlotScale, aim: AimLine) -> list[str]:
    """A dashed line across the plot, with its label at the right."""
    y = scale.y_position(aim.ratio)
    return [
        f'<path class="l" d="M{_LEFT} {y:.1f}H{_PLOT_RIGHT}"/>',
        _render_text(_PLOT_RIGHT + 6, y + _TEXT_BELOW_MIDDLE, aim.label, "m"),
    ]


def _render_line(scale: _LinePlotScale, line: Series, colour: str) -> list[str]:
    """The line through the points of a series, with a dot at each point unless there are many."""
    dots = [(scale.x_position(x), scale.y_position(y)) for x, y in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    if len(dots) <= _MAX_DOTS:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in dots]
    return parts


def _render_legend_entry(number: int, name: str, colour: str) -> list[str]:
    """The colour and the name of a series, below the plot."""
    y = _HEIGHT + _LEGEND_TOP_MARGIN + _LEGEND_ROW * number
    return [
        f'<path d="M{_LEFT} {y - _TEXT_BELOW_MIDDLE}h22" stroke="{colour}" stroke-width="3"/>',
        _render_text(_LEFT + 30, y, name),
    ]


def _round_up(value: float) -> float:
    """The next 1, 1.2, 1.6, 2, 2.4, 3, 4, 6 or 8 times a power of ten, whose quarters are short numbers."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 6, 8, 10) if step * power >= value)


def _render_text(x: float, y: float, text: str, css_class: str = "", anchor: str = "start") -> str:
    """Text at a position, in the style of `css_class`. Characters that are markup are escaped."""
    cls = f' class="{css_class}"' if css_class else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{cls}>{escape(text)}</text>'


def _render_svg(height: float, parts: Sequence[str]) -> str:
    """The parts as a picture of its own, on white, because dark pages show it too."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
