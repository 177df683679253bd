"""Compilation of the kernel: machine code is kept between runs, for exactly these sources, where the user can write."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import config as numba_config

config: Any = numba_config  # its fields are made at run time
Given = ParamSpec("Given")
Result = TypeVar("Result")
SIMULATE = Path(__file__).resolve().parent.parent
COMPILED = ("engine", "policies", "routers")  # folders of the package whose functions call each other


@lru_cache(maxsize=1)
def cache_folder() -> str:
    """Where compiled code lies: a folder named after the sources, since a function does not see its callees change."""
    digest = hashlib.sha256(numba.__version__.encode())
    files = [
        SIMULATE / "step_tables.py",
        SIMULATE / "outcome" / "histogram.py",
        *(path for name in COMPILED for path in sorted((SIMULATE / name).glob("*.py"))),
    ]
    for path in files:
        digest.update(path.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "gemmstone" / "kernels" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return tempfile.mkdtemp(prefix="gemmstone-kernels-")
    return str(folder)


def compiled(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function as machine code for other compiled ones. Arithmetic is as written, never reordered."""
    return _made(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function with one caller, compiled as part of it: what is compiled by itself is optimised once more there."""
    return _made(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, inline="always")


def entry(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function as machine code that Python calls; it runs without the interpreter's lock."""
    return _called(_made(function, no_cfunc_wrapper=True), function)


def allocating(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The same for a function that makes arrays, whose references have to be counted."""
    return _called(_made(function, no_cfunc_wrapper=True, _nrt=True), function)


def _called(made: Callable[Given, Result], function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Calls compiled code from Python.

    What it needs is compiled at its first call, lightly optimised: the kernel chases pointers, and vectorised loops only
    make compiling longer.
    """

    @wraps(function)
    def call(*args: Given.args, **named: Given.kwargs) -> Result:
        if made.signatures:  # type: ignore[attr-defined]
            return made(*args, **named)
        before = config.OPT, config.LOOP_VECTORIZE
        config.OPT, config.LOOP_VECTORIZE = config._OptLevel(1), 0
        try:
            return made(*args, **named)
        finally:
            config.OPT, config.LOOP_VECTORIZE = before

    return call


def _made(function: Callable[Given, Result], **options: Any) -> Callable[Given, Result]:
    """Without a count of references to arrays, unless asked for: the kernel makes none, and counting took most of its time."""
    before = config.CACHE_DIR
    config.CACHE_DIR = cache_folder()
    try:
        made: Callable[Given, Result] = numba.njit(
            cache=True, nogil=True, error_model="numpy", **{"_nrt": False, **options}
        )(function)
    finally:
        config.CACHE_DIR = before
    return made
