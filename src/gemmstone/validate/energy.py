"""Rows of the ML.ENERGY leaderboard (https://ml.energy/leaderboard) as cases: energy of a token against requests in flight."""

from __future__ import annotations

from collections.abc import Mapping

from gemmstone.calibrate.power_cases import PROMPT_TOKENS, ml_energy_row
from gemmstone.core.errors import BadRequest

USUAL_PROMPT_TOKENS = 400.0  # of a task that is not listed, as a chat's
IMAGES = {"image-chat": "1"}  # in a prompt, of the usual size: neither is published, a chat about an image has one


def energy_row(row: Mapping[str, str]) -> Mapping[str, str]:
    """A row of the leaderboard in the contract's columns, with the energy that the devices took for a token."""
    try:
        case = ml_energy_row(row, PROMPT_TOKENS.get(row["task"], USUAL_PROMPT_TOKENS))
        return {
            **case,
            "id": f"{row['nickname']}, {row['task']}, {row['gpu_model']} x {case['num_devices']}, {row['max_num_seqs']}",
            "kind": "energy",
            "images": IMAGES.get(row["task"], ""),
            "source": row.get("source", ""),
            "measured_energy_j_per_output_token": row["energy_per_token_joules"],
        }
    except (KeyError, ValueError) as error:
        raise BadRequest(f"not a row of the ML.ENERGY leaderboard: {type(error).__name__} {str(error)[:80]}") from None
