"""From device to wall: the parts add up, nothing exceeds a nameplate, and the fit finds the coefficients of made-up servers."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemmstone.calibrate import node as fit
from gemmstone.catalog import device_files, node_power
from gemmstone.core.errors import BadRequest
from gemmstone.predict import node

# Coefficients that the made-up tables below are written with.
DEVICE, BOARD, PROCESSORS, EFFICIENCY, SERVER_W = 1.1, 0.2, 0.9, 0.95, 350.0


def test_parts_add_up_to_a_wall_above_the_devices() -> None:
    device, watts = device_files.find("h100-sxm"), np.array([80.0, 400.0, 700.0])
    found = node.wall(device, watts, devices=8)
    parts = found.device_w + found.fans_w + found.board_w + found.host_w + found.supply_loss_w
    assert np.allclose(parts, found.power_w)
    assert np.all(found.power_w > watts)
    assert np.all(np.diff(found.power_w) > 0)
    assert np.allclose(found.supply_loss_w / found.power_w, 1.0 - node_power.load().supply_efficiency)


RATED = [
    slug
    for slug in device_files.systems()
    if (device := device_files.cluster(slug).device).host_tier and device.host_tier.power_w and device.tdp_w
]


@pytest.mark.parametrize("slug", RATED)
def test_no_system_draws_more_than_its_maker_says(slug: str) -> None:
    """The nameplate was not fitted: without it no sum comes out more than 5% above, nor below half of it."""
    device = device_files.cluster(slug).device
    full = np.array([device.tdp_w])
    assert device.tdp_w < node.wall(device, full, devices=8).power_w[0] <= device.host_tier.power_w * (1 + 1e-9)
    unrated = replace(device, host_tier=replace(device.host_tier, power_w=None))
    assert 0.5 < node.wall(unrated, full, devices=8).power_w[0] / device.host_tier.power_w < 1.05


def test_a_card_alone_pays_for_its_server_and_eight_share_one() -> None:
    card, watts = device_files.find("l4"), np.array([72.0])
    alone, shared, more = (node.wall(card, watts, devices=count).power_w[0] for count in (1, 8, 64))
    assert alone - shared == pytest.approx(7 / 8 * node_power.load().server_w)
    assert shared == more
    assert node.error_frac(card, 1) > node.error_frac(card, 8)


def test_a_processor_brings_the_rest_of_its_host_and_a_chip_nothing() -> None:
    """A Ryzen 7950X of 170 W drew 290 to 330 W at the wall in MLPerf Inference v3.1 and v4.0."""
    ryzen = device_files.find("ryzen-7950x")
    assert 280 < node.wall(ryzen, np.array([ryzen.tdp_w]), devices=1).power_w[0] < 340
    orin = device_files.find("jetson-orin")
    assert node.wall(orin, np.array([orin.tdp_w]), devices=1).power_w[0] < 1.2 * orin.tdp_w


def test_a_server_of_known_processors_is_close_to_one_of_unknown_ones() -> None:
    """Eight H100 SXM: the two fits were made on the same meters."""
    watts = np.array([700.0])
    known = node.wall(device_files.cluster("dgx-h100").device, watts, devices=8).power_w[0]
    unknown = node.wall(device_files.find("h100-sxm"), watts, devices=8).power_w[0]
    assert known == pytest.approx(unknown, rel=0.05)


def test_a_nameplate_below_the_sum_takes_from_all_but_the_devices() -> None:
    capped = device_files.edit(device_files.find("h100-sxm"), "power.system=800W")
    found = node.wall(capped, np.array([700.0]), devices=8)
    assert found.device_w[0] == 700.0
    assert found.power_w[0] == pytest.approx(800.0)


def test_busy_processors_draw_more() -> None:
    device, watts = device_files.cluster("dgx-h100").device, np.array([300.0])
    idle, usual, busy = (node.wall(device, watts, load, devices=8).power_w[0] for load in (0.0, None, 1.0))
    assert idle < usual < busy
    assert busy - idle < 8 * 700.0  # of the whole machine's processors, eight shares of 87.5 W


def test_cards_have_no_baseboard_and_modules_do() -> None:
    assert node.on_baseboard(device_files.find("mi300x"))
    assert node.on_baseboard(device_files.find("gaudi2"))
    assert not node.on_baseboard(device_files.find("l40s"))
    assert not node.on_baseboard(device_files.find("h100-nvl"))
    assert not node.on_baseboard(device_files.find("epyc-9654"))


def test_machines_that_were_not_metered_have_wider_errors() -> None:
    known, unknown, other, cpu = (
        node.error_frac(device, 8)
        for device in (
            device_files.cluster("dgx-h100").device,
            device_files.find("h100-sxm"),
            device_files.find("mi300x"),
            device_files.find("epyc-9654"),
        )
    )
    assert known < unknown < other < cpu


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Tables of power as they would read of servers that follow the form exactly."""
    logs, summary = [], []
    for row in fit._rows(fit.SYSTEMS):
        count, tdp_w = float(row["num_devices"]), float(device_files.find(row["device"]).tdp_w)
        wall_w = DEVICE * count * float(row["device_limit_w"] or fit.UNKNOWN_OF_TDP * tdp_w)
        if row["device_limit_w"]:
            wall_w += BOARD * count * tdp_w * (row["baseboard"] == "1") + PROCESSORS * float(row["processors_w"])
        else:
            wall_w += SERVER_W
        if row["round"] == "v4.1":
            named = {key: row[key] for key in ("round", "system", "model", "scenario")}
            logs.append({**named, "avg_system_power_w": wall_w})
        else:
            summary.append(
                {
                    "dataset": f"mlperf_inference_{row['round']}",
                    "notes": f"division=closed;submitter={row['submitter']};system={row['system']};suite=datacenter",
                    "model": row["model"],
                    "scenario": row["scenario"],
                    "power_value": wall_w,
                }
            )
    write(tmp_path / fit.LOGS, logs)
    write(tmp_path / fit.SUMMARY, summary)
    at_ac = (0.9 * 8 * 700.0) / EFFICIENCY + BOARD * 8 * 700.0 + PROCESSORS * 600.0
    meters = [
        {
            "submitter": name,
            "system": "64x",
            "benchmark": "gpt3",
            "kind": "node",
            "duration_s": 3000,
            "power_mean_w": watts,
        }
        for name, watts in (("smc-ac-power", at_ac), ("smc-dc-power", EFFICIENCY * at_ac))
    ]
    write(tmp_path / fit.METERS, meters)
    loads = np.linspace(0, 100, 11)
    shapes = {load: 0.1 + 0.6 * (1.0 - (1.0 - load / 100.0) ** 2.0) for load in loads}
    write(
        tmp_path / fit.PROCESSORS,
        [
            {"cpu_dir": name, "cpu_load": load, "rapl_power": factor * tdp_w * shapes[load]}
            for name, tdp_w in fit.METERED_TDP_W.items()
            for load in loads
            for factor in ((2.0,) if name == "E5-1240" else (1.0,))
        ],
    )
    return tmp_path


def test_the_fit_finds_what_the_tables_were_written_with(tables: Path) -> None:
    found = fit.fit(tables)
    known = found["known_host"]
    assert (known["device"], known["board"], known["processors"]) == pytest.approx(
        (DEVICE, BOARD, PROCESSORS), rel=1e-3
    )
    assert known["holdout_max"] < 1e-3
    assert found["supply_efficiency"]["median"] == pytest.approx(EFFICIENCY, abs=1e-3)
    assert found["training"]["device_of_tdp"] == pytest.approx(0.9, abs=2e-3)
    assert found["cards"]["server_w"] == SERVER_W  # of five of the eight
    curve = found["processors"]
    assert (curve["idle"], curve["span"], curve["bend"]) == pytest.approx((0.1, 0.6, 2.0), abs=0.01)
    assert curve["set_aside_above_their_tdp"] == ["E5-1240"]  # twice the share: 140% of the TDP
    assert len(found["inputs"]) == 4


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="is missing"):
        fit.fit(tmp_path)


def test_the_shipped_file_is_what_the_script_writes() -> None:
    """Its layout: the loader reads what the fit returns, and the systems' table has not changed since."""
    shipped = json.loads(node_power.FILE.read_text(encoding="utf-8"))
    assert shipped["systems"] == fit.sha256_of(fit.SYSTEMS)
    assert shipped["runs"] == sum(bool(row["device_limit_w"]) for row in fit._rows(fit.SYSTEMS))
    assert all(len(digest) == 64 for digest in shipped["inputs"].values())
