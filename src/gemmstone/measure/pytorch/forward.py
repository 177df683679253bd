"""Forward passes of a model, ready to be timed; on a CUDA device a step of decoding is replayed as a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gemmstone.measure.backends import Prepared
from gemmstone.measure.pytorch.llama import Llama

SETS = 4  # of token ids, taken in turns
WARM_UPS = 3  # before a graph is captured: libraries allocate their workspaces


def prepared(model: Llama, kind: str, batch: int, tokens: int, device: str) -> Prepared:
    """A prompt of `tokens`, or a step behind as many, for `batch` sequences: logits of the last position of each."""
    if kind == "prefill":
        return _prompt(model, batch, tokens, device)
    return _step(model, batch, tokens) if device == "cpu" else _replayed(model, batch, tokens, device)


def _ids(model: Llama, batch: int, tokens: int, device: str) -> list[Any]:
    drawn = torch.Generator().manual_seed(batch * 1_000_003 + tokens)
    shape = (batch, tokens)
    return [torch.randint(model.model.vocab_size, shape, generator=drawn).to(device) for _ in range(SETS)]


def _prompt(model: Llama, batch: int, tokens: int, device: str) -> Prepared:
    ids, caches = _ids(model, batch, tokens, device), model.caches(batch, tokens)
    positions = torch.arange(tokens, device=device)
    turns = iter(range(1 << 62))

    def run() -> object:
        return model(ids[next(turns) % SETS], caches, 0, positions, None)

    return Prepared(run) if device == "cpu" else Prepared(run, partial(torch.cuda.synchronize, device))


def _step(model: Llama, batch: int, tokens: int) -> Prepared:
    """A step that writes the same place of its caches again and again: the context stays what it is."""
    ids, caches = _ids(model, batch, 1, "cpu"), model.caches(batch, tokens + 1)
    positions = torch.tensor([tokens])
    turns = iter(range(1 << 62))
    return Prepared(lambda: model(ids[next(turns) % SETS], caches, tokens, positions, None))


def _replayed(model: Llama, batch: int, tokens: int, device: str) -> Prepared:
    """A step as a CUDA graph: shapes are those of the whole cache, and a mask on the device says what of it is there."""
    ids, caches = _ids(model, batch, 1, device)[0], model.caches(batch, tokens + 1, whole=True)
    positions = torch.tensor([tokens], device=device)
    for cache in caches:
        cache.place.fill_(tokens)
    mask = (torch.arange(tokens + 1, device=device) <= positions)[None, None, None, :]
    run: Callable[[], object] = partial(model, ids, caches, tokens, positions, mask)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream(device).wait_stream(side)
    with torch.cuda.graph(graph):
        run()
    return Prepared(graph.replay, partial(torch.cuda.synchronize, device))
