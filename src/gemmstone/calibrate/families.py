"""The table of everything that can be fitted. A new family is one module with a row of its own and its name here."""

from __future__ import annotations

from gemmstone.calibrate import (
    attention_tables,
    comm_tables,
    elementwise_tables,
    gemm_tables,
    moe_tables,
    recurrent_tables,
    sparse_modules,
    sparse_prompts,
    sparse_tables,
)
from gemmstone.calibrate.fit import FitSpec

FAMILIES: dict[str, FitSpec] = {
    **gemm_tables.FAMILIES,
    **comm_tables.FAMILIES,
    **elementwise_tables.FAMILIES,
    **attention_tables.FAMILIES,
    **moe_tables.FAMILIES,
    **recurrent_tables.FAMILIES,
    **sparse_tables.FAMILIES,
    **sparse_modules.FAMILIES,  # these two after the parts whose fits they take off
    **sparse_prompts.FAMILIES,
}
