"""C kernels compiled on this machine with its own compiler, kept so that each is compiled once."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from gemmstone.core.errors import MissingBackend

NAMES = ("cc", "gcc", "clang")
VERSION_LIMIT_S, COMPILE_LIMIT_S = 20, 120
LIBRARY = "kernel.so"
MOST_TEXT_BYTES = 1 << 20  # of what is read of a system file
WITHOUT = "no C compiler was found: install gcc or clang, or name yours in CC"


# Options with which GCC before 13 links start-up code that has the whole thread treat subnormal numbers as zero once the library is
# loaded (https://gcc.gnu.org/gcc-13/changes.html): they are for compiling alone.
FLUSHING = ("-ffast-math", "-Ofast", "-funsafe-math-optimizations")


def compiler() -> str:
    """The C compiler of this machine as a command, $CC where that is set; empty without one."""
    return shlex.join(_command(os.environ.get("CC", ""), os.environ.get("PATH", os.defpath)))


@cache
def _command(named: str, path: str) -> tuple[str, ...]:
    try:
        words = shlex.split(named)
    except ValueError:  # a quotation without an end
        return ()
    for name in (words[:1] if words else NAMES) if path or words else ():
        found = shutil.which(name, path=path)
        if found:
            return (found, *words[1:])
    return ()


def version(command: str) -> str:
    """What a compiler says it is, its first line: "gcc (Debian 12.2.0-14+deb12u1) 12.2.0"; empty where it does not start."""
    return _version(command).split("\n", 1)[0]


@cache
def _version(command: str) -> str:
    try:
        asked = subprocess.run(
            [*shlex.split(command), "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=VERSION_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout if asked.returncode == 0 else ""


def compile(source: str, flags: Sequence[str] = ("-O3",), *, openmp: bool = False) -> ctypes.CDLL:
    """A C source as a library of this process. `-march=native` among the flags is spelled as this processor's compilers do.

    Compiled once for each source, flags and compiler, and kept in ~/.cache/gemmstone/native. Calls into it let other threads of
    Python run. Raises MissingBackend without a compiler, or with the first error of one that fails.
    """
    command = compiler()
    if not command:
        raise MissingBackend(WITHOUT)
    wanted = (*_spelled(flags), *(_openmp() if openmp else ()))
    made = _cached(command, source, wanted)
    try:
        return ctypes.CDLL(str(made))
    except OSError as error:
        raise MissingBackend(f"what {command} compiled cannot be loaded: {_line(str(error))}") from None


def _spelled(flags: Sequence[str]) -> tuple[str, ...]:
    # GCC and Clang for Arm take the processor from -mcpu; -march=native is no option of theirs everywhere
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    return tuple(native if flag == "-march=native" else flag for flag in flags)


def _openmp() -> tuple[str, ...]:
    # Apple's Clang has the pragmas without the option, and its users the library from Homebrew
    return ("-Xpreprocessor", "-fopenmp", "-lomp") if sys.platform == "darwin" else ("-fopenmp",)


def _cached(command: str, source: str, flags: tuple[str, ...]) -> Path:
    """The library's file. Whoever compiles it first wins; a folder appears with all that is in it."""
    text = "\0".join(
        (
            command,
            _version(command),
            "compiled, then linked",
            *flags,
            "\0",
            source,
            _processor() if _is_of_here(flags) else "",
        )
    )
    home = _home()
    place = home / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not (place / LIBRARY).is_file():
        aside = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
        try:
            (aside / "kernel.c").write_text(source, encoding="utf-8")
            words, linked = shlex.split(command), [flag for flag in flags if flag not in FLUSHING]
            _run([*words, *flags, "-fPIC", "-c", "-o", "kernel.o", "kernel.c"], aside)
            _run([*words, *linked, "-fPIC", "-shared", "-o", LIBRARY, "kernel.o", "-lm"], aside)
            with contextlib.suppress(OSError):  # there already: another process was faster
                aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place / LIBRARY


def _run(words: list[str], folder: Path) -> None:
    try:
        ended = subprocess.run(
            words,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=COMPILE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingBackend(f"{words[0]} took more than {COMPILE_LIMIT_S} s over a kernel") from None
    except OSError as error:
        raise MissingBackend(f"{words[0]} does not start: {error.strerror}") from None
    if ended.returncode != 0:
        lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["it does not say why"]
        first = next((line for line in lines if "error" in line.lower()), lines[0])
        raise MissingBackend(f"{words[0]} cannot compile a kernel: {_line(first)}")


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _is_of_here(flags: Sequence[str]) -> bool:
    return any(flag.endswith("=native") for flag in flags)


@cache
def _processor() -> str:
    """What tells this processor from one that cannot run the same instructions: a home may be shared between machines."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_TEXT_BYTES)
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part", "isa")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(kept)}))


def _home() -> Path:
    """The folder of compiled kernels, which nobody else can write to; one of this process alone where there is no such."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(named) if named else Path.home() / ".cache") / "gemmstone" / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
        if state.st_uid == os.getuid():
            folder.chmod(0o700)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    except (OSError, RuntimeError):  # no home, or one that cannot be written to
        pass
    return _of_this_process()


@cache
def _of_this_process() -> Path:
    import atexit

    folder = Path(tempfile.mkdtemp(prefix="gemmstone-native-"))
    atexit.register(shutil.rmtree, folder, True)
    return folder
