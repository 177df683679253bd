"""A verb's answer to arguments, as plain data: in this process, in another one or on another machine."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from typing import Any

import typer

from gemmstone.cli.output import UsageProblem, one_line, usage
from gemmstone.core.errors import BadRequest, GemmstoneError, MissingBackend, NoAnswer

FUNCTION = "gemmstone.cli.answers:answer"
PLACES = ("executor", "address", "json_", "report")  # parameters that say where an answer comes from and goes to
ERRORS: dict[int, type[GemmstoneError]] = {kind.exit_code: kind for kind in (NoAnswer, BadRequest, MissingBackend)}


def answer(arguments: Sequence[str]) -> Any:
    """The document that the command line prints for a verb and its arguments. Raises what the verb raises."""
    from gemmstone.cli.main import app

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            typer.main.get_command(app).main([*arguments, "--json"], "gemmstone", standalone_mode=False)
    except UsageProblem as error:
        raise BadRequest(one_line(usage(error))) from None
    return json.loads(printed.getvalue())


def elsewhere(context: typer.Context, executor: str, address: str | None) -> Any:
    """The document of the verb that is running, computed where an executor says."""
    from gemmstone.simulate.sweeps.executors import sweep
    from gemmstone.simulate.sweeps.points import Point

    verb = str(context.info_name)
    point = Point(function=FUNCTION, asked=(verb, *arguments_of(context)), name=f"gemmstone {verb}")
    (found,) = sweep([point], executor=executor, address=address)
    if found.document is None:
        raise ERRORS.get(found.exit_code, NoAnswer)(found.error)
    return found.document


def arguments_of(context: typer.Context) -> list[str]:
    """What the running verb was asked, as arguments that ask it again, without what says where its answer goes."""
    options, words = [], []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in PLACES or value is None or source is None or source.name == "DEFAULT":
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif getattr(parameter, "is_flag", False):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            values = value if isinstance(value, list | tuple) else [value]
            options.extend(f"{max(parameter.opts, key=len)}={one}" for one in values)
    return [*words, *options]
