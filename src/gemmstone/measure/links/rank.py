"""One process of a collective. Started by `collectives`: reads what to do from standard input, and ends when that closes.

Rank 0 writes a line of JSON for every call. A sample's time is that of the slowest rank, from a barrier on.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

WARM_UPS = 3
SAMPLE_S = 2e-3
MOST_CALLS = (
    32  # sums are reduced in place: each call multiplies them by the number of ranks at most, and 8^32 is a float
)
LEAST_SAMPLES = 7
MOST_LINE = 1 << 20


class World(NamedTuple):
    """This process among the others."""

    rank: int
    ranks: int
    device: str
    synchronize: Callable[[], None]


class Made(NamedTuple):
    """A collective ready to run: operands set anew, one call (which does it `calls` times), the error of its result."""

    reset: Callable[[], None]
    call: Callable[[], None]
    error: Callable[[], float]
    calls: int = 1


def main() -> None:
    """Runs the plan of standard input's first line."""
    plan = json.loads(sys.stdin.readline(MOST_LINE))
    threading.Thread(target=_end_with_parent, args=(Path(plan["store"]), plan["rank"]), daemon=True).start()
    warnings.simplefilter("ignore")
    import torch
    from torch import distributed

    dist: Any = distributed  # in part untyped

    torch.set_num_threads(1)
    world = _world(torch, plan)
    dist.init_process_group(
        plan["backend"],
        store=dist.FileStore(plan["store"], world.ranks),
        rank=world.rank,
        world_size=world.ranks,
        timeout=datetime.timedelta(seconds=plan["timeout_s"]),
    )
    until = time.monotonic() + plan["limit_s"]
    for index, (family, size) in enumerate(plan["calls"]):
        share_s = max(until - time.monotonic(), 0.0) / (len(plan["calls"]) - index)
        found = _measured(torch, dist, world, _made(torch, dist, world, family, size), share_s, plan["most"])
        if world.rank == 0:
            print(json.dumps({"family": family, "message_bytes": size, **found}), flush=True)
        if not _agreed(torch, dist, world, [float(time.monotonic() < until)])[0]:
            break
    dist.destroy_process_group()


def _end_with_parent(store: Path, rank: int) -> None:
    """Waits until the parent is gone, whatever ended it. What it would have removed goes: the last rank finds its folder empty."""
    while sys.stdin.read(4096):
        pass
    for left in (store, store.with_name(f"said-{rank}")):
        with suppress(OSError):
            left.unlink()
    with suppress(OSError):
        store.parent.rmdir()
    os._exit(1)


def _world(torch: Any, plan: dict[str, Any]) -> World:
    rank, ranks = int(plan["rank"]), int(plan["ranks"])
    if plan["backend"] != "nccl":
        return World(rank, ranks, "cpu", lambda: None)
    torch.cuda.set_device(rank)
    return World(rank, ranks, f"cuda:{rank}", torch.cuda.synchronize)


def _agreed(torch: Any, dist: Any, world: World, numbers: list[float]) -> list[float]:
    """What rank 0 says, on all ranks."""
    said = torch.tensor(numbers, dtype=torch.float64, device=world.device)
    dist.broadcast(said, 0)
    return [float(value) for value in said]


def _measured(torch: Any, dist: Any, world: World, made: Made, limit_s: float, most: int) -> dict[str, Any]:
    made.reset()
    made.call()
    world.synchronize()
    error = made.error()
    warm = [_sample(dist, world, made, 1) for _ in range(WARM_UPS)]
    one_s = max(min(warm), 1e-7)
    calls = max(min(math.ceil(SAMPLE_S / one_s), int(limit_s / (LEAST_SAMPLES * one_s)), MOST_CALLS), 1)
    samples = min(max(int(limit_s / (one_s * calls)), LEAST_SAMPLES), most)
    calls, samples = (int(value) for value in _agreed(torch, dist, world, [calls, samples]))
    warm.append(_sample(dist, world, made, calls))
    seconds = torch.tensor([*warm, *(_sample(dist, world, made, calls) for _ in range(samples))], dtype=torch.float64)
    slowest = seconds.to(world.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return {"samples_s": slowest.tolist(), "warm_up": len(warm), "calls": calls * made.calls, "max_error": error}


def _sample(dist: Any, world: World, made: Made, calls: int) -> float:
    made.reset()
    dist.barrier()
    world.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        made.call()
    world.synchronize()
    return (time.perf_counter() - started) / (calls * made.calls)


def _made(torch: Any, dist: Any, world: World, family: str, size: int) -> Made:
    """The collective `family` on a message of `size` bytes of random floats."""
    rank, ranks = world.rank, world.ranks
    elements = max(size // 4, ranks)
    part = elements // ranks
    base = torch.rand(elements, generator=torch.Generator().manual_seed(size)) + 0.5  # the same on every rank
    mine = (base + rank).to(world.device)
    x = mine.clone()
    whole, piece = torch.empty_like(x), torch.empty(part, device=world.device)
    summed = base.double() * ranks + sum(range(ranks))

    def error(got: Any, want: Any) -> float:
        return float((got.cpu().double() - want).abs().max() / want.abs().max())

    def reset() -> None:
        x.copy_(mine)

    def there_and_back() -> None:
        if rank == 0:
            dist.send(x, 1)
            dist.recv(whole, 1)
        else:
            dist.recv(whole, 0)
            dist.send(whole, 0)

    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in PyTorch 2.13
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    gathered = torch.cat([base[r * part : (r + 1) * part].double() + r for r in range(ranks)])
    exchanged = torch.cat([base[rank * part : (rank + 1) * part].double() + r for r in range(ranks)])
    made = {
        "all_reduce": Made(reset, lambda: dist.all_reduce(x), lambda: error(x, summed)),
        "all_gather": Made(
            reset, lambda: gather(whole, x[rank * part : (rank + 1) * part]), lambda: error(whole, gathered)
        ),
        "reduce_scatter": Made(
            reset, lambda: scatter(piece, x), lambda: error(piece, summed[rank * part : (rank + 1) * part])
        ),
        "all_to_all": Made(reset, lambda: dist.all_to_all_single(whole, x), lambda: error(whole, exchanged)),
        "send_recv": Made(reset, there_and_back, lambda: error(whole, base.double()), calls=2),
    }
    return made[family]


if __name__ == "__main__":
    main()
