"""On which side of its point a name covers least: points, other names and what else stands in a chart count as obstacles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

CHAR_PX, LINE_PX, GAP_PX = 6.2, 14.0, 3.0  # of a font of 11 pixels
OUTSIDE = 1e6  # what a pixel beyond the edge counts


class Box(NamedTuple):
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: Box) -> float:
        """Area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)


class Point(NamedTuple):
    """A mark with its radius, pixels, and its name; "" for none."""

    x: float
    y: float
    radius: float
    name: str

    @property
    def box(self) -> Box:
        """What the mark covers."""
        return Box(self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)


def sides(points: Sequence[Point], canvas: tuple[float, float], taken: Sequence[Box] = ()) -> list[str]:
    """Plotly's text position for the name of each point, those that come first placed first.

    >>> sides([Point(100, 50, 5, "a name"), Point(130, 50, 5, "")], (300, 100))[0]
    'middle left'
    """
    standing = [*taken, *(point.box for point in points)]
    found = []
    for point in points:
        places = _places(point)
        best = min(places, key=lambda side: _covered(places[side], standing, canvas))
        found.append(best)
        if point.name:
            standing.append(places[best])
    return found


def _places(point: Point) -> dict[str, Box]:
    """The box of a name on each side, the one to prefer first."""
    wide, away = CHAR_PX * len(point.name), point.radius + GAP_PX
    low, high = point.y - LINE_PX / 2, point.y + LINE_PX / 2
    across = (point.x - wide / 2, point.x + wide / 2)
    above, below = (point.y + away, point.y + away + LINE_PX), (point.y - away - LINE_PX, point.y - away)
    return {
        "middle right": Box(point.x + away, low, point.x + away + wide, high),
        "middle left": Box(point.x - away - wide, low, point.x - away, high),
        "top center": Box(across[0], above[0], across[1], above[1]),
        "bottom center": Box(across[0], below[0], across[1], below[1]),
        "top right": Box(point.x + away, above[0], point.x + away + wide, above[1]),
        "bottom right": Box(point.x + away, below[0], point.x + away + wide, below[1]),
        "top left": Box(point.x - away - wide, above[0], point.x - away, above[1]),
        "bottom left": Box(point.x - away - wide, below[0], point.x - away, below[1]),
    }


def _covered(box: Box, standing: Sequence[Box], canvas: tuple[float, float]) -> float:
    beyond = max(0.0, -box.left, -box.bottom, box.right - canvas[0], box.top - canvas[1])
    return sum(box.shared(other) for other in standing) + OUTSIDE * beyond
