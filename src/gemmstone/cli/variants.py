"""A verb's arguments in all combinations of the values that `--vary` gives, read from the verb's own parameters.

`--vary FIELD=VALUE,VALUE,...` names an option without its dashes, or the argument (`model`). A value stands as on the
command line; `default` leaves the option out. Values that hold commas are separated by semicolons. A value without a
name of its own takes that of the one before: `set=memory.bandwidth=+10%,x2`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown

MOST_VARIANTS = 128
DEFAULT = "default"
SWITCH = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False, DEFAULT: False}
NOT_VARIED = ("json", "report", "help", "executor", "address")  # where an answer comes from or goes, not what is asked


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One combination: what was set for it, and the verb's arguments that ask for it."""

    values: tuple[tuple[str, str], ...]
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The values as they were given: "weights=fp8 on=8xmi300x"."""
        return " ".join(f"{field}={value}" for field, value in self.values)


def variants(verb: str, command: Any, arguments: Sequence[str], vary: Sequence[str]) -> list[Variant]:
    """All combinations, the last field changing fastest; the first is that of all first values."""
    if not vary:
        raise BadRequest(f"say what to vary: gemmstone compare {verb} ... --vary FIELD=VALUE,VALUE")
    fields = {_field(parameter): parameter for parameter in command.params if _field(parameter) not in NOT_VARIED}
    axes = [_axis(verb, text, fields) for text in vary]
    for field, parameter in fields.items():
        if sum(name == field for name, _ in axes) > 1 and not getattr(parameter, "multiple", False):
            raise BadRequest(f"{field} is varied twice: give all its values at once, {field}=VALUE,VALUE")
    count = math.prod(len(values) for _, values in axes)
    if not 2 <= count <= MOST_VARIANTS:
        raise BadRequest(f"--vary gives {count} variants: 2 to {MOST_VARIANTS} can be compared")
    found = []
    for combination in itertools.product(*(values for _, values in axes)):
        values = tuple((name, value) for (name, _), value in zip(axes, combination, strict=True))
        made = list(arguments)
        for name, value in values:
            made = _with(made, fields[name], value)
        found.append(Variant(values=values, arguments=tuple(made)))
    return found


def _field(parameter: Any) -> str:
    """A parameter's name for --vary: its longest option without dashes, or the name of the argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.name)
    return max((str(option) for option in parameter.opts), key=len).lstrip("-")


def _axis(verb: str, text: str, fields: dict[str, Any]) -> tuple[str, list[str]]:
    """The field and values of one --vary."""
    written, equals, listed = text.partition("=")
    field = written.strip().lstrip("-").replace("_", "-")
    if field not in fields:
        raise unknown(f"field of {verb} to vary", written.strip(), fields)
    values = [value.strip() for value in listed.split(";" if ";" in listed else ",")]
    if not equals or not all(values):
        raise BadRequest(f"--vary {written.strip()}: give its values, {field}=VALUE,VALUE ('{DEFAULT}' leaves it out)")
    named, name = [], ""
    for value in values:
        before, is_named, _ = value.rpartition("=")
        name = before if is_named else name
        named.append(value if is_named or not name or value == DEFAULT else f"{name}={value}")
    parameter = fields[field]
    for value in named:
        if getattr(parameter, "is_flag", False) and value not in SWITCH:
            raise BadRequest(f"--vary {field}: an option without a value is yes or no, not {value[:40]!r}")
        if parameter.param_type_name == "argument" and value.startswith("-"):
            raise BadRequest(f"--vary {field}: {value[:40]!r} looks like an option")
    return field, list(dict.fromkeys(named))


def _with(arguments: list[str], parameter: Any, value: str) -> list[str]:
    """Arguments that ask for `value` too, or instead of what they gave: of an option given twice the last counts."""
    if parameter.param_type_name == "argument":
        given = bool(arguments) and not arguments[0].startswith("-")
        return [value, *arguments[1 if given else 0 :]]
    option = max((str(option) for option in parameter.opts), key=len)
    if getattr(parameter, "is_flag", False):
        without = [word for word in arguments if word != option]
        return [*without, option] if SWITCH[value] else without
    if value == DEFAULT:
        return arguments if getattr(parameter, "multiple", False) else _without(arguments, option)
    return [*arguments, f"{option}={value}"]


def _without(arguments: list[str], option: str) -> list[str]:
    """Arguments in which the option is not given."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == option:
            next(words, None)  # its value
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
