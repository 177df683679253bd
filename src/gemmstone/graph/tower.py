"""The image encoder's part of a step: patches embedded, its layers over whole images, projection to the language model.

Images come with the prompts that are computed: `images_per_token` of a deployment says how many of them (or squares of
them) a prompt token brings. Towers stay in the model's own number format where the language model is quantised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Deployment, Step
from gemmstone.core.model import Tower
from gemmstone.core.work import Op
from gemmstone.graph.blocks import layer_ops
from gemmstone.graph.blocks.kind import Place
from gemmstone.ops import elementwise, matmul

GROUPS = ("image patches", "image layers", "image projector")


class Image(NamedTuple):
    """One image as a tower takes it: how many squares it is cut into (1 where it stays whole), patches of each, and the
    tokens that all of them are for the language model."""

    squares: int
    patches: int
    tokens: int


def image(tower: Tower, width: int, height: int) -> Image:
    """An image of so many pixels. Sides are rounded to whole tokens; squares beyond one come with a copy of the whole."""
    if not tower.tile:
        tokens = _cells(tower, width, height)
        return Image(1, tokens * tower.merge**2, tokens)
    tiles = min(tower.max_tiles, math.ceil(width / tower.tile) * math.ceil(height / tower.tile))
    squares = tiles + (1 if tiles > 1 else 0)
    patches = (tower.tile // tower.patch_size) ** 2
    return Image(squares, patches, squares * patches // tower.merge**2)


def _cells(tower: Tower, width: float, height: float) -> int:
    """Whole tokens of an image that is not cut, scaled into the tower's bounds as transformers' smart_resize does."""
    cell = tower.patch_size * tower.merge
    if tower.longest_side:
        shrink = max(1.0, width / tower.longest_side, height / tower.longest_side)
        width, height = width / shrink, height / shrink
    tokens = max(1, round(width / cell)) * max(1, round(height / cell))
    if tower.most_pixels and tokens * cell**2 > tower.most_pixels:
        shrink = cell * math.sqrt(width * height / tower.most_pixels)
        return max(1, math.floor(width / shrink)) * max(1, math.floor(height / shrink))
    if tokens * cell**2 < tower.least_pixels:
        grow = math.sqrt(tower.least_pixels / (width * height)) / cell
        return math.ceil(width * grow) * math.ceil(height * grow)
    return tokens


def sections(tower: Tower, run: Deployment, step: Step) -> Iterator[tuple[str, float, tuple[Op, ...]]]:
    """Name, repeats and operations of the groups that a tower adds to a step."""
    wide = run.model_dtype
    plain = replace(run, weights=wide, activations=wide, attention_weights=wide, attention_activations=wide)
    squares = np.asarray(step.prefill_seqs * step.prefill_tokens * run.images_per_token, dtype=float)
    rows = run.image_patches + tower.class_tokens
    place = Place(tower.hidden_size, plain, Step(prefill_seqs=squares, prefill_tokens=rows))
    patches, ranks = squares * run.image_patches, run.tensor_parallel
    embed = matmul.gemm("patch_embedding", m=patches, n=tower.hidden_size, k=tower.patch_elements)
    project = [
        matmul.gemm("image_projection", m=patches / tower.merge**2, n=outputs / ranks, k=inputs)
        for inputs, outputs in tower.projector
    ]
    shuffle = elementwise.norm("image_norm", tokens=patches, width=tower.hidden_size)
    first, middle, last = GROUPS
    yield first, 1, (embed,)
    for layer in tower.layers:
        yield middle, layer.count, tuple(layer_ops(layer, place))
    yield last, 1, (shuffle, *project)
