"""gemmstone predict --cases: many rows in, the same rows out with their answers, whatever the file looks like."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from gemmstone.core.errors import BadRequest

ANSWERS = ("ttft_s", "tpot_s", "output_tokens_per_s", "energy_j_per_output_token", "mfu_frac")
GOOD = "llama-3.1-8b,h100-sxm"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def solve(gemmstone, tmp_path: Path):
    """Answers a CSV given as text; returns its rows."""

    def run(text: str | bytes, *options: str) -> list[dict[str, str]]:
        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        outcome = gemmstone("predict", "--cases", str(source), "--out", str(target), *options)
        assert outcome.out == ""
        assert outcome.code == 0, outcome.err
        return rows(target.read_text(encoding="utf-8", errors="surrogateescape"))

    return run


class TestColumns:
    def test_images_are_columns(self, solve, gemmstone):
        one, other = solve(
            "model,hardware,input_tokens,output_tokens,images,image_size\n"
            "qwen3-vl-8b,h100-sxm,256,64,2,640x480\nqwen3-vl-8b,h100-sxm,256,64,2,big\n"
        )
        options = "--on h100-sxm --engine generic --input 256 --output 64 --images 2 --image-size 640x480 --json"
        metrics = gemmstone("predict", "qwen3-vl-8b", *options.split()).document["metrics"]
        assert float(one["ttft_s"]) == pytest.approx(metrics["ttft_s"]["value"], rel=1e-6)
        assert "WIDTHxHEIGHT" in other["error"]

    def test_answers_with_bands(self, solve):
        (row,) = solve(f"model,hardware\n{GOOD}\n")
        assert row["error"] == ""
        assert row["bound"] in {"compute", "memory", "network", "host", "launch"}
        assert row["fidelity"] == "calibrated"
        for name in ANSWERS:
            assert 0 < float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])

    def test_a_row_says_what_the_command_says(self, solve, gemmstone):
        header = (
            "model,hardware,num_devices,engine,tp,pp,dp,ep,attention_dp,weights,activations,kv,input_tokens,"
            "output_tokens,length_spread,mode,load,requests_per_slot,max_num_seqs,max_num_batched_tokens,prefix_hit"
        )
        case = "deepseek-v3,h200-sxm,16,sglang,2,1,2,8,4,fp8,fp8,fp8,3000,200,0.2,concurrency,96,5,64,4096,0.25"
        (row,) = solve(f"{header}\n{case}\n")
        options = (
            "--on 16xh200-sxm --engine sglang --tp 2 --pp 1 --dp 2 --ep 8 --attention-dp 4 --weights fp8 "
            "--activations fp8 --kv fp8 --input 3000 --output 200 --length-spread 0.2 --concurrency 96 "
            "--requests-per-slot 5 --max-num-seqs 64 --max-num-batched-tokens 4096 --prefix-hit 0.25 --json"
        )
        metrics = gemmstone("predict", "deepseek-v3", *options.split()).document["metrics"]
        for name, metric in metrics.items():
            assert float(row[name]) == pytest.approx(metric["value"], rel=1e-6), name
            assert float(row[f"{name}_high"]) == pytest.approx(metric["high"], rel=1e-6), name

    def test_defaults(self, solve, gemmstone):
        (row,) = solve(f"model,hardware\n{GOOD}\n")
        same = ("--engine", "generic", "--input", "1024", "--output", "128", "--concurrency", "1", "--json")
        metrics = gemmstone("predict", "llama-3.1-8b", "--on", "h100-sxm", *same).document["metrics"]
        assert float(row["e2e_s"]) == pytest.approx(metrics["e2e_s"]["value"], rel=1e-6)

    @pytest.mark.parametrize(
        ("mode", "load", "option"),
        [
            ("rate", "0.5", ("--rate", "0.5")),
            ("batch", "8", ("--batch", "8")),
            ("offline", "", ("--offline",)),
            ("offline", "7", ("--offline",)),
        ],
    )
    def test_modes(self, solve, gemmstone, mode, load, option):
        (row,) = solve(f"model,hardware,engine,mode,load\n{GOOD},vllm,{mode},{load}\n")
        metrics = gemmstone("predict", "llama-3.1-8b", "--on", "h100-sxm", *option, "--json").document["metrics"]
        assert float(row["requests_per_s"]) == pytest.approx(metrics["requests_per_s"]["value"], rel=1e-6)

    def test_unknown_columns_and_order_are_kept(self, solve):
        answered = solve(f"note,hardware,id,model\nfirst,h100-sxm,7,gpt2\n,h100-sxm,8,gpt2\n,h100-sxm,9,{'x' * 50}\n")
        assert [row["id"] for row in answered] == ["7", "8", "9"]
        assert [row["note"] for row in answered] == ["first", "", ""]
        assert list(answered[0])[:5] == ["note", "hardware", "id", "model", "ttft_s"]
        assert list(answered[0])[-3:] == ["bound", "fidelity", "error"]

    def test_answering_an_answered_file_again(self, solve, tmp_path: Path):
        (first,) = solve(f"model,hardware,error\n{GOOD},stale\n")
        (again,) = solve((tmp_path / "out.csv").read_bytes())
        assert again == first

    def test_a_file_may_be_answered_in_place(self, gemmstone, tmp_path: Path):
        file = tmp_path / "cases.csv"
        file.write_text(f"model,hardware\n{GOOD}\n")
        assert gemmstone("predict", "--cases", str(file), "--out", str(file)).code == 0
        assert float(rows(file.read_text())[0]["tpot_s"]) > 0

    def test_hardware_may_carry_the_count(self, solve):
        answered = solve("model,hardware,num_devices\ngpt2,4xh100-sxm,\ngpt2,4xh100-sxm,4\ngpt2,4xh100-sxm,2\n")
        assert [bool(row["error"]) for row in answered] == [False, False, True]
        assert answered[0]["tpot_s"] == answered[1]["tpot_s"]

    def test_options_hold_for_all_rows(self, solve):
        (dear,) = solve(f"model,hardware\n{GOOD}\n", "--price", "100")
        (cheap,) = solve(f"model,hardware\n{GOOD}\n", "--price", "1", "--fidelity", "limit")
        assert cheap["fidelity"] == "limit"
        assert float(cheap["usd_per_million_output_tokens"]) < float(dear["usd_per_million_output_tokens"]) / 100
        assert float(cheap["tpot_s"]) < float(dear["tpot_s"])


BAD_ROWS = {
    "unknown device": ("model,hardware", "gpt2,h1000", "h100"),
    "unknown model": ("model,hardware", "no-such-model,h100-sxm", "unknown model"),
    "no model": ("model,hardware", ",h100-sxm", "model is empty"),
    "too short": ("model,hardware", "gpt2", "hardware is empty"),
    "too long": ("model,hardware", "gpt2,h100-sxm,3,4", "4 fields"),
    "tp of 7": ("model,hardware,num_devices,tp", "llama-3.1-8b,h100-sxm,7,7", "tp 7"),
    "does not fit": ("model,hardware", "llama-3.1-70b,h100-sxm", "does not fit"),
    "text for a number": ("model,hardware,load", "gpt2,h100-sxm,many", "load"),
    "not a number": ("model,hardware,input_tokens", "gpt2,h100-sxm,nan", "input_tokens"),
    "infinite": ("model,hardware,output_tokens", "gpt2,h100-sxm,inf", "output_tokens"),
    "too large for a float": ("model,hardware,load", "gpt2,h100-sxm,1e400", "load"),
    "huge": ("model,hardware,input_tokens", "gpt2,h100-sxm,1e300", "input_tokens"),
    "negative": ("model,hardware,output_tokens", "gpt2,h100-sxm,-5", "output_tokens"),
    "half a device": ("model,hardware,num_devices", "gpt2,h100-sxm,0.5", "num_devices"),
    "no devices": ("model,hardware,num_devices", "gpt2,h100-sxm,0", "num_devices"),
    "endless digits": ("model,hardware,tp", f"gpt2,h100-sxm,{'9' * 5000}", "tp"),
    "all in the cache": ("model,hardware,prefix_hit", "gpt2,h100-sxm,1", "prefix_hit"),
    "unknown mode": ("model,hardware,mode", "gpt2,h100-sxm,burst", "mode"),
    "unknown engine": ("model,hardware,engine", "gpt2,h100-sxm,warp", "engine"),
    "unknown format": ("model,hardware,weights", "gpt2,h100-sxm,fp7", "fp7"),
    "cap below idling": ("model,hardware,power_cap_w", "gpt2,h100-sxm,60", "draws 130 W between kernels"),
    "no cap": ("model,hardware,power_cap_w", "gpt2,h100-sxm,much", "power cap"),
    "a cap of no device": ("model,hardware,power_cap_w", "gpt2,h100-sxm,1e99", "at most 1e+06 W"),
    "one pool alone": ("model,hardware,prefill", "gpt2,h100-sxm,2*tp4", "give decode too"),
    "no pool": ("model,hardware,prefill,decode", "gpt2,h100-sxm,2xtp4,1*tp1", "no pool"),
    "degree beside pools": ("model,hardware,prefill,decode,tp", "gpt2,h100-sxm,1*tp1,1*tp1,2", "bring their own"),
    "devices of pools": ("model,hardware,num_devices,prefill,decode", "gpt2,h100-sxm,3,1*tp1,1*tp1", "make 2 devices"),
    "field too long": ("model,hardware", f"{'x' * 200_000},h100-sxm", "unreadable row"),
    "NUL": ("model,hardware", "gp\0t2,h100-sxm", "model"),
    "file that is no config": ("model,hardware", "/etc/hosts,h100-sxm", "JSON"),
}


@pytest.mark.parametrize(("header", "row", "expected"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_says_why_and_stops_nothing(solve, header, row, expected):
    commas = "," * (header.count(",") - 1)
    before, bad, after = solve(f"{header}\n{GOOD}{commas}\n{row}\n{GOOD}{commas}\n")
    assert (before["error"], after["error"]) == ("", "")
    assert expected in bad["error"]
    assert len(bad["error"]) < 1_000
    assert bad["error"].isprintable()
    assert not any(bad[name] for name in ANSWERS)


class TestSpellingsOfCsv:
    @pytest.mark.parametrize(
        "text",
        [
            b"\xef\xbb\xbfmodel,hardware,note\r\nllama-3.1-8b,h100-sxm,x\r\n",
            b'\xef\xbb\xbf"model","hardware","note"\n"llama-3.1-8b","h100-sxm","x"\n',
            b"model,hardware,note\rllama-3.1-8b,h100-sxm,x\r",
            b" model , hardware ,note\n llama-3.1-8b , h100-sxm ,x\n",
            b"model,hardware,note\n\n\nllama-3.1-8b,h100-sxm,x",
        ],
        ids=["BOM and CRLF", "BOM and quotes", "CR", "blanks", "empty lines, no end of line"],
    )
    def test_read_alike(self, solve, text):
        (row,) = solve(text)
        assert (row["error"], row["note"]) == ("", "x")

    def test_what_is_carried_through_is_not_changed(self, solve):
        note = 'two\nlines, a "quote" and \u00e9\u4e2d'
        quoted = note.replace('"', '""')
        (row,) = solve(f'model,hardware,note\n{GOOD},"{quoted}"\n')
        assert row["note"] == note

    def test_bytes_that_are_no_text_are_carried_through(self, solve, tmp_path: Path):
        (row,) = solve(b"model,hardware,note\nllama-3.1-8b,h100-sxm,caf\xe9\n")
        assert row["error"] == ""
        assert b"caf\xe9" in (tmp_path / "out.csv").read_bytes()


BROKEN = {
    "empty": b"",
    "only a byte order mark": b"\xef\xbb\xbf",
    "blank line": b"\n",
    "no hardware": b"model,device\ngpt2,h100-sxm\n",
    "no model": b"hardware\nh100-sxm\n",
    "column twice": b"model,hardware,tp,tp\ngpt2,h100-sxm,1,2\n",
    "two columns without a name": b"model,hardware,,\ngpt2,h100-sxm,,\n",
    "binary": bytes(range(256)) * 40,
    "zeros": b"\0" * 4096,
    "UTF-16": "model,hardware\ngpt2,h100-sxm\n".encode("utf-16"),
    "one endless line": b"x" * 10_000_000,
    "endless header": b"model,hardware," + b"c," * 200_000,
    "header never closed": b'"model,hardware\ngpt2,h100-sxm\n' * 4_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_header_is_refused_and_nothing_is_written(gemmstone, tmp_path: Path, content):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(content)
    outcome = gemmstone("predict", "--cases", str(source), "--out", str(target))
    assert (outcome.code, outcome.out) == (2, "")
    assert "in.csv" in outcome.problem
    assert list(tmp_path.iterdir()) == [source]


class TestFiles:
    def test_missing_source(self, gemmstone, tmp_path: Path):
        outcome = gemmstone("predict", "--cases", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out.csv"))
        assert outcome.code == 2
        assert "none.csv" in outcome.problem
        assert list(tmp_path.iterdir()) == []

    def test_folder_as_source(self, gemmstone, tmp_path: Path):
        outcome = gemmstone("predict", "--cases", str(tmp_path))
        assert (outcome.code, outcome.out) == (2, "")
        assert "directory" in outcome.problem

    @pytest.mark.parametrize("target", [".", "no/such/folder/out.csv", "in.csv/out.csv", "x" * 5_000, "a\0b"])
    def test_target_that_cannot_be_written(self, gemmstone, tmp_path: Path, monkeypatch, target):
        monkeypatch.chdir(tmp_path)
        Path("in.csv").write_text(f"model,hardware\n{GOOD}\n")
        outcome = gemmstone("predict", "--cases", "in.csv", "--out", target)
        assert (outcome.code, outcome.out) == (2, "")
        assert "cannot write" in outcome.problem
        assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]

    def test_a_failing_run_leaves_the_old_answers(self, gemmstone, tmp_path: Path, monkeypatch):
        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_text(f"model,hardware\n{GOOD}\n{GOOD}\n")
        target.write_text("old answers")
        monkeypatch.setattr("gemmstone.simulate.rows.scenario", _interrupted)
        outcome = gemmstone("predict", "--cases", str(source), "--out", str(target))
        assert outcome.code == 130
        assert "interrupted" in outcome.problem
        assert target.read_text() == "old answers"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]

    def test_a_link_stays_a_link(self, gemmstone, tmp_path: Path):
        source, real, link = tmp_path / "in.csv", tmp_path / "real.csv", tmp_path / "link.csv"
        source.write_text(f"model,hardware\n{GOOD}\n")
        link.symlink_to(real)
        assert gemmstone("predict", "--cases", str(source), "--out", str(link)).code == 0
        assert link.is_symlink()
        assert float(rows(real.read_text())[0]["tpot_s"]) > 0

    def test_a_device_is_written_to_and_not_replaced(self, gemmstone, tmp_path: Path):
        source, nowhere = tmp_path / "in.csv", tmp_path / "nowhere"
        source.write_text(f"model,hardware\n{GOOD}\n")
        nowhere.symlink_to("/dev/null")  # a link, so that no mistake can hurt the real one
        assert gemmstone("predict", "--cases", str(source), "--out", str(nowhere)).code == 0
        assert nowhere.is_char_device()

    @pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a disk that is full, as Linux has one")
    def test_a_full_disk(self, gemmstone, tmp_path: Path):
        source, full = tmp_path / "in.csv", tmp_path / "full"
        source.write_text(f"model,hardware\n{GOOD}\n")
        full.symlink_to("/dev/full")
        outcome = gemmstone("predict", "--cases", str(source), "--out", str(full))
        assert (outcome.code, outcome.out) == (2, "")
        assert "No space left" in outcome.problem

    def test_others_may_read_the_answers(self, gemmstone, tmp_path: Path):
        source, target = tmp_path / "in.csv", tmp_path / "out.csv"
        source.write_text(f"model,hardware\n{GOOD}\n")
        gemmstone("predict", "--cases", str(source), "--out", str(target))
        assert target.stat().st_mode == source.stat().st_mode


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class TestStreamsAndExitCodes:
    def test_standard_streams(self, gemmstone):
        outcome = gemmstone("predict", "--cases", "-", stdin=f"model,hardware\n{GOOD}\nnone,none\n".encode())
        assert outcome.code == 0
        assert [bool(row["error"]) for row in rows(outcome.out)] == [False, True]
        assert outcome.err == "1 of 2 cases answered\n"

    def test_no_row_answered(self, gemmstone):
        outcome = gemmstone("predict", "--cases", "-", stdin=b"model,hardware\nnone,none\n")
        assert outcome.code == 1
        assert "column error" in outcome.problem
        assert rows(outcome.out)[0]["error"]

    def test_no_rows(self, gemmstone):
        outcome = gemmstone("predict", "--cases", "-", stdin=b"model,hardware\n")
        assert outcome.code == 1
        assert outcome.out.startswith("model,hardware,ttft_s,")

    @pytest.mark.parametrize(
        "options",
        [("gpt2",), ("--on", "h100-sxm"), ("--tp", "2"), ("--json",), ("--set", "power.tdp=x2"), ("--offline",)],
        ids=lambda options: options[0],
    )
    def test_options_that_rows_decide_are_refused(self, gemmstone, options):
        outcome = gemmstone("predict", "--cases", "-", *options, stdin=f"model,hardware\n{GOOD}\n".encode())
        assert (outcome.code, outcome.out) == (2, "")
        assert options[0].replace("gpt2", "MODEL") in outcome.problem

    def test_out_belongs_to_cases(self, gemmstone, tmp_path: Path):
        outcome = gemmstone("predict", "gpt2", "--on", "h100-sxm", "--out", str(tmp_path / "out.csv"))
        assert outcome.code == 2
        assert "--cases" in outcome.problem
        assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_nowhere_is_looked_for_once(solve, monkeypatch):
    asked: list[str] = []

    def nowhere(repo_id: str, _: int) -> Path:
        asked.append(repo_id)
        raise BadRequest("the Hub is out of reach; pass the path of its config.json instead")

    monkeypatch.setattr("gemmstone.catalog.hub.config_path", nowhere)
    answered = solve("model,hardware\n" + "some/model,h100-sxm\n" * 50 + f"{GOOD}\n")
    assert asked == ["some/model"]
    assert all("config.json" in row["error"] for row in answered[:50])
    assert answered[50]["error"] == ""


def test_use_and_embodied_carbon_hold_for_all_rows(solve):
    (busy,) = solve(f"model,hardware\n{GOOD}\n")
    options = ("--utilization", "0.5", "--energy-scope", "node", "--embodied-kgco2", "150", "--lifetime", "5y")
    (lazy,) = solve(f"model,hardware\n{GOOD}\n", *options)
    for name in ("energy_j_per_output_token", "gco2_per_million_output_tokens", "usd_per_million_output_tokens"):
        assert float(lazy[name]) > float(busy[name]), name
    assert float(lazy["usd_per_million_output_tokens"]) == pytest.approx(
        2 * float(busy["usd_per_million_output_tokens"])
    )
    assert float(lazy["output_tokens_per_s"]) == float(busy["output_tokens_per_s"])
