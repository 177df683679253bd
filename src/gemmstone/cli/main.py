"""The `gemmstone` command: its verbs, and what every failure looks like."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from gemmstone import __version__
from gemmstone.cli import calibrate, catalog, compare, measure, plan, predict, runs, simulate, traffic, validate
from gemmstone.cli.output import (
    UsageProblem,
    abandon_output,
    failed,
    prepare_streams,
    print_json,
    print_problem,
    usage,
)
from gemmstone.core.errors import GemmstoneError

EXIT_BAD_REQUEST = 2
EXIT_INTERRUPTED = 130
DEBUG = "--debug"
START = "gemmstone plan llama-3.1-70b --on 8xh100-sxm --input 2048 --output 256 --slo ttft=2s,tpot=50ms"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How fast, how much memory, how many joules, dollars and grams of CO2 a large language model takes.",
    epilog=f"\b\nStart with:\n  {START}",
)
app.command("predict", help=predict.HELP, epilog=predict.EXAMPLE)(predict.command)
app.command("plan", help=plan.HELP, epilog=plan.EXAMPLE)(plan.command)
app.command("simulate", help=simulate.HELP, epilog=simulate.EXAMPLE)(simulate.command)
app.command("compare", help=compare.HELP, epilog=compare.EXAMPLE, context_settings=compare.SETTINGS)(compare.command)
app.command("validate", help=validate.HELP, epilog=validate.EXAMPLE)(validate.command)
app.command("calibrate", help=calibrate.HELP, epilog=calibrate.EXAMPLE)(calibrate.command)
app.add_typer(measure.app, name="measure")
app.add_typer(runs.app, name="runs")
app.add_typer(traffic.app, name="traffic")
app.add_typer(catalog.app, name="catalog")
VERBS = {
    "predict": predict.HELP,
    "plan": plan.HELP,
    "simulate": simulate.HELP,
    "compare": compare.HELP,
    "validate": validate.HELP,
    "measure": measure.HELP,
    "calibrate": calibrate.HELP,
    "runs": runs.HELP,
    "traffic": traffic.HELP,
    "catalog": catalog.HELP,
}


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of a failure; may stand anywhere.")] = False,
) -> None:
    """Prints the verbs when none is given."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        verbs = "\n".join(f"  {name:<9} {text}" for name, text in VERBS.items())
        typer.echo(f"gemmstone VERB ...\n{verbs}\n\nStart with:\n  {START}")


def main() -> None:
    """Runs the command line; exits 0 answered, 1 no feasible answer, 2 bad request, 3 a backend is missing."""
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    debug = len(arguments) < len(sys.argv) - 1
    if threading.current_thread() is threading.main_thread():
        # Being ended is an interruption like any other: what was written aside is removed on the way out.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_streams()
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")  # standard error is for one line of ours, not for remarks of libraries
        code = _run(arguments, debug)
    sys.exit(code)


def _run(arguments: Sequence[str], debug: bool) -> int:
    command = typer.main.get_command(app)
    if compare.is_meant(arguments):
        arguments = ["compare", *arguments]
    try:
        with command.make_context("gemmstone", list(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (BrokenPipeError, SystemExit):  # whoever reads our output has seen enough; rich turns that into SystemExit
        abandon_output()
        return 0
    except (KeyboardInterrupt, typer.Abort) as stop:  # a verb that keeps what it has says what, and how to go on
        print_problem(str(stop) or "interrupted, nothing was written")
        return EXIT_INTERRUPTED
    except Exception as error:  # the last line of defence: without --debug no traceback reaches a user
        if debug:
            import traceback

            traceback.print_exc()
        return _fail(error, arguments)
    return 0


def _fail(error: Exception, arguments: Sequence[str]) -> int:
    """Says what went wrong; returns the exit code."""
    if isinstance(error, GemmstoneError):
        try:
            _print_detail(error, arguments)
        except (OSError, SystemExit):  # nobody can be shown the detail; the reason and the exit code still stand
            abandon_output()
        print_problem(str(error))
        return error.exit_code
    if isinstance(error, UsageProblem):
        print_problem(usage(error))
    elif isinstance(error, OSError):
        abandon_output()
        print_problem(f"cannot read or write: {error}")
    elif isinstance(error, MemoryError):
        print_problem("out of memory: ask for less at once")
    else:
        print_problem(f"internal error, {type(error).__name__}: {error} (repeat with {DEBUG} and report it)")
    return EXIT_BAD_REQUEST


def _print_detail(error: GemmstoneError, arguments: Sequence[str]) -> None:
    """What goes with a failure, on standard output: the memory of a deployment that does not fit."""
    if not isinstance(error.detail, dict):
        return
    if "--json" in arguments:
        verb = next((argument for argument in arguments if argument in VERBS), "predict")
        print_json(failed(verb, __version__, str(error), error.detail))
    else:
        from gemmstone.report.terminal import print_memory

        print_memory(error.detail)
