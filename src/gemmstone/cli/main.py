"""The `gemmstone` command: its verbs, and what every failure looks like."""

from __future__ import annotations

import sys
from typing import Annotated

import click
import typer

from gemmstone import __version__
from gemmstone.cli import catalog, plan, predict
from gemmstone.core.errors import GemmstoneError

EXIT_BAD_REQUEST = 2
EXIT_INTERRUPTED = 130
START = "gemmstone plan llama-3.1-70b --on 8xh100-sxm --input 2048 --output 256 --slo ttft=2s,tpot=50ms"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How fast, how much memory, how many joules, dollars and grams of CO2 a large language model takes.",
    epilog=f"Start with: {START}",
)
app.command("predict", help=predict.HELP, epilog=predict.EXAMPLE)(predict.command)
app.command("plan", help=plan.HELP, epilog=plan.EXAMPLE)(plan.command)
app.add_typer(catalog.app, name="catalog")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """Prints the verbs when none is given."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        verbs = "\n".join(f"  {name:<9} {text}" for name, text in VERBS.items())
        typer.echo(f"gemmstone VERB ...\n{verbs}\n\nStart with:\n  {START}")


VERBS = {"predict": predict.HELP, "plan": plan.HELP, "catalog": catalog.HELP}


def main() -> None:
    """Runs the command line; exits 0 answered, 1 no feasible answer, 2 bad request, 3 a backend is missing."""
    if "--debug" in sys.argv:
        app()
        return
    try:
        code = app(standalone_mode=False)
    except GemmstoneError as error:
        _print_detail(error.detail)
        code = _fail(str(error), error.exit_code)
    except click.ClickException as error:
        code = _fail(error.format_message(), EXIT_BAD_REQUEST)
    except (click.Abort, KeyboardInterrupt):
        code = _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a user
        code = _fail(
            f"internal error, {type(error).__name__}: {error} (repeat with --debug before the verb)", EXIT_BAD_REQUEST
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print("gemmstone: " + " ".join(message.split()), file=sys.stderr)
    return code


def _print_detail(detail: object) -> None:
    if detail is None:
        return
    import json  # lazy: only a failing command pays for it

    if "--json" in sys.argv:
        print(json.dumps(detail))
    elif isinstance(detail, dict) and "bytes" in detail:
        from gemmstone.report.terminal import print_memory

        print_memory(detail)
    else:
        print(json.dumps(detail, indent=1))
