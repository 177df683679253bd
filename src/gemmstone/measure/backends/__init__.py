"""What can run kernels here. A backend is a module with the functions of `Backend` and a row in BACKENDS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import NamedTuple, Protocol

from gemmstone.core.errors import MissingBackend
from gemmstone.core.lookup import unknown
from gemmstone.core.measurement import Call

# name -> module; the first that supports a call on a device runs it unless one is named
BACKENDS: dict[str, str] = {
    "pytorch": "gemmstone.measure.backends.pytorch",
    "triton": "gemmstone.measure.backends.triton",
    "native": "gemmstone.measure.backends.native",
    "numba": "gemmstone.measure.backends.numba",
    "numpy": "gemmstone.measure.backends.numpy",
    "hierarchy": "gemmstone.measure.backends.hierarchy",
}


class Prepared(NamedTuple):
    """A call that is ready to run. `call` does it once, on the next of its sets of operands.

    Operands are random, never zeros. Those that would come from memory in use (weights, the KV cache, the arrays of STREAM)
    rotate over so many sets that the caches hold none when it comes around again; activations, which a kernel before has just
    written, stay. check: the largest error against float64, over the largest value of the float64 result. calls: how often one
    `call` does it, as a replayed graph does. around: a context with the settings that it runs under.
    """

    call: Callable[[], object]
    synchronize: Callable[[], None] = lambda: None
    check: Callable[[], float] | None = None
    calls: int = 1
    around: Callable[[], AbstractContextManager[object]] = nullcontext


class Backend(Protocol):
    """The functions of a backend's module. `device` is cpu or cuda:N."""

    def missing(self) -> str:
        """Why it cannot run here, with what to do, in one line; empty when it can."""

    def version(self) -> str:
        """Name and version of what runs, as it stands in measurements: "2.13.0+cpu"."""

    def devices(self) -> tuple[str, ...]:
        """The devices that it can run on here."""

    def supports(self, call: Call, device: str) -> bool:
        """Whether it has this kind of call in this format there."""

    def prepare(self, call: Call, device: str, threads: int) -> Prepared:
        """Operands made and kernels compiled. Raises BadRequest for what does not fit in memory."""


def backend(name: str) -> Backend:
    """The backend called `name`. Raises MissingBackend with what to install where it cannot run here."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    module: Backend = import_module(BACKENDS[name])
    why = module.missing()
    if why:
        raise MissingBackend(why)
    return module
