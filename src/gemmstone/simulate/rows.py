"""A case as a row of texts, as in a CSV file, made into a Scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gemmstone.core import units
from gemmstone.core.deployment import Workload
from gemmstone.core.errors import BadRequest
from gemmstone.predict.deploy import MAX_DEGREE, MAX_STEP_TOKENS, Choice
from gemmstone.simulate import inputs, levers, pools
from gemmstone.simulate.pools import PoolsChoice
from gemmstone.simulate.scenario import Scenario, check_workload


def scenario(row: Mapping[str, str], fidelity: str = "calibrated") -> Scenario:
    """The Scenario of a row with the contract's column names; BadRequest names the column that is wrong."""
    mode = row.get("mode", "").strip() or "concurrency"
    load = 1.0 if mode == "offline" else _number(row, "load", 1.0)
    width, height = inputs.image_size(_word(row, "image_size") or inputs.USUAL_SIZE)
    workload = Workload(
        input_tokens=_number(row, "input_tokens", 1024.0),
        output_tokens=_number(row, "output_tokens", 128.0),
        length_spread=_number(row, "length_spread", 0.0),
        mode=mode,
        load=load,
        requests_per_slot=_number(row, "requests_per_slot", 0.0),
        images=_count(row, "images") or 0,
        image_width=width,
        image_height=height,
    )
    check_workload(workload)
    choice = Choice(
        tensor_parallel=_count(row, "tp"),
        pipeline_parallel=_count(row, "pp"),
        data_parallel=_count(row, "dp"),
        expert_parallel=_count(row, "ep"),
        attention_dp=_count(row, "attention_dp"),
        weights=_word(row, "weights"),
        activations=_word(row, "activations"),
        kv_cache=_word(row, "kv"),
        max_num_seqs=_count(row, "max_num_seqs"),
        max_num_batched_tokens=_count(row, "max_num_batched_tokens", most=MAX_STEP_TOKENS),
        prefix_hit_frac=_number(row, "prefix_hit", 0.0),
        engine_version=row.get("engine_version", "").strip()[:60],
        techniques=levers.chosen(
            row.get("techniques", "").split(levers.SEPARATOR),
            spec_tokens=_count(row, "spec_tokens"),
            spec_accept=_optional(row, "spec_accept"),
            draft=_word(row, "draft"),
            cpu_offload=_word(row, "cpu_offload"),
        ),
    )
    return Scenario(
        model=_required(row, "model"),
        hardware=_required(row, "hardware"),
        num_devices=_count(row, "num_devices"),  # when empty, what `hardware` says ("8xh100-sxm"), or one
        engine=_word(row, "engine") or "generic",
        choice=choice,
        workload=workload,
        fidelity=fidelity,
        edits=levers.capped(_word(row, "power_cap_w")),
        pools=_pools(row),
    )


def _pools(row: Mapping[str, str]) -> PoolsChoice | None:
    """Both pools of a row, None where it has none."""
    prefill, decode = _word(row, "prefill"), _word(row, "decode")
    limits = {side: _count(row, f"{side}_max_num_seqs") for side in ("prefill", "decode")}
    return pools.choice(prefill, decode, limits["prefill"], limits["decode"], _word(row, "kv_link") or "")


def _required(row: Mapping[str, str], column: str) -> str:
    value = row.get(column, "").strip()
    if not value:
        raise BadRequest(f"column {column} is empty")
    return value


def _word(row: Mapping[str, str], column: str) -> str | None:
    return row.get(column, "").strip() or None


def _number(row: Mapping[str, str], column: str, default: float) -> float:
    text = row.get(column, "").strip()
    if not text:
        return default
    try:
        return units.parse(text, "count")
    except BadRequest:
        raise BadRequest(f"column {column} must be a finite number, not {text[:40]!r}") from None


def _optional(row: Mapping[str, str], column: str) -> float | None:
    return _number(row, column, math.nan) if row.get(column, "").strip() else None


def _count(row: Mapping[str, str], column: str, most: int = MAX_DEGREE) -> int | None:
    text = row.get(column, "").strip()
    if not text:
        return None
    value = _number(row, column, math.nan)
    if value != int(value) or not 1 <= value <= most:
        raise BadRequest(f"column {column} must be a whole number from 1 to {most}, not {text[:40]!r}")
    return int(value)
