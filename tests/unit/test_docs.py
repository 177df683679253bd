"""The documentation does what it says: every command runs, every output shown is what comes out, every name is explained.

Where coefficients have changed, the numbers shown are older than the code. Bring them up to date with

    python tests/unit/test_docs.py
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gemmstone import api
from gemmstone.catalog import calibration_files
from gemmstone.cli.main import VERBS, app
from gemmstone.plan.question import Question
from gemmstone.simulate.engine.compiled import cache_folder
from gemmstone.simulate.metrics import METRICS
from gemmstone.simulate.traffic import distribution

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "docs/tutorial.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "howto").glob("*.md")),
]
WIDTH = 100  # of the terminal whose output the pages show
CUT = "..."
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where the text lies in the page."""

    language: str
    text: str
    span: tuple[int, int]
    follows: int  # end of the fence before it when nothing but blank lines is between, else -1


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    end = -1
    for found in FENCE.finditer(text):
        adjacent = end >= 0 and not text[end : found.start()].strip()
        yield Block(found[1], found[2], found.span(2), end if adjacent else -1)
        end = found.end()


def share_kernels(folder: Path) -> None:
    """Lets commands in `folder` use what is compiled already: all else of a newcomer's machine starts empty."""
    compiled = Path(cache_folder()).parent
    compiled.mkdir(parents=True, exist_ok=True)
    link = folder / ".cache" / "gemmstone" / compiled.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(compiled, target_is_directory=True)


def run(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Commands as a newcomer's shell runs them, standard error after standard output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEMMSTONE_")}
    home = {"XDG_DATA_HOME": str(folder / ".data"), "XDG_CACHE_HOME": str(folder / ".cache")}
    environment = {**kept, **home, "PATH": path, "COLUMNS": str(WIDTH), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def shape(line: str) -> str:
    """A line with its numbers, units and rules masked: what stays when coefficients are fitted again."""
    masked = re.sub(r"\d[\d,.]*", "#", line)
    masked = re.sub(r"# ([munkMGTP]?)(s|J|W|B)\b", r"# \2", masked)
    return re.sub(r"[\s─]+", " ", masked).strip()


def matched(shown: str, actual: str) -> list[str]:
    """The lines of `actual` that stand for the lines of `shown`, in order, cuts kept.

    Raises AssertionError at the first line that the commands no longer print.
    """
    lines = [line.rstrip() for line in actual.splitlines()]
    found, at, cut = [], 0, False
    for line in shown.splitlines():
        if line.strip() == CUT:
            found.append(CUT)
            cut = True
            continue
        ahead = range(at, len(lines)) if cut else range(at, min(at + 1, len(lines)))
        position = next((i for i in ahead if shape(lines[i]) == shape(line)), None)
        assert position is not None, f"not printed (any more): {line!r}; next is {lines[at : at + 1]}"
        found.append(lines[position])
        at, cut = position + 1, False
    assert cut or at == len(lines), f"printed but not shown: {lines[at]!r}"
    return found


def renewed(shown: str, actual: str) -> list[str]:
    """As many lines of `actual` before the first cut and after the last as `shown` has; all of them where nothing is cut."""
    lines = [line.rstrip() for line in actual.splitlines()]
    kept = shown.splitlines()
    if CUT not in kept:
        return lines
    tail = kept[::-1].index(CUT)
    return [*lines[: kept.index(CUT)], CUT, *lines[len(lines) - tail :]]


def replay(page: str, folder: Path, choose: Callable[[str, str], list[str]] = matched) -> str:
    """The page with every output shown replaced by what its commands print now; `choose` says which lines of it."""
    text = read(page)
    share_kernels(folder)
    printed, edits = "", []
    for block in blocks(text):
        if block.language == "sh":
            done = run(block.text, folder)
            assert done.returncode == 0, f"{page}: {block.text}\n{done.stdout}"
            assert "Traceback" not in done.stdout
            printed = done.stdout
        elif block.language == "text" and block.follows >= 0 and printed:
            edits.append((block.span, "\n".join(choose(block.text, printed)) + "\n"))
            printed = ""
        else:
            printed = ""
    for (start, end), fresh in reversed(edits):
        text = text[:start] + fresh + text[end:]
    return text


@pytest.mark.parametrize("page", PAGES)
def test_commands_run_and_print_what_the_page_shows(page, tmp_path):
    try:
        assert replay(page, tmp_path).count("\n") == read(page).count("\n")
    except AssertionError as error:
        raise AssertionError(f"{page}: {error}\nif the new output is right: python tests/unit/test_docs.py") from None


def test_an_output_may_differ_in_numbers_but_not_in_words():
    actual = "answer  1.25 ms\n------\nbound by memory\nlast 7\n"
    assert matched("answer 990 us\n...\nlast 8\n", actual) == ["answer  1.25 ms", CUT, "last 7"]
    for shown in ("answer 1 ms\n", "reply 1 ms\n...\n", "...\nbound by compute\n...\n", "last 7\n...\nanswer 1 ms\n"):
        with pytest.raises(AssertionError, match=r"printed"):
            matched(shown, actual)
    assert renewed("anything\n...\nlast\n", actual) == ["answer  1.25 ms", CUT, "last 7"]


@pytest.mark.parametrize("page", PAGES)
def test_no_command_escapes_the_test(page):
    for block in blocks(read(page)):
        assert block.language, f"{page}: a block without a language: {block.text[:60]!r} (sh is run, text is not)"
        assert block.language not in ("bash", "shell", "console"), f"{page}: commands that are run are in sh blocks"
    assert read(page).count("```") == 2 * len(list(blocks(read(page))))


# Tables of data files -------------------------------------------------------------------------------------------------


def engine_numbers() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(calibration_files.ENGINES_FILE.read_text(encoding="utf-8"))
    return numbers


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def engine_table() -> str:
    """Coefficients by engine, in readable units."""
    names = {
        "step_s": ("`step_s`, us", 1e6),
        "per_sequence_s": ("`per_sequence_s`, us", 1e6),
        "per_prefill_token_s": ("`per_prefill_token_s`, us", 1e6),
        "launch_factor": ("`launch_factor`", 1.0),
        "communication_factor": ("`communication_factor`", 1.0),
        "request_s": ("`request_s`, ms", 1e3),
        "neighbour_s": ("`neighbour_s`, ms", 1e3),
        "first_token_steps": ("`first_token_steps`", 1.0),
    }
    numbers = engine_numbers()
    rows = [
        [label, *(f"{float(f'{entry[name] * unit:.3g}'):g}" if name in entry else "" for entry in numbers.values())]
        for name, (label, unit) in names.items()
    ]
    return table(["", *(f"`{engine}`" for engine in numbers)], rows)


def error_table() -> str:
    """Held-out spreads by engine."""
    names = {"tpot_error_frac": "TPOT", "ttft_error_frac": "TTFT", "throughput_error_frac": "throughput"}
    rows = [
        [f"`{engine}`", *(f"{entry[name]:.2g}" if name in entry else "" for name in names)]
        for engine, entry in engine_numbers().items()
    ]
    return table(["", *names.values()], rows)


def scale_table() -> str:
    """Factors of borrowing architectures."""
    columns = ["compute", "bandwidth", "link", "launch", "host"]
    rows = [
        [f"`{engine}`", architecture, *(f"{scale[name]:.2g}" for name in columns)]
        for engine, entry in engine_numbers().items()
        for architecture, scale in entry.get("scales", {}).items()
    ]
    return table(["engine", "architecture", *columns], rows)


def row_table() -> str:
    """Rows that took part and rows set aside."""
    rows = [
        [f"`{engine}`", str(entry["rows"]), str(entry["rows_set_aside"])]
        for engine, entry in engine_numbers().items()
        if "rows_set_aside" in entry
    ]
    return table(["engine", "rows fitted", "set aside"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "engines": engine_table,
    "engine-errors": error_table,
    "scales": scale_table,
    "rows": row_table,
}
ENGINES_PAGE = "docs/physics/engines.md"


def with_tables(text: str) -> str:
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        assert rest, f"{ENGINES_PAGE} has no marker {name}"
        text = before + begin + "\n" + make() + "\n\n" + end + rest.partition(end)[2]
    return text


def test_the_tables_of_engines_are_those_of_the_data_file():
    assert read(ENGINES_PAGE) == with_tables(read(ENGINES_PAGE)), "run: python tests/unit/test_docs.py"


# Names ----------------------------------------------------------------------------------------------------------------


def options(verb: str | None) -> set[str]:
    """Every option of a verb and of what stands below it."""
    command: Any = typer.main.get_command(app)
    waiting = [command.commands[verb]] if verb else [command]
    found: set[str] = set()
    while waiting:
        command = waiting.pop()
        found |= {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
        waiting += list(getattr(command, "commands", {}).values()) if verb else []
    return found - {"--help"}


def section(text: str, title: str) -> str:
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_the_reference_has_every_option_and_no_other(verb):
    described = section(read("docs/reference.md"), verb or "gemmstone")
    names = set(re.findall(r"`(--[a-z0-9-]+)", described)) - {"--help"}
    names -= {"--batch"} - options(verb)
    assert names == options(verb)


SCENARIO = api.Scenario(
    model="llama-3.1-8b", hardware="h100-sxm", workload=api.Workload(input_tokens=64, output_tokens=8)
)
QUESTION = Question(model="llama-3.1-8b", hardware=("h100-sxm",), workload=SCENARIO.workload)
DOCUMENTS: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
    "predict": lambda: [api.predict(SCENARIO)],
    "plan": lambda: [api.plan(QUESTION, detail=True)],
    "compare": lambda: [api.compare({"a": api.predict(SCENARIO), "b": api.predict(SCENARIO)})],
    "validate": lambda: [api.validate(by=["kind"])],
    "traffic": lambda: [
        api.traffic_show("azure-code"),
        dict(distribution.find("azure-code").document) | api.head("traffic", []),
    ],
    "catalog": lambda: [
        made
        for of in (api.catalog_devices, api.catalog_models, api.catalog_engines)
        for made in (of(), of({api.catalog_devices: "h100-sxm", api.catalog_models: "gpt2"}.get(of, "vllm")))
    ],
}


@pytest.mark.parametrize("verb", DOCUMENTS)
def test_the_reference_has_every_field_of_every_document(verb):
    reference = read("docs/reference.md")
    head = set(re.findall(r"`(\w+)`", section(reference, "Every JSON document")))
    described = set(re.findall(r"`(\w+)`", section(reference, f"JSON of {verb}")))
    documents = DOCUMENTS[verb]()
    fields = {name for document in documents for name in document}
    assert {"schema", "gemmstone_version", "warnings"} <= fields & head
    assert fields - head <= described
    if verb == "plan":
        assert set(documents[0]["candidates"][0]) <= described
    if verb == "compare":
        assert set(documents[0]["entries"][0]) | set(documents[0]["differences"][0]) <= described


def test_every_metric_is_explained():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section(read("docs/reference.md"), "JSON of predict"), re.M)
    assert [name for name in rows if name in METRICS] == list(METRICS)
    explained = set(re.findall(r"`(\w+)`", read("docs/glossary.md")))
    assert set(METRICS) <= explained


@pytest.mark.parametrize(
    "column",
    sorted(set(re.findall(r"`(\w+)`", section(read("docs/howto/many-cases.md"), "Columns").split("All other")[0]))),
)
def test_every_documented_column_is_read(column, tmp_path):
    """A value that makes no sense is noticed, so the column means something."""
    row = {"model": "llama-3.1-8b", "hardware": "h100-sxm", column: "-7"}
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n", encoding="utf-8")
    answered, total = api.predict_cases(str(source), str(target))
    free_text = column == "engine_version"
    assert (answered, total) == (int(free_text), 1)


# Examples in pages ----------------------------------------------------------------------------------------------------


def test_the_scripts_shown_are_the_scripts_run():
    page = read("docs/howto/python.md")
    shown = re.findall(r"^`(examples/\w+\.py)`:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in shown} == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    for name, text in shown:
        assert text == read(name), f"{name} differs from what docs/howto/python.md shows"


def test_links_to_headings_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]+\.md)#([^)]+)\)", path.read_text(encoding="utf-8")):
            page = (path.parent / target).read_text(encoding="utf-8")
            headings = [re.sub(r"[^\w\s-]", "", line).strip() for line in re.findall(r"^#+ (.+)$", page, re.MULTILINE)]
            assert anchor in {re.sub(r"\s+", "-", heading.lower()) for heading in headings}, f"{path.name}: {target}"


def test_nothing_on_a_page_belongs_to_one_machine():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*")]
    for path in [path for path in pages if path.is_file()]:
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp|Users)/", path.read_text(encoding="utf-8")), path.name


def test_the_navigation_groups_every_page_under_a_title():
    nav = yaml.safe_load(read("mkdocs.yml"))["nav"]
    assert [next(iter(entry)) for entry in nav] == ["Start", "Tutorial", "How to", "Physics", "Reference", "Glossary"]


def refresh() -> None:
    """Writes today's outputs, tables, scripts and predictions of papers into the pages."""
    sys.path.insert(0, str(ROOT / "tests" / "golden"))
    importlib.import_module("papers.page").write()
    (ROOT / ENGINES_PAGE).write_text(with_tables(read(ENGINES_PAGE)), encoding="utf-8")
    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            (ROOT / page).write_text(replay(page, Path(folder), renewed), encoding="utf-8")


if __name__ == "__main__":
    refresh()
