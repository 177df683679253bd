"""Every script in examples/ runs as it is and prints what its first line promises."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAX_LINES = 40


def output(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(folder.iterdir()), "an example leaves nothing behind"
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_does(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < MAX_LINES
    assert re.match(r'""".{30,}\."""$', lines[0])


def test_predict_one(tmp_path):
    lines = output("predict_one.py", tmp_path).splitlines()
    found = {}
    for line in lines[:4]:
        name, *numbers = re.fullmatch(r"(\w+): (\S+) \((\S+) to (\S+)\), physical limit (\S+)", line).groups()
        found[name] = value, low, high, limit = [float(number) for number in numbers]
        assert low < value < high
        assert limit > value if name == "output_tokens_per_s" else limit < value
    assert list(found) == ["ttft_s", "tpot_s", "output_tokens_per_s", "usd_per_million_output_tokens"]
    dollars, tokens = found["usd_per_million_output_tokens"][0], found["output_tokens_per_s"][0]
    assert dollars * tokens * 3600 / 1e6 == pytest.approx(8 * 2.95, rel=2e-3)  # eight H100 at the catalogue's price
    shares = [int(re.search(r": (\d+)% of a decode step", line)[1]) for line in lines[4:]]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 3
    assert 30 < sum(shares) <= 100


def test_plan_and_read(tmp_path):
    lines = output("plan_and_read.py", tmp_path).splitlines()
    ranked = [re.fullmatch(r"(\d)\. (vllm|sglang) (.+): (\d+) output tokens/s", line).groups() for line in lines[:3]]
    speeds = [int(speed) for *_, speed in ranked]
    assert all(later <= sooner * 1.005 for sooner, later in itertools.pairwise(speeds)), (
        "as good as equal ones may swap"
    )
    changes = dict(re.findall(r"\+10% (\w+): ([+-][\d.]+)% output tokens/s", "\n".join(lines)))
    assert set(changes) == {"compute", "memory_bandwidth", "memory_capacity", "link_bandwidth", "host_speed"}
    assert all(-0.5 < float(change) <= 10.1 for change in changes.values())
    engine = {"vllm": "vllm serve", "sglang": "sglang.launch_server"}[ranked[0][1]]
    starts = [line for line in lines if engine in line]
    assert starts, "one line a process"
    assert all("meta-llama/Llama-3.1-70B" in line for line in starts)


def test_sweep_hardware(tmp_path):
    rows = [line.split() for line in output("sweep_hardware.py", tmp_path).splitlines()[1:]]
    refused = [row for row in rows if "fit" in row]
    assert [row[0] for row in refused] == ["1xl4"]
    answers = {(row[0], int(row[1])): [float(cell) for cell in row[2:]] for row in rows if row not in refused}
    assert len(answers) == 12
    for hardware in {hardware for hardware, _ in answers}:
        tpot, tokens, dollars = zip(*(answers[hardware, load] for load in (1, 16, 64)), strict=True)
        assert list(tpot) == sorted(tpot)
        assert list(tokens) == sorted(tokens)
        assert list(dollars) == sorted(dollars, reverse=True)
    assert answers["1xh200-sxm", 1][0] < answers["1xh100-sxm", 1][0] < answers["1xa100-sxm-80gb", 1][0]


def test_judge_measurements(tmp_path):
    """What the example was made of: 80 ms a prompt, 25 ms a token, half as long again on average; no difference in power."""
    token, prompt, verdict = output("judge_measurements.py", tmp_path).splitlines()
    found, average = map(float, re.findall(r"([\d.]+) ms", token))
    assert found == pytest.approx(25.0, rel=0.03)
    assert average > 1.3 * found
    assert float(re.search(r"([\d.]+) ms", prompt)[1]) == pytest.approx(80, rel=0.05)
    assert float(re.search(r"([\d.]+) times", prompt)[1]) == pytest.approx(1.5, rel=0.05)
    assert "not significant" in verdict
