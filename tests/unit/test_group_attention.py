"""Groups of features that attend to each other: slopes, what is learned, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gemmstone.calibrate import group_attention
from gemmstone.core.errors import BadRequest


def test_slopes_are_those_of_the_loss() -> None:
    draw = np.random.default_rng(2)
    inputs = [draw.standard_normal((6, count)) for count in (2, 3)]
    aim = draw.standard_normal(6)
    width = group_attention.WIDTH
    shapes = {"group 0": (2, width), "group 1": (3, width), "bias 0": (width,), "bias 1": (width,), "score_bias": (1,)}
    shapes |= dict.fromkeys(("query", "key", "value"), (width, width)) | {"score": (2 * width, 1)}
    weights = {name: 0.4 * draw.standard_normal(shape) for name, shape in shapes.items()}
    _, slopes = group_attention.gradient(weights, inputs, aim)
    assert set(slopes) == set(weights)
    for name, value in weights.items():
        at, step = tuple(int(draw.integers(size)) for size in value.shape), 1e-6
        value[at] += step
        above, _ = group_attention.gradient(weights, inputs, aim)
        value[at] -= 2 * step
        below, _ = group_attention.gradient(weights, inputs, aim)
        value[at] += step
        assert slopes[name][at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-8), name


def test_a_product_over_groups_is_learned_where_a_line_cannot() -> None:
    draw = np.random.default_rng(3)
    one, other = draw.choice([-1.0, 1.0], size=(2, 200, 1))
    logs = (one * other)[:, 0]
    model = group_attention.learned([one[:150], other[:150]], np.exp(logs[:150]))
    off = np.log(model.predict([one[150:], other[150:]])) - logs[150:]
    line = np.hstack([one, other, np.ones((200, 1))])
    best = line[150:] @ np.linalg.lstsq(line[:150], logs[:150], rcond=None)[0] - logs[150:]
    assert np.abs(off).mean() < 0.3 < np.abs(best).mean()


def test_several_networks_say_their_geometric_mean_and_err_less_than_most_of_them() -> None:
    draw = np.random.default_rng(4)
    groups = [draw.standard_normal((40, 3)), draw.standard_normal((40, 2))]
    logs = np.tanh(groups[0][:, 0]) + groups[1][:, 0] * groups[0][:, 1] + 0.5 * draw.standard_normal(40)
    several = group_attention.several([group[:25] for group in groups], np.exp(logs[:25]), count=4, epochs=60)
    asked = [group[25:] for group in groups]
    each = np.log([network.predict(asked) for network in several.networks])
    assert len(each) == 4
    assert np.ptp(each, axis=0).max() > 0.1  # other starts end elsewhere
    together = np.log(several.predict(asked))
    assert together == pytest.approx(each.mean(axis=0))
    off = np.square(each - logs[25:]).mean(axis=1)
    assert np.square(together - logs[25:]).mean() < np.median(off)


def test_what_does_not_fit_is_refused() -> None:
    features = np.ones((4, 2)) * np.arange(4)[:, None]
    with pytest.raises(BadRequest, match="a positive score"):
        group_attention.learned([features], np.array([1.0, 2.0, 0.0, 3.0]))
    with pytest.raises(BadRequest, match="a positive score"):
        group_attention.learned([features], np.array([1.0, 2.0]))
    model = group_attention.learned([features], np.array([1.0, 2.0, 3.0, 4.0]), epochs=1)
    with pytest.raises(BadRequest, match="other features"):
        model.predict([features[:, :1]])
