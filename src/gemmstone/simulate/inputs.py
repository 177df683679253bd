"""What the model at hand makes of a request: images as tokens and as work for its image encoder, and that encoders generate nothing."""

from __future__ import annotations

import re
from dataclasses import replace

from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Model
from gemmstone.graph import tower
from gemmstone.simulate.scenario import Scenario, load_model

USUAL_SIZE = "1024x1024"
_SIZE = re.compile(r"(\d{1,6})[xX×](\d{1,6})", re.ASCII)


def image_size(text: str) -> tuple[int, int]:
    """Width and height in pixels of a text such as 1280x720; BadRequest for anything else.

    >>> image_size("1280x720")
    (1280, 720)
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise BadRequest(f"an image size is WIDTHxHEIGHT in pixels, as {USUAL_SIZE}, not {text[:40]!r}")
    return int(found[1]), int(found[2])


def check_generates(model: Model) -> None:
    """Raises BadRequest for a model that generates nothing, where servers of generated tokens are compared."""
    if not model.generates:
        raise BadRequest(f"{model.name} is an encoder: a plan is for models that generate; predict it with --output 1")


def settled(scenario: Scenario) -> Scenario:
    """The scenario with its images as tokens of the prompt and patches for the tower; BadRequest for what the model cannot do."""
    work = scenario.workload
    model = load_model(scenario.model)
    if not model.generates and work.output_tokens > 1:
        raise BadRequest(f"{model.name} is an encoder: it has no decoder and answers in one pass; use --output 1")
    if not work.images:
        return scenario
    if model.tower is None:
        raise BadRequest(f"{_sees_nothing(model)}: leave --images out")
    one = tower.image(model.tower, work.image_width, work.image_height)
    work = replace(work, image_tokens=float(work.images * one.tokens))
    choice = replace(
        scenario.choice,
        images_per_token=work.images * one.squares / work.mean_input_tokens,
        image_patches=float(one.patches),
    )
    return replace(scenario, workload=work, choice=choice)


def _sees_nothing(model: Model) -> str:
    if model.patch_elements:
        return f"{model.name} takes an image as its --input of {model.max_position_embeddings} tokens"
    return f"no image encoder is known for {model.name}"
