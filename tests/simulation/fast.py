"""The simulator under test, asked in the words of the plain one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cases import Case, Steps

from gemmstone.simulate import step_tables
from gemmstone.simulate.outcome.totals import Totals
from gemmstone.simulate.replica import Limits, Replica, Swap
from gemmstone.simulate.requests import Requests, Served, Traffic, requests, whole
from gemmstone.simulate.serving import Options, serve

MOST_CONTEXT = 2.0**24
PLAIN = Options()


def served(replicas: list[Replica], traffic: Traffic, options: Options = PLAIN) -> tuple[Totals, Served]:
    """Totals and what became of all requests."""
    parts: list[Served] = []
    run = serve(replicas, traffic, options, parts.append)
    return run.totals, Served(*(np.concatenate(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]


def table_of(steps: Steps, most_sequences: int) -> step_tables.StepTable:
    """The same seconds as a table; contexts below and above the bend are pieces of their own."""
    table = step_tables.linear(
        steps.base_s,
        steps.per_sequence_s,
        steps.per_context_s,
        steps.per_prompt_token_s,
        per_attended_s=steps.per_attended_s,
        most_sequences=most_sequences,
    )
    if steps.steeper > 1.0:
        context = [0.0, steps.bend, MOST_CONTEXT]
        table["context"][:3] = context
        table["last"] = 1
        for name, crowded in (("decode", 1.0), ("decode_beside", steps.crowded)):
            alone = replace(steps, per_context_s=steps.per_context_s * crowded)
            for count in range(1, most_sequences + 1):
                table[name][count, :3, step_tables.SECONDS] = [alone(count, count * at, 0, 0.0) for at in context]
    return table


def columns(case: Case) -> Requests:
    """Its requests."""
    asks = case.asks
    counts = [len(ask.ids) for ask in asks]
    return requests(
        np.array([ask.arrival_s for ask in asks]),
        [ask.input_tokens for ask in asks],
        [ask.output_tokens for ask in asks],
        priority=[ask.priority for ask in asks],
        follows=[ask.follows for ask in asks],
        hash_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        hash_ids=np.array([one for ask in asks for one in ask.ids], dtype=np.int32),
    )


def traffic_of(case: Case) -> Traffic:
    """All of them at once."""
    return whole("case", columns(case), hash_tokens=case.engine["hash_tokens"], in_flight=case.in_flight)


def replicas_of(case: Case) -> list[Replica]:
    """Its replicas."""
    engine, swap = case.engine, case.engine.get("swap")
    limits = Limits(
        total_blocks=engine["total_blocks"],
        block_size=engine["block_size"],
        max_num_seqs=engine["max_num_seqs"],
        max_num_batched_tokens=engine["budget"],
        watermark_frac=engine["watermark_frac"],
        whole_prompts=engine["whole_prompts"],
    )
    moves = swap and Swap(
        block_s=swap.block_bytes / swap.bytes_per_s, call_s=swap.chunk_s, group_blocks=swap.blocks_per_chunk
    )
    return [Replica(table=table_of(one, limits.max_num_seqs), limits=limits, swap=moves) for one in case.steps]


def options_of(case: Case) -> Options:
    """How it is scheduled."""
    engine = case.engine
    return Options(
        policy=engine["policy"],
        batching=engine["batching"],
        router=case.router,
        prefix_caching=bool(engine["hash_tokens"]),
        deadline_s=1.0,
        front_s=case.front_s,
        threads=1,
    )


def both(case: Case) -> tuple[Totals, Served]:
    """What the simulator makes of a case."""
    return served(replicas_of(case), traffic_of(case), options_of(case))
