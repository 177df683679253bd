"""gemmstone compare: what differs between answers, and why. Of files, or of a verb asked again with other arguments."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import UsageProblem, one_line, print_json, usage

if TYPE_CHECKING:
    from gemmstone.cli.variants import Variant
    from gemmstone.compare.subjects import Subject

HELP = "What differs between answers, and why: JSON files, or a verb asked with varied arguments."
EXAMPLE = (
    "\b\nExample:\n  gemmstone compare predict llama-3.1-70b --on 8xh100-sxm --input 2048 --output 256 --concurrency 64 "
    "--vary weights=bf16,fp8"
)
SETTINGS = {"ignore_unknown_options": True}  # they are the varied verb's
VARY = "--vary"


def command(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="A.json B.json ... | VERB ARGUMENTS --vary ...", show_default=False),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            VARY, help="An option of the verb and its values, as weights=bf16,fp8; repeatable: all combinations."
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="Where answers are computed: local processes, or ray.", show_default=False)
    ] = None,
    address: opt.ADDRESS = None,
    workers: Annotated[int, typer.Option(help="Answers at a time.", show_default="one a core")] = 0,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Keep answers here as they come; started again, only the others are asked.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[int, typer.Option(help="Number of the row the others are compared with.")] = 1,
    report: Annotated[str | None, typer.Option(help="Write a self-contained HTML page here.")] = None,
    json_: opt.JSON = False,
) -> None:
    """Compares files, or the answers to all variants of a question."""
    from gemmstone.compare.document import compare

    words = words or []
    verbs = _verbs(context)
    varied: list[dict[str, str]] | None = None
    failures: dict[int, int] = {}
    if vary or (words and words[0] in verbs):
        from gemmstone.cli.variants import variants

        verb, arguments = _verb(words, verbs)
        asked = variants(verb, verbs[verb], arguments, vary or [])
        if executor or address or workers or results or _takes_long(verbs[verb]):
            subjects, failures = _swept(
                verb, asked, executor=executor or "local", address=address, workers=workers, results=results
            )
        else:
            subjects, failures = _answers(context.parent, verbs[verb], verb, asked)
        varied = [dict(variant.values) for variant in asked]
    else:
        subjects = _files(words)
    document = compare(subjects, baseline=baseline, varied=varied)
    if report is not None:
        from gemmstone.report.comparison_page import page
        from gemmstone.store.aside import written_aside

        with written_aside(report, "replace") as file:
            file.write(page(document))
    if json_:
        print_json(document)
    else:
        from gemmstone.report.comparison import print_comparison

        print_comparison(document, report)
    if not document["answered"]:
        _refuse(document, failures)


def is_meant(arguments: Sequence[str]) -> bool:
    """Whether arguments for another verb ask to vary it, which is a comparison."""
    return list(arguments[:1]) != ["compare"] and any(word == VARY or word.startswith(f"{VARY}=") for word in arguments)


def _verbs(context: typer.Context) -> dict[str, Any]:
    """The verbs that answer with a document: those with --json, this one apart."""
    group: Any = context.parent.command if context.parent else None
    return {
        name: command
        for name, command in getattr(group, "commands", {}).items()
        if command is not context.command and any("--json" in parameter.opts for parameter in command.params)
    }


def _verb(words: Sequence[str], verbs: Mapping[str, Any]) -> tuple[str, list[str]]:
    from gemmstone.core.errors import BadRequest
    from gemmstone.core.lookup import unknown

    known = ", ".join(verbs)
    if not words or words[0].startswith("-"):
        raise BadRequest(f"say which verb to vary ({known}): gemmstone compare predict MODEL --on HARDWARE --vary ...")
    if words[0] not in verbs:
        raise unknown("verb to vary", words[0], verbs)
    return words[0], list(words[1:])


def _files(names: Sequence[str]) -> list[Subject]:
    from gemmstone.compare import files
    from gemmstone.compare.document import MOST_SUBJECTS
    from gemmstone.compare.subjects import subject
    from gemmstone.core.errors import BadRequest

    options = [name for name in names if name.startswith("-") and name != "-"]
    if options:
        raise BadRequest(f"no such option: {options[0]} (see 'gemmstone compare --help')")
    if not 2 <= len(names) <= MOST_SUBJECTS:
        raise BadRequest(
            f"give 2 to {MOST_SUBJECTS} JSON files, not {len(names)}, or a verb to vary: gemmstone compare predict MODEL "
            "--on HARDWARE --vary weights=bf16,fp8"
        )
    return [subject(name, files.read(name)) for name in names]


def _answers(parent: Any, command: Any, verb: str, asked: Sequence[Variant]) -> tuple[list[Subject], dict[int, int]]:
    """The verb's answer to every variant, and the exit codes of those without one by their place."""
    from gemmstone.compare.subjects import failed
    from gemmstone.core.errors import GemmstoneError

    subjects: list[Subject] = []
    failures: dict[int, int] = {}
    for i, variant in enumerate(asked):
        try:
            subjects.append(_answer(parent, command, verb, variant))
        except GemmstoneError as error:
            subjects.append(failed(variant.name, one_line(str(error))))
            failures[i] = error.exit_code
        except UsageProblem as error:
            subjects.append(failed(variant.name, one_line(usage(error))))
            failures[i] = 2
    return subjects, failures


def _takes_long(command: Any) -> bool:
    """Whether a verb has executors of its own: then it is worth a process."""
    return any("--executor" in parameter.opts for parameter in command.params)


def _swept(
    verb: str, asked: Sequence[Variant], *, executor: str, address: str | None, workers: int, results: str | None
) -> tuple[list[Subject], dict[int, int]]:
    """The same from many processes or machines at once."""
    from gemmstone.cli.answers import FUNCTION
    from gemmstone.cli.progress import Progress
    from gemmstone.compare.subjects import failed, subject
    from gemmstone.simulate.sweeps.executors import sweep
    from gemmstone.simulate.sweeps.points import Point

    points = [Point(function=FUNCTION, asked=(verb, *variant.arguments), name=variant.name) for variant in asked]
    with Progress(f"{verb} in {len(points)} variants", "answers") as progress:
        found = sweep(points, executor=executor, address=address, workers=workers, results=results, progress=progress)
    subjects = [
        failed(point.name, one_line(one.error)) if one.document is None else subject(point.name, one.document)
        for point, one in zip(points, found, strict=True)
    ]
    return subjects, {at: one.exit_code for at, one in enumerate(found) if one.document is None}


def _answer(parent: Any, command: Any, verb: str, variant: Variant) -> Subject:
    """Runs the verb as the command line would, with its document kept instead of printed."""
    from gemmstone.compare import files
    from gemmstone.compare.subjects import subject

    printed = io.StringIO()
    arguments = [*variant.arguments, "--json"]
    with contextlib.redirect_stdout(printed), command.make_context(verb, arguments, parent=parent) as context:
        command.invoke(context)
    return subject(variant.name, files.parse(f"what {verb} printed for {variant.name}", printed.getvalue()))


def _refuse(document: Mapping[str, Any], failures: Mapping[int, int]) -> None:
    """Ends a comparison without a single answer as its first failure would have ended."""
    from gemmstone.core.errors import BadRequest, NoAnswer

    kind = BadRequest if failures and set(failures.values()) == {BadRequest.exit_code} else NoAnswer
    raise kind(
        f"none of {len(document['entries'])} has an answer, the first because: {document['entries'][0]['error']}"
    )
