"""Reading numbers, flags and words out of a config.json that nobody has checked. Every refusal names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemmstone.core import dtypes
from gemmstone.core.errors import BadRequest

Config = Mapping[str, Any]

# The largest value each kind of fact may have. Far above every model there is, far below what overflows or never ends.
LIMITS: dict[str, int] = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 10_000_000,
    "num_attention_heads": 10_000,
    "num_experts": 100_000,
    "max_position_embeddings": 1_000_000_000,
}
DEFAULT_LIMIT = 1_000_000


def integer(config: Config, key: str, default: int | None = None, *, kind: str = "", low: int = 1) -> int:
    """The whole number at `key`; missing or null means `default`, and BadRequest when there is none.

    `kind` names the row of LIMITS when the key is spelled differently (n_layer is a num_hidden_layers).
    """
    value = config.get(key)
    if value is None:
        if default is None:
            raise BadRequest(f"the config.json has no {key!r}, which its architecture needs")
        return default
    return checked(value, key, low=low, high=LIMITS.get(kind or key, DEFAULT_LIMIT))


def checked(value: object, key: str, *, low: int = 1, high: int = DEFAULT_LIMIT) -> int:
    """`value` if it is a whole number between `low` and `high`; BadRequest naming `key` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{key!r} in the config.json has to be a whole number, not {shown(value)}")
    if not low <= value <= high:
        raise BadRequest(f"{key!r} in the config.json is {shown(value)}; it has to lie between {low} and {high:,}")
    return value


def flag(config: Config, key: str, default: bool = False) -> bool:
    """The truth value at `key`; missing or null means `default`."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{key!r} in the config.json has to be true or false, not {shown(value)}")
    return value


def word(config: Config, key: str, default: str = "") -> str:
    """The text at `key`; missing or null means `default`."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadRequest(f"{key!r} in the config.json has to be text, not {shown(value)}")
    return value


def number_format(config: Config, key: str, default: str) -> str:
    """The canonical number format that the text at `key` names; missing, null or "auto" means `default`."""
    declared = word(config, key).removeprefix("torch.")
    if declared in ("", "auto"):
        return default
    try:
        return dtypes.resolve(declared)
    except BadRequest as error:
        raise BadRequest(f"{key!r} in the config.json: {error}") from None


def section(config: Config, key: str) -> Config:
    """The object at `key`, whose keys are read in the same way; missing or null means an empty one."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadRequest(f"{key!r} in the config.json has to be an object, not {shown(value)}")
    return value


def integers(config: Config, key: str, length: int, *, low: int = 1) -> list[int]:
    """The list of `length` whole numbers at `key`."""
    value = config.get(key)
    if not isinstance(value, list) or len(value) != length:
        raise BadRequest(f"{key!r} in the config.json has to be a list of {length} numbers, one a layer")
    return [checked(item, key, low=low) for item in value]


def divides(part: int, whole: int, message: str) -> None:
    """BadRequest unless `whole` is a multiple of `part`."""
    if whole % part:
        raise BadRequest(f"{message}: {whole} is not a multiple of {part}")


def shown(value: object) -> str:
    """A short text of any value."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a number beyond 10^18"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
