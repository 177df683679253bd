"""`--vary` on a verb nobody knows: all it takes is the verb's own parameters."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer

from gemmstone.cli.main import app
from gemmstone.cli.variants import NOT_VARIED, variants
from gemmstone.core.errors import BadRequest


def verb(
    what: Annotated[str, typer.Argument()],
    size: Annotated[int, typer.Option("--size", "-s")] = 1,
    turbo: Annotated[bool, typer.Option("--turbo")] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag")] = None,
    json_: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """A verb of another day."""


@pytest.fixture
def command() -> Any:
    made = typer.Typer()
    made.command()(verb)
    return typer.main.get_command(made)


def asked(command: Any, arguments: list[str], *vary: str) -> list[dict[str, Any]]:
    """What the verb's own parser makes of every variant."""
    found = [command.make_context("verb", list(v.arguments)).params for v in variants("verb", command, arguments, vary)]
    return [{**params, "tag": list(params["tag"] or [])} for params in found]


def test_options_arguments_switches_and_lists(command):
    base = {"what": "a", "size": 1, "turbo": False, "tag": [], "json_": False}
    assert asked(command, ["a"], "size=2,3") == [{**base, "size": 2}, {**base, "size": 3}]
    assert asked(command, ["a", "--size=9"], "size=2,default") == [{**base, "size": 2}, base]
    assert asked(command, ["a", "--size", "9"], "size=default,2") == [base, {**base, "size": 2}]
    assert asked(command, ["a", "--turbo"], "turbo=yes,no") == [{**base, "turbo": True}, base]
    assert asked(command, ["a"], "what=b,c") == [{**base, "what": "b"}, {**base, "what": "c"}]
    assert asked(command, ["--size", "2"], "what=b,c") == [{**base, "what": w, "size": 2} for w in "bc"]
    tags = [params["tag"] for params in asked(command, ["a", "--tag", "x"], "tag=default,y=1", "tag=z=1,2")]
    assert tags == [["x", "z=1"], ["x", "z=2"], ["x", "y=1", "z=1"], ["x", "y=1", "z=2"]]


def test_a_value_may_look_like_an_option(command):
    assert [params["size"] for params in asked(command, ["a"], "size=-5,-6")] == [-5, -6]


def test_combinations_keep_the_order_of_the_command_line(command):
    found = variants("verb", command, ["a"], ["size=1,2", "turbo=no,yes"])
    assert [variant.name for variant in found] == [f"size={s} turbo={t}" for s in (1, 2) for t in ("no", "yes")]


@pytest.mark.parametrize("field", ["json", "help", "colour"])
def test_what_cannot_be_varied(command, field):
    with pytest.raises(BadRequest, match=f"unknown field of verb to vary '{field}'"):
        variants("verb", command, ["a"], [f"{field}=1,2"])


@pytest.mark.parametrize("name", ["predict", "plan"])
def test_every_option_of_every_verb_can_be_varied(name):
    command: Any = typer.main.get_command(app)
    command = command.commands[name]
    for parameter in command.params:
        field = max(parameter.opts, key=len).lstrip("-")
        if field in NOT_VARIED:
            continue
        values = ("yes", "no") if getattr(parameter, "is_flag", False) else ("1", "2")
        found = variants(name, command, [], [f"{field}={','.join(values)}"])
        assert [variant.values for variant in found] == [((field, value),) for value in values]
