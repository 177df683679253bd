"""Facts about the repository that drift when nobody looks."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import gemmstone

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def normal(requirement: str) -> str:
    """The name of a requirement as the package index compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement.strip(), maxsplit=1)[0]).lower()


OWN_BUILD = ("torch",)  # which of its builds fits is the machine's to say: make torch


def pins(path: str) -> dict[str, str]:
    """Name and line of each requirement of a lock file."""
    lines = [line for line in text(path).splitlines() if line and not line.lstrip().startswith("#")]
    return {normal(line): line for line in lines}


def test_the_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == gemmstone.__version__
    assert f"\n## {gemmstone.__version__}" in text("CHANGELOG.md")


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", yaml.safe_dump(yaml.safe_load(text("mkdocs.yml"))["nav"])))


def test_the_glossary_is_sorted_and_has_each_word_once():
    terms = re.findall(r"^(?!: )(.+)\n: ", text("docs/glossary.md"), re.MULTILINE)
    assert len(terms) > 30
    assert terms == sorted(set(terms), key=str.casefold)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_file_pins_versions_and_names_no_host(lock):
    lines = pins(lock)
    assert all(re.match(r"[a-z0-9.-]+==\S+( ; .+)?$", line) for line in lines.values())
    assert "://" not in text(lock)
    wanted = {normal(requirement) for requirement in PROJECT["project"]["dependencies"]}
    wanted |= {normal(requirement) for requirement in PROJECT["dependency-groups"]["build"]}
    if lock == "requirements-dev.lock":
        extras = PROJECT["project"]["optional-dependencies"]
        wanted |= {normal(requirement) for extra in extras.values() for requirement in extra} - {
            "gemmstone",
            *OWN_BUILD,
        }
    assert wanted <= set(lines)


def test_both_lock_files_agree():
    run, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name: dev.get(name, "").split(" ;")[0] for name in run} == {
        name: line.split(" ;")[0] for name, line in run.items()
    }


def test_the_quick_start_names_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        named = set(re.findall(r"^make ([a-z-]+)", text(page), re.MULTILINE))
        assert named <= targets, page
    assert {"demo", "test", "test-all", "lint", "types", "layers", "docs", "lock"} <= targets


def test_links_between_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_folder_of_the_package_has_a_place_in_the_layers():
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = set(re.findall(r"\w+", " ".join(layers)))
    package = ROOT / "src" / "gemmstone"
    there = {path.parent.name for path in package.glob("*/*.py")} | {path.stem for path in package.glob("*.py")}
    assert there - {"__init__", "__main__"} <= placed


@pytest.mark.slow
def test_the_wheel_holds_the_data_and_the_type_marker(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "src"
    data = {
        path.relative_to(package).as_posix()
        for path in (package / "gemmstone").rglob("*")
        if path.is_file() and path.suffix in (".toml", ".json", ".csv", ".py", ".typed")
    }
    assert data <= names
    assert "gemmstone/py.typed" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
