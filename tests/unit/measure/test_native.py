"""Kernels compiled here: found or not, compiled once, kept where nobody else writes."""

from __future__ import annotations

import ctypes
import stat
from pathlib import Path

import pytest

from gemmstone.core.errors import MissingBackend
from gemmstone.measure import native

needs_compiler = pytest.mark.skipif(not native.compiler(), reason="no C compiler on this machine")
PLUS_ONE = "int plus_one(int x) { return x + 1; }"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gemmstone" / "native"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_path_there_is_no_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert native.compiler() == ""
    with pytest.raises(MissingBackend, match="install gcc or clang"):
        native.compile(PLUS_ONE)


def test_cc_is_taken_with_its_arguments(tmp_path, monkeypatch):
    mine = script(tmp_path / "mycc", "exit 0")
    monkeypatch.setenv("CC", f"{mine} -m64")
    assert native.compiler() == f"{mine} -m64"
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.compiler() == ""
    monkeypatch.setenv("CC", "'open quotation")
    assert native.compiler() == ""


def test_no_shell_reads_cc(tmp_path, monkeypatch, cache):
    mine = script(tmp_path / "mycc", "exit 1")
    monkeypatch.setenv("CC", f"{mine} ; touch {tmp_path}/here")
    with pytest.raises(MissingBackend):
        native.compile(PLUS_ONE)
    assert not (tmp_path / "here").exists()


@needs_compiler
def test_compiles_once_into_a_folder_of_ones_own(cache, monkeypatch):
    assert native.compile(PLUS_ONE).plus_one(41) == 42
    (made,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    before = (made / native.LIBRARY).stat().st_mtime_ns
    assert native.compile(PLUS_ONE).plus_one(1) == 2
    assert [*cache.iterdir()] == [made]
    assert (made / native.LIBRARY).stat().st_mtime_ns == before


@needs_compiler
def test_other_flags_and_sources_are_other_libraries(cache):
    twice = "int plus_one(int x) { return x + STEP; }"
    assert native.compile(twice, ("-DSTEP=2",)).plus_one(0) == 2
    assert native.compile(twice, ("-DSTEP=3",)).plus_one(0) == 3
    assert len([*cache.iterdir()]) == 2


@needs_compiler
def test_a_folder_open_to_others_is_closed(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    native.compile(PLUS_ONE)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@needs_compiler
def test_a_cache_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.compile(PLUS_ONE).plus_one(1) == 2


@needs_compiler
def test_a_broken_source_is_one_line_with_the_first_error(cache):
    with pytest.raises(MissingBackend) as failed:
        native.compile("int f(int x) {\n return nonsense;\n}\nint g(void) { return other; }")
    assert "nonsense" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert [*cache.iterdir()] == []  # nothing half-made stays


def test_a_compiler_that_hangs_is_ended(tmp_path, monkeypatch, cache):
    monkeypatch.setenv(
        "CC", script(tmp_path / "slowcc", 'case "$1" in --version) echo slow 1;; *) exec sleep 60;; esac')
    )
    monkeypatch.setattr(native, "COMPILE_LIMIT_S", 0.2)
    with pytest.raises(MissingBackend, match=r"took more than 0\.2 s"):
        native.compile(PLUS_ONE)


def test_what_is_no_library_cannot_be_loaded(tmp_path, monkeypatch, cache):
    monkeypatch.setenv(
        "CC", script(tmp_path / "badcc", f'[ "$1" = --version ] && echo bad 1 || echo text > {native.LIBRARY}')
    )
    with pytest.raises(MissingBackend, match="cannot be loaded"):
        native.compile(PLUS_ONE)


@needs_compiler
def test_openmp_uses_the_threads_it_is_told(cache):
    source = """
    #include <omp.h>
    int team(int threads) {
        int found = 0;
        #pragma omp parallel num_threads(threads)
        {
            #pragma omp single
            found = omp_get_num_threads();
        }
        return found;
    }"""
    try:
        library = native.compile(source, openmp=True)
    except MissingBackend:
        pytest.skip("the compiler has no OpenMP")
    assert library.team(ctypes.c_int(3)) == 3


@needs_compiler
def test_a_call_into_a_library_lets_other_threads_run(cache):
    import threading

    library = native.compile("#include <unistd.h>\nvoid wait_for(volatile int *flag) { while (!*flag) usleep(1000); }")
    flag = ctypes.c_int(0)
    waiting = threading.Thread(target=library.wait_for, args=(ctypes.byref(flag),))
    waiting.start()
    flag.value = 1  # never reached if the call held Python's lock
    waiting.join(timeout=200)
    assert not waiting.is_alive()


def test_version_is_the_first_line(tmp_path):
    mine = script(tmp_path / "mycc", "echo mycc 1.2; echo more")
    assert native.version(mine) == "mycc 1.2"
    assert native.version(str(tmp_path / "nothing")) == ""


def test_a_library_with_fast_arithmetic_leaves_the_arithmetic_of_the_process_alone():
    """GCC links what has a thread flush subnormal numbers to zero into libraries that are linked with -ffast-math."""
    if not native.compiler():
        pytest.skip("there is no C compiler")
    native.compile("double twice(double x) { return x + x; }", ("-O3", "-ffast-math"))
    assert 5e-324 * 1.0 > 0.0
