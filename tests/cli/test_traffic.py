"""gemmstone traffic: what a traffic is like, and a trace made into a file that --traffic takes."""

from __future__ import annotations

import json

import pytest

TRACE = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{i / 4},{100 + i % 50},{10 + i % 7}\n" for i in range(200))


def test_show_says_what_a_traffic_is_like(gemmstone):
    document = gemmstone("traffic", "show", "azure-conversation", "--requests", "5000", "--json").document
    assert document["schema"] == "gemmstone/traffic/1"
    assert document["traffic"]["requests"] == 5_000
    assert document["traffic"]["input_tokens"]["p50"] == pytest.approx(1_020, rel=0.05)
    assert document["distribution"]["license"].startswith("CC-BY-4.0")


def test_show_in_the_terminal(gemmstone):
    shown = gemmstone("traffic", "show", "gamma:cv=4", "--rate", "10", "--requests", "20000", "--input", "500")
    assert shown.code == 0
    assert "10 requests/s" in shown.out
    assert "prompt tokens" in shown.out


def test_closed_and_empty(gemmstone, tmp_path):
    assert "8 in flight" in gemmstone("traffic", "show", "closed", "--concurrency", "8").out
    (tmp_path / "a.csv").write_text("")
    document = gemmstone("traffic", "show", str(tmp_path / "a.csv"), "--json").document
    assert document["traffic"]["requests"] == 0
    assert gemmstone("traffic", "show", str(tmp_path / "a.csv")).code == 0


def test_fit_writes_what_show_reads(gemmstone, tmp_path):
    (tmp_path / "a.csv").write_text(TRACE)
    out = str(tmp_path / "mine.json")
    fitted = gemmstone("traffic", "fit", str(tmp_path / "a.csv"), "--out", out, "--name", "mine", "--json").document
    written = json.loads((tmp_path / "mine.json").read_text())
    assert fitted["fit"] == written["fit"]
    assert written["name"] == "mine"
    assert gemmstone("traffic", "show", out, "--json").document["traffic"]["name"] == "mine"
    assert "Kolmogorov" in gemmstone("traffic", "fit", str(tmp_path / "a.csv")).out


def test_a_broken_trace_is_one_line_and_exit_2_until_repaired(gemmstone, tmp_path):
    (tmp_path / "a.csv").write_text(TRACE + "1,5,5\n60,0,1\n")
    refused = gemmstone("traffic", "show", str(tmp_path / "a.csv"))
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "line 202" in refused.err
    assert "line 203" in refused.err
    repaired = gemmstone("traffic", "show", str(tmp_path / "a.csv"), "--repair", "--json")
    assert repaired.code == 0
    assert len(repaired.printed["warnings"]) == 2
    assert repaired.printed["traffic"]["requests"] == 201


@pytest.mark.parametrize("name", ["nothing-known", "gone.csv", "gamma:cv=zero", "."])
def test_unknown_traffic(gemmstone, name):
    refused = gemmstone("traffic", "show", name, "--rate", "1")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "internal" not in refused.err


def test_a_file_that_cannot_be_written_is_said(gemmstone, tmp_path):
    (tmp_path / "a.csv").write_text(TRACE)
    refused = gemmstone("traffic", "fit", str(tmp_path / "a.csv"), "--out", str(tmp_path / "no" / "x.json"))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
