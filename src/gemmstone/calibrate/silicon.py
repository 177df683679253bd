"""The measured tables of the optional package aiconfigurator-core, made into files that predictions look up.

The package (Apache-2.0, https://github.com/ai-dynamo/aiconfigurator) has tables of kernel times by GPU, family, engine and
version. They are read where pip put them; of one device and engine what they hold is kept in a file of the user's cache
folder until the tables change. Only tables of kernels are read: what the package ships of whole deployments is left alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gemmstone.calibrate import moe_tables, tables
from gemmstone.calibrate.families import FAMILIES
from gemmstone.calibrate.fit import Sample
from gemmstone.calibrate.measured_index import kernels
from gemmstone.catalog import measured_files
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.predict.coefficients import EXCHANGE
from gemmstone.predict.measured import AXES

PACKAGE = "aiconfigurator_core"
INSTALL = "pip install 'gemmstone[silicon]'"
LIBRARIES = ("nccl", "oneccl")  # that all engines share
ENGINES = ("vllm", "sglang", "trtllm")  # that the tables know
FORMAT = 1  # of what is made of the tables here: a change of it makes the files anew
Say = Callable[[str], None]


def folder() -> Path | None:
    """The folder of the package's kernel tables; None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or []) if found else []:
        path = Path(place) / "systems" / "data"
        if path.is_dir():
            return path
    return None


def prepare(device: str, engine: str, version: str = "", say: Say = lambda line: None) -> Path | None:
    """The file of what the package's tables say of a device and engine, made if it is not there; None where they say nothing.

    `version`: tables of later versions of the engine are left out, unless all are later. Raises MissingBackend when neither
    the package nor measurements of the user's own are there.
    """
    mine = measured_files.own(device)
    root = folder()
    if root is None:
        if mine:
            return None
        raise MissingBackend(
            f"nothing is measured of {device} here: {INSTALL} has tables of ten devices, or fit your own: "
            "gemmstone calibrate --from FILE"
        )
    chosen = sorted(_tables(root, device, engine, version))
    if not chosen:
        return None
    key = _key(root, chosen)
    path = measured_files.cached(device, engine, key)
    if measured_files.key(path) == key:
        return path
    tables.require()
    say(f"reading measured tables of {device} for {engine}, once")
    with tempfile.TemporaryDirectory(prefix="gemmstone-") as name:
        for table in chosen:
            link = Path(name) / table.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(table)
        made = kernels(_samples(Path(name), device, engine, say))
    try:
        measured_files.save(path, made, key)
    except OSError as error:
        raise BadRequest(
            f"cannot keep measured tables in {path.parent} ({error.strerror}): name a folder for them with XDG_CACHE_HOME"
        ) from None
    return path


def _samples(root: Path, device: str, engine: str, say: Say) -> Iterator[Sample]:
    from polars.exceptions import PolarsError

    for family, spec in FAMILIES.items():
        if family not in AXES:
            continue
        # the fit takes a part of the experts' rows; here each may be the one that is asked for
        read = partial(moe_tables.read, thin=False) if spec.read is moe_tables.read else spec.read
        try:
            samples = read(root, [device])
        except (PolarsError, BadRequest, KeyError) as error:  # a table of another layout than the family's others have
            say(f"the tables of {family} on {device} are left out: {str(error)[:120]}")
            continue
        for sample in samples:
            if sample.engine in (engine, *LIBRARIES) or sample.kernel.startswith(EXCHANGE):
                yield sample


def _tables(root: Path, device: str, engine: str, version: str) -> Iterator[Path]:
    """The tables of a device, of an engine and of what engines share, up to a version of the engine."""
    of_gpu = [path for path in sorted(root.iterdir()) if path.is_dir() and tables.slug(path.name) == device]
    for gpu in of_gpu:
        for family in sorted(path for path in gpu.iterdir() if path.is_dir()):
            for backend in sorted(path for path in family.iterdir() if path.is_dir()):
                files = sorted(backend.glob("*/*_perf.parquet"))
                if backend.name == engine:
                    yield from _up_to(files, version)
                elif backend.name in LIBRARIES:
                    yield from files
                else:
                    yield from (path for path in files if EXCHANGE in path.name)


def _up_to(files: list[Path], version: str) -> list[Path]:
    """Tables no later than a version, for each table; all where there is none so early: of those the newest counts."""
    if not version:
        return files
    most = tables.version_key(version)
    kept: list[Path] = []
    for name in sorted({path.name for path in files}):
        same = sorted(
            (path for path in files if path.name == name), key=lambda path: tables.version_key(path.parent.name)
        )
        early = [path for path in same if tables.version_key(path.parent.name) <= most]
        kept += early or same
    return kept


def _key(root: Path, chosen: list[Path]) -> str:
    """What a file was made from: the tables by place, size and time of change, and the layout it has."""
    stats = [(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in chosen]
    text = json.dumps([FORMAT, measured_files.FORMAT, *stats])
    return hashlib.sha256(text.encode()).hexdigest()
