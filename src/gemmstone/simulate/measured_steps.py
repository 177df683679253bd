"""Step tables from measured times of phases: what a token takes a batch, what prompts take, and both in one step.

Serving systems publish such times (Splitwise, arXiv:2311.18677, with github.com/Mutinifni/splitwise-sim) where no model of
their kernels exists. A step without prompts takes token_s(B, S), one of prompts alone prompt_s(P), and a mixed one

    t = mixed prompt_s(P + B)

as a decoding sequence is a token among those of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.step_tables import BATCHES, PROMPTS, StepTable, from_grids

USUAL_CONTEXT = (
    1024.0  # tokens of a sequence beside which a mixed step is split into its parts: they add up there exactly
)
NOTHING_S = 1e-9  # what prompts add to a step that is not longer with them


def from_phases(
    token_s: Callable[[Array, Array], Array],
    prompt_s: Callable[[Array], Array],
    *,
    mixed: float = 1.0,
    most_sequences: int = 512,
    most_prompt_tokens: int = 32768,
    usual_context: float = USUAL_CONTEXT,
) -> StepTable:
    """The table of an engine: token_s of sequences and the tokens in their caches together, prompt_s of prompt tokens."""
    if mixed <= 0.0:
        raise BadRequest(f"a mixed step cannot take {mixed:g} times its prompts")
    context = np.array([0.0, usual_context, 2.0**20])
    sequences = np.arange(most_sequences + 1.0)
    decode = token_s(sequences[:, None], sequences[:, None] * context[None, :])
    decode[0] = 0.0
    beside = np.unique(np.round(np.geomspace(1.0, most_sequences, BATCHES - 1)))
    beside = np.concatenate([[0.0], beside])
    tokens = np.unique(np.round(np.geomspace(1.0, most_prompt_tokens, PROMPTS)))
    alone = prompt_s(tokens)
    together = mixed * prompt_s(tokens[None, :] + beside[1:, None])
    added = together - token_s(beside[1:, None], beside[1:, None] * usual_context)
    prompt = np.maximum(np.vstack([alone[None, :], added]), NOTHING_S)
    joules = np.array([1.0, 0.0])
    return from_grids(
        context,
        decode[..., None] * joules,
        beside,
        tokens,
        np.array([0.0, 2.0**20]),
        np.repeat(prompt[:, :, None], 2, axis=2)[..., None] * joules,
        1.0,
    )
