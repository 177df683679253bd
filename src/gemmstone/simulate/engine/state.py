"""What a serving simulation knows while it runs: one record an engine, columns of requests, and what is counted.

All of it is arrays, made once; the compiled functions of this package change them in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gemmstone.simulate.engine.prefix_cache import PrefixCaches
from gemmstone.simulate.outcome.histogram import BINS
from gemmstone.simulate.requests import Indices, Integers
from gemmstone.simulate.step_tables import MOST_SEQUENCES, TABLE

NEVER = np.inf
NONE = -1
APPLY, SCHEDULE = 0, 1  # what comes next at `end`: the results of the step in flight, or the choice of the next one
CONTINUOUS, PREFILL_FIRST, STATIC = 0, 1, 2
RECOMPUTE, SWAP = 0, 1
WAITING, PROMPT, DECODING, DONE, REJECTED, COMING = 1, 2, 3, 4, 5, 6  # of a request; 0: not in use
WAITS, WAITS_WITH_HITS = 1, 2  # of the first waiting request
HELD = 7  # it has come and no engine has it: none is up, or the one that had it failed

MOST_BLOCK = 512  # tokens of a block
CLIENTS = 1024  # that fair queueing tells apart
INTERVALS = 1024  # of a time series
QUEUE, RUNNING, BLOCKS, POWER, OUTPUT, PROMPTS, BUSY = range(7)  # rows of a time series
Engine = Any  # a record of ENGINE

ENGINE = np.dtype(
    [
        ("index", np.int64),
        # limits, fixed
        ("kind", np.int64),  # row of the step table
        ("total_blocks", np.int64),
        ("block_size", np.int64),
        ("watermark", np.int64),  # blocks kept free when something is admitted
        ("whole_prompts", np.int64),  # a prompt starts where all of it fits, not its first chunk alone
        ("most_sequences", np.int64),
        ("budget", np.int64),  # tokens of a step
        ("batching", np.int64),
        ("policy", np.int64),
        ("deadline_s", np.float64),  # of the policy `deadline`
        ("epoch_steps", np.int64),  # a preemptive policy orders everything anew every so many steps; 0: never
        ("preemption", np.int64),
        ("swap_block_s", np.float64),  # seconds to copy a block to the host or back
        ("swap_call_s", np.float64),  # seconds to start a copy
        ("swap_group", np.int64),  # blocks that one copy moves
        ("swap_overlap", np.int64),  # 1: copies run beside the step
        ("swap_keep", np.int64),  # 1: copies on the host stay, so that only new blocks travel
        ("host_blocks", np.int64),  # free ones on the host
        ("borrowed_from", np.int64),  # blocks beyond this one lie on other engines
        ("borrowed_step_s", np.float64),  # a step takes longer by this when it reads any of those
        ("borrowed_block_s", np.float64),  # and by this for every one of them
        ("hands_over", np.int64),  # 1: computes prompts alone, and others go on with them
        ("takes_over", np.int64),  # 1: goes on with prompts that others computed
        ("handing_s", np.float64),  # until the cache of a prompt has reached them
        ("handing_token_s", np.float64),
        ("hit_frac", np.float64),  # share of every prompt that is found in a cache, where prefixes are not hashed
        ("emit_steps", np.float64),  # decode steps a finished first token waits until it is sent
        ("growth", np.float64),  # tokens a decoding sequence gains in a step
        ("drafts", np.int64),  # drafted tokens a step, 0: none
        ("accept", np.float64),  # chance that a drafted token is taken
        ("seed", np.int64),
        ("first_tier", np.int64),  # its prefix caches: rows of PrefixCache, the device first
        ("tiers", np.int64),
        ("hash_blocks", np.int64),  # blocks of a hashed prefix block
        ("hash_tokens", np.int64),
        ("up", np.int64),  # takes requests
        ("token_s", np.float64),  # what a token costs here, to compare kinds of replica
        # the step in flight
        ("now", np.float64),  # when it started
        ("end", np.float64),
        ("phase", np.int64),
        ("steps", np.int64),  # decode steps in it
        ("decodes", np.int64),  # sequences that decode in it: 0 when prompts have it alone
        ("chunks", np.int64),
        ("prompt_tokens", np.int64),
        ("attended", np.float64),
        ("transfer_s", np.float64),  # copies between tiers that belong to the next step
        ("gap_s", np.float64),  # since the decoding sequences got their last token
        # its requests
        ("sequences", np.int64),  # decoding
        ("context", np.float64),  # tokens in their caches
        ("clock", np.int64),  # decode steps done
        ("free", np.int64),  # blocks that no running request holds; some may hold cached prefixes
        ("partial", np.int64),  # the request whose prompt is partly computed
        ("prompts", np.int64),  # requests whose prompts are computed in the step in flight
        ("waiting", np.int64),
        ("queue", np.int64),  # first of the waiting requests: root of their heap
        (
            "blocked",
            np.int64,
        ),  # WAITS: the first waiting one cannot start before something ends, or its hits are evicted
        ("turn", np.int64),  # of the router of the pool that this engine is the first of
        (
            "batch",
            np.int64,
        ),  # static batching: first of its requests whose prompts are not begun, chained by next_place
        ("longest", np.int64),  # tokens of its longest answer
        ("next_epoch", np.int64),
        ("outstanding", np.int64),  # requests sent here and not finished
        ("outstanding_tokens", np.int64),  # of these, prompt and answer
        ("virtual_s", np.float64),  # virtual time of fair queueing
        # totals
        ("done_steps", np.int64),
        ("requests", np.int64),
        ("completed", np.int64),
        ("rejected", np.int64),
        ("preemptions", np.int64),
        ("swaps", np.int64),
        ("prompt_total", np.int64),  # prompt tokens computed
        ("cached_total", np.int64),  # prompt tokens found in a cache
        ("output_total", np.int64),
        ("joules", np.float64),  # above standing power, of one device
        ("busy_s", np.float64),
        ("transfer_total_s", np.float64),
        ("least_free", np.int64),
        ("width_s", np.float64),  # of an interval of its time series
        ("events", np.int64),  # steps written to the trace
        ("heap", np.int64, MOST_SEQUENCES + 1),  # decoding requests, first to finish on top
        ("phases", np.int64, MOST_BLOCK),  # of them, by the clock at which they need a block
        ("chunk_of", np.int64, MOST_SEQUENCES + 1),  # whose prompts the step in flight computes
        ("chunk_tokens", np.int64, MOST_SEQUENCES + 1),
        ("served", np.float64, CLIENTS),  # virtual time of fair queueing at which a client's last request ends
        ("itl", np.int64, BINS),  # gaps between tokens
        ("series", np.float64, (7, INTERVALS)),  # rows QUEUE ... BUSY: integrals over intervals of width_s
    ]
)
REQUEST = np.dtype(
    [
        ("order", np.int64),  # place in the whole traffic
        ("arrival_s", np.float64),
        ("key", np.float64),  # smaller goes first
        ("scheduled_s", np.float64),
        ("first_token_s", np.float64),
        ("finished_s", np.float64),
        ("pause_s", np.float64),
        ("last_token_s", np.float64),  # before it was put back
        ("next_turn", np.int64),  # place in the book of the first request that follows this one
        ("same_turn", np.int64),  # of the next one that follows the same answer as this
        ("hash_start", np.int64),
        ("hash_end", np.int64),
        ("joined", np.int64),  # engine's clock when it began to decode
        ("finish", np.int64),  # engine's clock at which it is done
        ("input_tokens", np.int32),
        ("output_tokens", np.int32),
        ("priority", np.int32),
        ("client", np.int32),
        ("state", np.int32),
        ("generated", np.int32),  # tokens of the answer that exist, while it does not decode
        ("ready", np.int32),  # tokens whose keys and values lie elsewhere, to be copied instead of computed
        ("computed", np.int32),  # prompt tokens in the cache, while the prompt is computed
        ("target", np.int32),  # tokens that its prompt step computes in all
        ("hashes", np.int32),  # prefix blocks that it holds
        ("kept", np.int32),  # blocks whose copy is on the host
        ("base", np.int32),  # tokens in the cache when it began to decode
        ("base_blocks", np.int32),  # blocks held then
        ("phase", np.int32),  # it needs a block when clock % steps per block is this
        ("place", np.int64),  # in the heap of decoding requests
        ("next_place", np.int64),  # link of a list while keys change
        ("child", np.int64),  # of the heap of waiting requests
        ("sibling", np.int64),
        ("preemptions", np.int32),
        ("cached_tokens", np.int32),
        ("replica", np.int32),
        ("retries", np.int32),  # times it was sent again because its engine failed
    ]
)
EVENT = np.dtype(
    [
        ("start_s", np.float64),
        ("end_s", np.float64),
        ("context", np.float64),
        ("steps", np.int32),
        ("sequences", np.int32),
        ("prompt_tokens", np.int32),
    ]
)
COMING_AT = np.dtype([("time_s", np.float64), ("request", np.int64)])
CLOCK = np.dtype(
    [
        ("front_s", np.float64),  # between a request is sent and a router sees it
        ("coming", np.int64),  # requests that will be sent because of what happened
        ("unsent", np.int64),  # next one of a closed loop; -1 in an open one
        ("known", np.int64),  # requests in the book
        ("held", np.int64),  # requests that no engine has
        ("retries", np.int64),  # times that a request was sent again
    ]
)


class World(NamedTuple):
    """Everything a simulation is. Requests are places in the book."""

    tables: Any  # records of step_tables.TABLE, one a kind of replica
    engines: Any  # records of ENGINE
    book: Any  # records of REQUEST
    hash_ids: Integers
    hash_nodes: Indices  # where the block of each id lies in the cache of the engine that has its request
    prefixes: PrefixCaches
    events: Any  # [engine, event] records of EVENT: the first steps, for a trace
    coming: Any  # heap of COMING_AT
    clock: Any  # one record of CLOCK


def engines(count: int) -> Any:
    """Records of engines that have nothing to do."""
    made = np.zeros(count, dtype=ENGINE)
    made["index"] = np.arange(count)
    made["end"] = NEVER
    made["partial"] = NONE
    made["queue"] = NONE
    made["batch"] = NONE
    made["up"] = 1
    made["growth"] = 1.0
    made["token_s"] = 1.0
    made["swap_group"] = 1
    made["width_s"] = 1.0 / 64.0
    made["block_size"] = 16
    return made


def world(
    tables: Sequence[Any], made: Any, book: int, *, prefixes: PrefixCaches, hash_ids: Integers, events: int, coming: int
) -> World:
    """A simulation at its beginning, with room for so many requests at once, traced steps and requests to come."""
    clock = np.zeros(1, dtype=CLOCK)
    clock["unsent"] = NONE
    kinds = np.zeros(len(tables), dtype=TABLE)
    for kind, table in enumerate(tables):
        kinds[kind] = table
    return World(
        tables=kinds,
        engines=made,
        book=np.zeros(book, dtype=REQUEST),
        hash_ids=hash_ids,
        hash_nodes=np.full(len(hash_ids), NONE, dtype=np.int64),
        prefixes=prefixes,
        events=np.zeros((len(made), events), dtype=EVENT),
        coming=np.zeros(coming + 1, dtype=COMING_AT),
        clock=clock,
    )
