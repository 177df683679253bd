"""Prices by place and date, and the command that brings prices and carbon up to date from public tables."""

from __future__ import annotations

import csv
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemmstone.api import Money
from gemmstone.catalog import carbon, device_files, prices, refresh
from gemmstone.core.errors import BadRequest

VMS = """InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice
cpu-small,,0,4,16,0.0992,eu-north1,,
gpu-h100-sxm_1gpu,H100,1,16,200,2.95,eu-north1,"{'Gpus': [{'Name': 'H100'}]}",1.25
gpu-h100-sxm_8gpu,H100,8,128,1600,20.00,eu-north1,"{'Gpus': []}",10.00
gpu-h200-sxm_8gpu,H200,8,128,1600,28.00,us-central1,,
gpu-mi300x,MI300X,1,16,200,1.99,us-central1,,
gpu-nonsense,Quantum9000,1,1,1,1.00,us-central1,,
gpu-broken,L4,1,1,1,nan,us-central1,,
"""
OWID = """Entity,Code,Year,Carbon intensity of electricity - gCO2/kWh
France,FRA,2023,56.0
France,FRA,2024,44.2
France,FRA,1995,80.0
Poland,POL,2024,612.0
Atlantis,ATL,2024,1.0
Asia,,2024,555.5
World,OWID_WRL,2024,473.1
Germany,DEU,2024,nan
"""


def test_every_row_names_a_device_a_place_a_date_and_a_source() -> None:
    with prices.FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == prices.COLUMNS
    known = set(device_files.published())
    for row in rows:
        assert row["device"] in known
        assert row["provider"]
        assert row["region"]
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", row["date"])
        assert re.search(r"https?://|github\.com/", row["source"])
        assert 0.05 < float(row["usd_per_hour"]) < 20
        assert not row["spot_usd_per_hour"] or float(row["spot_usd_per_hour"]) <= float(row["usd_per_hour"])
    assert rows == sorted(rows, key=lambda row: (row["device"], row["provider"], row["region"]))
    assert len({(row["device"], row["provider"], row["region"]) for row in rows}) == len(rows)
    vendors = {device_files.find(row["device"]).vendor for row in rows}
    assert {"NVIDIA", "AMD", "AWS", "Google"} <= vendors


def test_a_device_without_a_price_of_its_own_takes_the_newest() -> None:
    device = device_files.find("mi300x")
    assert device.price is not None
    assert device.price.usd_per_hour == float(prices.of("mi300x")[0]["usd_per_hour"])
    assert device.price.date
    assert prices.default("h20") is None
    dates = [row["date"] for row in prices.of("h100-sxm")]
    assert dates == sorted(dates, reverse=True)


def test_a_cloud_region_has_a_price_of_its_own() -> None:
    h100, l4 = device_files.find("h100-sxm"), device_files.find("l4")
    tokyo = prices.at("tpu-v6e", "gcp:asia-northeast1")
    assert tokyo is not None
    assert tokyo.usd_per_hour == 3.24
    assert prices.at("h100-sxm", "gcp:asia-northeast1") is None
    economics = Money(region="gcp:asia-northeast1").economics(device_files.find("tpu-v6e"))
    assert economics.usd_per_device_hour == 3.24
    assert Money(region="FRA").economics(h100).usd_per_device_hour == Money().economics(h100).usd_per_device_hour
    assert Money(region="us-east-1").economics(l4).usd_per_device_hour == 0.8048
    assert Money(region="us-east-1", usd_per_device_hour=9.0).economics(l4).usd_per_device_hour == 9.0


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/aws/vms.csv": VMS.encode(), "/owid.csv": OWID.encode()}.get(self.path)
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def written(folder: Path, name: str = "prices.csv") -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_prices_are_read_from_a_server_and_replace_the_providers(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--prices", f"{server}/aws/vms.csv", "--date", "2026-02-03", "--into", str(tmp_path)]
    assert refresh.main(asked) == 0
    assert "3 rows" in capsys.readouterr().out
    rows = {(row["device"], row["region"]): row for row in written(tmp_path)}
    assert set(rows) == {("h100-sxm", "eu-north1"), ("h200-sxm", "us-central1"), ("mi300x", "us-central1")}
    h100 = rows["h100-sxm", "eu-north1"]  # the eighth of a node is cheaper than a single device
    assert (h100["usd_per_hour"], h100["spot_usd_per_hour"], h100["instance"]) == ("2.5", "1.25", "gpu-h100-sxm_8gpu")
    assert (h100["provider"], h100["date"], h100["source"]) == ("aws", "2026-02-03", f"{server}/aws/vms.csv")
    before = (tmp_path / "prices.csv").read_bytes()
    assert refresh.main(asked) == 0
    assert (tmp_path / "prices.csv").read_bytes() == before
    cheaper = tmp_path / "vms.csv"
    cheaper.write_text(VMS.replace("20.00", "16.00"), encoding="utf-8")
    assert refresh.main([*asked[2:], "--prices", str(cheaper), "--provider", "Nebius"]) == 0
    both = written(tmp_path)
    assert {row["provider"] for row in both} == {"aws", "nebius"}
    assert len(both) == 6


def test_carbon_takes_the_newest_year_and_keeps_all_else(server: str, tmp_path: Path) -> None:
    asked = ["--carbon", f"{server}/owid.csv", "--date", "2026-02", "--into", str(tmp_path)]
    assert refresh.main(asked) == 0
    with carbon.FILE.open(encoding="utf-8", newline="") as file:
        old = {row["region"]: row for row in csv.DictReader(file)}
    new = {row["region"]: row for row in written(tmp_path, "carbon.csv")}
    assert list(new) == list(old)
    assert (new["FRA"]["g_per_kwh"], new["FRA"]["year"]) == ("44.2", "2024")
    assert new["FRA"]["source"] == f"{server}/owid.csv, read 2026-02"
    assert new["world"]["g_per_kwh"] == "473.1"
    changed = {region for region, row in new.items() if row != old[region]}
    assert changed == {"FRA", "POL", "world"}


def test_what_was_refreshed_is_what_is_cited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh.refresh_carbon(OWID, "2026-02", "https://ourworldindata.org/x.csv", tmp_path)
    monkeypatch.setattr(carbon, "FILE", tmp_path / "carbon.csv")
    carbon._rows.cache_clear()
    carbon._names.cache_clear()
    try:
        assert carbon.intensity("France") == (44.2, "France, 2024: https://ourworldindata.org/x.csv, read 2026-02")
        assert carbon.intensity("gcp:us-central1")[0] > 0
    finally:
        carbon._rows.cache_clear()
        carbon._names.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give --prices"),
        (["--prices", "absent/vms.csv"], "cannot read"),
        (["--prices", "file:///etc/passwd"], "http:// or https://"),
        (["--prices", "ftp://127.0.0.1/x"], "http:// or https://"),
        (["--prices", "http://127.0.0.1:1/aws/vms.csv"], "cannot read"),
        (["--prices", "{file}", "--date", "yesterday"], "is not a date"),
        (["--carbon", "{file}"], "no column Entity"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    path = tmp_path / "vms.csv"
    path.write_text(VMS, encoding="utf-8")
    given = [argument.replace("{file}", str(path)) for argument in arguments]
    assert refresh.main([*given, "--into", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (tmp_path / "prices.csv").exists()


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("", "no column"),
        ("AcceleratorName,AcceleratorCount,Price\nH100,1,2\n", "no column Region"),
        (
            "AcceleratorName,AcceleratorCount,Price,Region\nH100,1,-2,x\nH100,0,2,x\nH100,1,1e300,x\n",
            "no row of the table",
        ),
        ("AcceleratorName,AcceleratorCount,Price,Region\n" + "x" * 5000 + ",1,1,r\n", "not a CSV"),
        ("AcceleratorName,AcceleratorCount,Price,Region\nH100,1,2,\0\n", "no row of the table|not a CSV"),
        ("AcceleratorName,AcceleratorCount,Price,Region\n/etc/passwd.toml,1,2,r\n", "no row of the table"),
    ],
)
def test_a_hostile_table_changes_nothing(tmp_path: Path, table: str, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint) as caught:
        refresh.refresh_prices(table, "aws", "2026-01-01", "source", tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_too_large_too_long_and_binary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadRequest, match="UTF-8"):
        refresh.read(str(path))
    monkeypatch.setattr(refresh, "MAX_BYTES", 3)
    with pytest.raises(BadRequest, match="larger than"):
        refresh.read(str(path))
    monkeypatch.setattr(refresh, "MAX_ROWS", 2)
    with pytest.raises(BadRequest, match="more than 2 rows"):
        refresh.refresh_prices(VMS, "aws", "2026-01-01", "source", tmp_path)


def test_texts_of_a_table_do_nothing_in_a_spreadsheet_or_terminal(tmp_path: Path) -> None:
    table = 'AcceleratorName,AcceleratorCount,Price,Region,InstanceType\nH100,1,2,"=cmd()\x1b[31m",@x\n'
    refresh.refresh_prices(table, "aws", "2026-01-01", "source", tmp_path)
    (row,) = written(tmp_path)
    assert row["region"] == "cmd()[31m"
    assert row["instance"] == "x"
