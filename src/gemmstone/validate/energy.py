"""Rows of the ML.ENERGY leaderboard (https://ml.energy/leaderboard) as cases: energy of a token against requests in flight.

The benchmark keeps max_num_seqs requests in flight on vLLM and reports the energy of the GPUs. It publishes the mean length of
answers but not of prompts; a task's prompts are taken to have the length of PROMPT_TOKENS, in which energy hardly moves as
long as answers are longer.
"""

from __future__ import annotations

from collections.abc import Mapping

DEVICES = {"H100": "h100-sxm", "B200": "b200-sxm", "A100": "a100-sxm-80gb", "A40": "a40"}
FORMATS = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "mxfp4": "mxfp4"}
PROMPT_TOKENS = 300  # a judgement: questions and chats of a few hundred tokens


def energy_row(row: Mapping[str, str]) -> Mapping[str, str]:
    """A row of the leaderboard in the contract's columns."""
    devices, ranks, experts = (_whole(row, name) for name in ("num_gpus", "data_parallel", "expert_parallel"))
    attention = (
        ranks if experts not in ("", "1") else "1"
    )  # data-parallel ranks that share their experts are one replica
    return {
        "id": f"{row.get('nickname', '')}, {row.get('task', '')}, {row.get('gpu_model', '')} x {devices}, {row.get('max_num_seqs', '')}",
        "kind": "energy",
        "model": row.get("model_id", ""),
        "hardware": DEVICES.get(row.get("gpu_model", ""), row.get("gpu_model", "")),
        "num_devices": devices,
        "engine": "vllm",
        # the published tensor_parallel is 1 wherever experts are spread: ranks of a replica are what its devices leave
        "tp": _ratio(devices, ranks),
        "dp": _ratio(ranks, attention),
        "attention_dp": attention,
        "ep": experts,
        "weights": FORMATS.get(row.get("weight_precision", ""), row.get("weight_precision", "")),
        "input_tokens": str(PROMPT_TOKENS),
        "output_tokens": row.get("avg_output_len", ""),
        "mode": "concurrency",
        "load": row.get("avg_batch_size", ""),
        "source": row.get("source", ""),
        "measured_energy_j_per_output_token": row.get("energy_per_token_joules", ""),
    }


def _ratio(whole: str, part: str) -> str:
    return str(int(whole) // int(part)) if whole.isdigit() and part.isdigit() and int(part) else ""


def _whole(row: Mapping[str, str], name: str) -> str:
    return row.get(name, "").removesuffix(".0")
