"""What the pages on adding things promise, done inside a copy of the package: one file, one row at most, nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE_DOCUMENT = r"^cat > {name} <<'END'\n(.*?)^END$"


def written(page: str, name: str) -> str:
    """The text of the file that a page of docs/howto has written under a name."""
    text = (ROOT / "docs" / "howto" / page).read_text(encoding="utf-8")
    return re.search(HERE_DOCUMENT.format(name=re.escape(name)), text, re.MULTILINE | re.DOTALL)[1]


def insert(path: Path, before: str, row: str) -> None:
    """Puts a row in front of a line of a table."""
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, row + before), encoding="utf-8")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, which its own rows and files may be added to."""
    shutil.copytree(ROOT / "src" / "gemmstone", tmp_path / "gemmstone", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "gemmstone"


def gemmstone(package: Path, *arguments: str) -> str:
    """What the command line of the copy prints."""
    done = subprocess.run(
        [sys.executable, "-m", "gemmstone", *arguments],
        cwd=package.parent,
        env={"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = ("--input", "512", "--output", "64", "--concurrency", "4")


def test_a_family_is_one_file_and_one_row(package: Path) -> None:
    families = package / "graph" / "families"
    (families / "arcee.py").write_text(written("add-a-model.md", "arcee.py"), encoding="utf-8")
    insert(families / "__init__.py", '    "GPT2LMHeadModel": gpt2.gpt2,\n', '    "ArceeForCausalLM": arcee.arcee,\n')
    insert(families / "__init__.py", "    arctic,\n", "    arcee,\n")
    config = package.parent / "config.json"
    config.write_text(written("add-a-model.md", "small-arcee/config.json"), encoding="utf-8")
    assert "4022766080" in gemmstone(package, "catalog", "models", str(config))
    for engine in ("vllm", "llamacpp"):
        answer = gemmstone(package, "predict", str(config), "--on", "2xh100-sxm", "--engine", engine, *LOAD)
        assert "time per output token" in answer
    assert "start the best with" in gemmstone(package, "plan", str(config), "--on", "2xh100-sxm", *LOAD[:4])


def test_a_technique_is_one_file_and_one_row(package: Path) -> None:
    techniques = package / "graph" / "techniques"
    (techniques / "cross_layer.py").write_text(written("add-a-technique.md", "cross_layer.py"), encoding="utf-8")
    insert(techniques / "__init__.py", "        kivi.TECHNIQUE,\n", "        cross_layer.TECHNIQUE,\n")
    insert(techniques / "__init__.py", "    context_parallel,\n", "    cross_layer,\n")
    asked = ("llama-2-7b", "--on", "a100-sxm-80gb", "--technique", "cross-layer:layers=4", *LOAD[:4])
    assert "cross-layer" in gemmstone(package, "predict", *asked)
    assert "cross-layer" in gemmstone(package, "plan", *asked)


def test_a_device_is_one_file(package: Path) -> None:
    devices = package / "catalog" / "devices"
    (devices / "my-chip.toml").write_text(written("add-a-device.md", "my-chip.toml"), encoding="utf-8")
    assert "my-chip" in gemmstone(package, "catalog", "devices")
    assert "1.9 TB/s (some blog)" in gemmstone(package, "catalog", "devices", "MY CHIP")
    assert "on 2xmy-chip" in gemmstone(package, "predict", "llama-3.1-8b", "--on", "2xmychip64", *LOAD)
    assert "2xmy-chip" in gemmstone(package, "plan", "llama-3.1-8b", "--on", "2xmy-chip", *LOAD[:4])


def test_a_system_is_one_file(package: Path) -> None:
    for folder, name in (("devices", "my-chip.toml"), ("systems", "my-node.toml")):
        text = written("add-a-device.md", name)
        (package / "catalog" / folder / name).write_text(text.replace('"my-chip.toml"', '"my-chip"'), encoding="utf-8")
    answer = gemmstone(package, "predict", "llama-3.1-70b", "--on", "2xmy-node", "--tp", "4", "--dp", "2", *LOAD)
    assert "on 8xmy-chip" in answer
