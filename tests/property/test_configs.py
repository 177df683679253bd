"""Random walks through config.json space: whatever a config says, it is answered consistently or refused by one clear line."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemmstone import api
from gemmstone.catalog.model_files import ModelFile, published
from gemmstone.core.errors import BadRequest
from gemmstone.core.model import Model
from gemmstone.graph.families import FAMILIES, MODEL_TYPES, build_model
from gemmstone.graph.parameters import count, kv_bytes_per_token, state_bytes

WALKS, STEPS = 100, 4  # 400 perturbed configs
SHIPPED = list(published())
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
WIDTH = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "ffn_hidden_size", "vocab_size", "padded_vocab_size")
# One device that everything fits on, so that a refusal is about the config.
HARDWARE = {"hardware": "b200-sxm", "edits": ("memory.capacity=1000000TB",)}
ROUNDING = 1e-9  # the predictions compared differ in more than the order of summation, or not at all
ODD: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    3,
    7,
    1.5,
    1e300,
    float("nan"),
    10**12,
    10**400,
    "",
    "x",
    None,
    True,
    False,
    [],
    {},
)


def leaves(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values that are no objects."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def inside(config: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        config = config[key]
    return config


def other(dice: random.Random, value: Any) -> Any:
    """Something else in the place of a value: near it, far from it, or of another kind."""
    if isinstance(value, bool):
        return dice.choice([not value, not value, *ODD])
    if isinstance(value, int):
        near = [2 * value, 2 * value, 4 * value, value // 2, value + 1, value - 1]
        return dice.choice([*near, *near, *ODD, repr(value)[:40], [value], [[value]]])
    if isinstance(value, list) and value:
        one = dice.choice([*FAMILIES, *ODD])
        return dice.choice([value[:-1], [*value, value[0]], value[::-1], [one] * len(value), [one] * len(value), *ODD])
    if isinstance(value, str):
        return dice.choice([*MODEL_TYPES, "float16", "float8", value.upper(), value + "x", *ODD])
    return dice.choice(ODD)


def stepped(dice: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """The config with one value changed, removed, or taken over from another model."""
    made = copy.deepcopy(config)
    path = dice.choice(list(leaves(made)))
    place = inside(made, path)
    move = dice.random()
    if move < 0.1:
        del place[path[-1]]
    elif move < 0.2:
        donor = dict(dice.choice(SHIPPED).config)
        key = dice.choice(list(donor))
        place[key] = copy.deepcopy(donor[key])
    else:
        place[path[-1]] = other(dice, place[path[-1]])
    return made


def understood(config: dict[str, Any]) -> Model:
    return build_model(ModelFile(name="walk", config=config, source="test", id="walk"))


def answered(config: dict[str, Any], folder: Path, **choices: Any) -> dict[str, Any]:
    """The prediction of a config read from a file, as a user's is."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    output = 32 if understood(config).generates else 1
    work = api.Workload(input_tokens=256, output_tokens=output, load=2.0)
    return api.predict(api.Scenario(model=str(folder), workload=work, **HARDWARE, **choices))


def value(metrics: dict[str, Any], name: str) -> float:
    found = metrics[name]["value"]
    return 0.0 if found is None else float(found)


def grown(config: dict[str, Any], keys: tuple[str, ...], by: int) -> dict[str, Any] | None:
    """The config with the first of these numbers made larger, None where it has none of them or is refused then."""
    made = copy.deepcopy(config)
    for path in leaves(made):
        place = inside(made, path)
        held = place[path[-1]]
        if path[-1] in keys and "vision_config" not in path and isinstance(held, int) and not isinstance(held, bool):
            place[path[-1]] = held + by if by else 2 * held
            try:
                understood(made)
            except BadRequest:
                return None
            return made
    return None


def check_refusal(refusal: str, config: dict[str, Any], before: dict[str, Any]) -> None:
    assert "\n" not in refusal
    assert len(refusal) < 2_000
    keys = {key for path in [*leaves(config), *leaves(before)] for key in path}
    missing = re.search(r"'\w+' in the config\.json|the config\.json has no '\w+'", refusal)
    assert missing or any(key in refusal for key in keys) or "architecture" in refusal, refusal


def check_answer(config: dict[str, Any], model: Model, folder: Path) -> None:
    counted = count(model)
    assert 0 < counted.active <= counted.total
    assert kv_bytes_per_token(model, 2.0) >= 0
    assert state_bytes(model) >= 0
    found = answered(config, folder / "itself")
    metrics, limit = found["metrics"], found["limit"]
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert value(limit, name) <= value(metrics, name) * (1 + ROUNDING), name
    longer = grown(config, DEPTH, 1)
    if longer is not None:
        more = answered(longer, folder / "longer")["metrics"]
        for name in ("ttft_s", "tpot_s", "e2e_s", "memory_bytes_per_device"):
            assert value(more, name) >= value(metrics, name) * (1 - ROUNDING), f"{name} falls with one more layer"
        assert count(understood(longer)).total >= counted.total
        assert kv_bytes_per_token(understood(longer), 2.0) >= kv_bytes_per_token(model, 2.0)
    wider = grown(config, WIDTH, 0)
    if wider is not None:
        assert count(understood(wider)).total >= counted.total


@pytest.mark.parametrize("walk", range(WALKS))
def test_a_config_is_answered_consistently_or_refused_by_a_key(walk: int, tmp_path: Path) -> None:
    dice = random.Random(walk)
    config = json.loads(json.dumps(dict(SHIPPED[dice.randrange(len(SHIPPED))].config)))
    for step in range(STEPS):
        made = stepped(dice, config)
        try:
            model = understood(made)
        except BadRequest as error:
            check_refusal(str(error), made, config)
            continue
        folder = tmp_path / str(step)
        folder.mkdir()
        check_answer(made, model, folder)
        config = made


def test_enough_of_the_walks_are_answered() -> None:
    """A walk that only meets refusals would show nothing; a third of the steps and more are understood."""
    answers = 0
    for walk in range(WALKS):
        dice = random.Random(walk)
        config = json.loads(json.dumps(dict(SHIPPED[dice.randrange(len(SHIPPED))].config)))
        for _ in range(STEPS):
            made = stepped(dice, config)
            try:
                understood(made)
            except BadRequest:
                continue
            answers, config = answers + 1, made
    assert WALKS * STEPS / 3 < answers < WALKS * STEPS
