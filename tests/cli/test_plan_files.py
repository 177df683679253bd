"""gemmstone plan: the files it writes to start the best, and the break-even against an API."""

from __future__ import annotations

import pytest
import yaml

SMALL = ("plan", "llama-3.1-8b", "--on", "h100-sxm", "--input", "1000", "--output", "1000")


def test_manifests_are_written_and_in_the_document(gemmstone, tmp_path):
    files = {kind: tmp_path / f"{kind}.yaml" for kind in ("kubernetes", "compose")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    document = gemmstone(*SMALL, *options, "--json").document
    for kind, file in files.items():
        assert file.read_text() == document["manifests"][kind]
    kinds = [part["kind"] for part in yaml.safe_load_all(files["kubernetes"].read_text())]
    assert kinds[-1] == "Service"
    services = yaml.safe_load(files["compose"].read_text())["services"]
    (container,) = {service["image"] for service in services.values()}
    assert container.startswith("vllm/vllm-openai:v")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compose.yaml", "kubernetes.yaml"]


def test_nothing_is_written_unless_asked(gemmstone):
    assert gemmstone(*SMALL, "--json").document["manifests"] == {}


def test_a_manifest_that_cannot_be_is_a_reason_and_no_file(gemmstone, tmp_path):
    file = tmp_path / "k.yaml"
    outcome = gemmstone(*SMALL, "--engine", "transformers", "--kubernetes", str(file), "--json")
    assert outcome.code == 1
    assert "no container image of Hugging Face Transformers" in outcome.problem
    assert outcome.printed["best"] is not None
    assert outcome.printed["manifests"]["kubernetes"].startswith("# ")
    assert not file.exists()


def test_no_best_no_file(gemmstone, tmp_path):
    outcome = gemmstone(*SMALL, "--slo", "tpot=1us", "--compose", str(tmp_path / "c.yaml"), "--json")
    assert outcome.code == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(gemmstone, tmp_path):
    outcome = gemmstone(*SMALL, "--compose", str(tmp_path / "none" / "c.yaml"), "--json")
    assert outcome.code == 2
    assert "cannot write" in outcome.problem


def test_break_even_in_document_terminal_and_page(gemmstone, tmp_path):
    page = tmp_path / "plan.html"
    priced = (*SMALL, "--price", "2.7", "--api-price", "in=0.03,out=0.06")
    found = gemmstone(*priced, "--json").document["break_even"]
    assert found["api_usd_per_request"] == pytest.approx(0.09)
    assert found["break_even_requests_per_s"] == pytest.approx(1 / 120)
    out = gemmstone(*priced, "--report", str(page)).out
    assert "against an API" in out
    assert "0.09 USD" in page.read_text().replace("\u00a0", " ")
    assert gemmstone(*SMALL, "--json").document["break_even"] is None


def test_the_planned_rate_is_what_an_api_would_charge_for(gemmstone):
    found = gemmstone(*SMALL, "--rate", "1", "--api-price", "in=3usd/M,out=15usd/M", "--json").document["break_even"]
    assert found["planned_requests_per_s"] == 1
    assert found["api_usd_per_month"] == pytest.approx(0.018 * 3600 * 730)
    assert found["capacity_requests_per_s"] > 1


@pytest.mark.parametrize("price", ["0.03", "in=a,out=b", "in=0.03"])
def test_an_impossible_api_price(gemmstone, price):
    outcome = gemmstone(*SMALL, "--api-price", price, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "in=0.03,out=0.06" in outcome.problem


def test_llama_cpp_has_a_command_where_it_takes_the_formats(gemmstone):
    document = gemmstone(
        "plan", "llama-3.1-8b", "--on", "rtx-4090", "--engine", "llamacpp", "--weights", "q4_k_m", "--json"
    ).document
    assert "llama-server --hf-repo" in document["launch"]
    assert "does not take weights in q4_k_m" in document["launch_commands"]["vllm"]
