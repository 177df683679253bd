"""Energy and carbon of training runs, as their authors published them.

Arithmetic of the papers, so the tolerances are those of printed digits: days to a tenth, watts and tonnes to three digits.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from gemmstone.api import money
from gemmstone.catalog import device_files
from gemmstone.predict.economics import Economics, kg_co2
from gemmstone.predict.run_energy import of_run

PRINTED = 0.01
BLOOM_HOURS = 1_082_990.0  # of one A100


def test_gpt3_emits_552_tonnes_for_1287_megawatt_hours() -> None:
    """Patterson et al., arXiv:2104.10350, table 4; the intensity that its two numbers have is 0.4289 kg/kWh."""
    assert pytest.approx(0.4289, abs=5e-5) == 552_000 / 1_287_000
    assert kg_co2(1_287_000, 428.9) == pytest.approx(552_000, rel=0.005)


class Run(NamedTuple):
    """A row of the table: power of a chip's share of its system, with memory, network, fans and host."""

    name: str
    chips: int
    days: float
    system_w: float
    pue: float
    g_per_kwh: float
    mwh: float
    tonnes: float


# Patterson et al., arXiv:2104.10350, table 4: gross emissions.
RUNS = [
    Run("T5", 512, 20.0, 310.0, 1.12, 545.0, 85.7, 46.7),
    Run("Switch Transformer", 1024, 27.0, 245.0, 1.10, 403.0, 179.0, 72.2),
    Run("GPT-3", 10_000, 14.8, 330.0, 1.10, 429.0, 1287.0, 552.1),
]


@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_energy_is_chips_times_days_times_watts_times_pue(run: Run) -> None:
    known = Economics(g_co2_per_kwh=run.g_per_kwh, pue=run.pue)
    chip = device_files.find("v100-sxm-32gb")  # only its system's power counts, which is given
    found = of_run(chip, run.chips, run.days * 24, known, node_w=run.system_w)
    assert found.facility_kwh / 1e3 == pytest.approx(run.mwh, rel=PRINTED)
    assert found.kg_co2 is not None
    assert found.kg_co2 / 1e3 == pytest.approx(run.tonnes, rel=PRINTED)


def test_bloom_dynamic_energy_and_embodied_carbon() -> None:
    """Luccioni et al., arXiv:2211.02001: GPUs at their TDP, 57 g/kWh, no PUE: 433,196 kWh and 24.69 t; making its share of
    the GPUs (150 kg each) 3.64 t, of the servers (2500 kg for eight) 7.57 t, over six years used 85% of the time."""
    a100 = device_files.find("a100-sxm-80gb")
    for embodied, tonnes in (("150", 3.64), ("2500/8", 7.57)):
        said = money(embodied_kgco2=embodied, lifetime="6y", utilization=0.85, pue=1.0)
        run = of_run(a100, 384.0, BLOOM_HOURS / 384.0, said.economics(a100), device_w=400.0)
        assert run.device_kwh == pytest.approx(433_196, rel=1e-5)
        assert kg_co2(run.device_kwh, 57.0) / 1e3 == pytest.approx(24.69, abs=0.005)
        assert run.embodied_kg is not None
        assert run.embodied_kg / 1e3 == pytest.approx(tonnes, abs=0.006)
