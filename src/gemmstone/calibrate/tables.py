"""Tables of measured kernel times: finding and reading them, and the rates of the devices they were measured on.

Two layouts hold the same rows. In one, a directory has a file per table, `aic_FAMILY__TABLE.parquet`, with the columns
gpu, data_backend and data_version. In the other, that of the Python package aiconfigurator-core (Apache-2.0), a file is
at `systems/data/GPU/FAMILY/BACKEND/VERSION/TABLE_perf.parquet` and its place says the three.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gemmstone.catalog import device_files
from gemmstone.core import dtypes
from gemmstone.core.calibration import Rates
from gemmstone.core.errors import BadRequest, MissingBackend
from gemmstone.core.hardware import Cluster, Device
from gemmstone.predict.kernels.collective import with_links

if TYPE_CHECKING:
    import polars as pl

    Frame = pl.DataFrame

MAX_FILE_BYTES = 1 << 30
LEFT_OUT = ".left-out"  # beside a table: a JSON list of rows, counted from 1, that are not read
# Names of the tables' own that no device file has as slug or alias.
GPUS = {
    "a100": "a100-sxm-80gb",
    "a100_sxm": "a100-sxm-80gb",
    "a100_pcie": "a100-pcie-80gb",
    "b60": "arc-b60",
    "h100": "h100-sxm",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
# dtype words of the tables -> kernel variant of an op, and the formats of weights and activations behind it
VARIANTS = {
    "bfloat16": ("bf16", "bf16", "bf16"),
    "float16": ("bf16", "bf16", "bf16"),
    "fp8": ("fp8", "fp8", "fp8"),
    "fp8_block": ("fp8-block", "fp8-block", "fp8-block"),
    "nvfp4": ("nvfp4", "nvfp4", "nvfp4"),
    "int4_wo": ("w4a16", "int4", "bf16"),
    "int8_wo": ("w8a16", "int8", "bf16"),
    "sq": ("int8", "int8", "int8"),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one table on one device, measured with one backend in one version, and what identifies them."""

    device: str
    backend: str
    version: str
    rows: pl.DataFrame
    name: str
    sha256: str

    @property
    def inputs(self) -> dict[str, str]:
        """What a fit says of its origin."""
        return {"table": self.name, "version": f"{self.backend} {self.version}", "sha256": self.sha256}


def load(directory: Path, family: str, table: str, devices: Iterable[str] | None = None) -> Iterator[Table]:
    """The tables FAMILY/TABLE under `directory`, one per (device, backend, version), in a fixed order.

    `devices` limits them to these slugs; rows of a GPU that the catalogue does not know are left out. Raises BadRequest
    for a directory or file that cannot be read.
    """
    wanted = None if devices is None else set(devices)
    merged = directory / f"aic_{family}__{table}.parquet"
    if merged.is_file():
        yield from _split(read(merged), merged, wanted)
        return
    root = folders(directory)
    if root is None:
        return
    for path in sorted(root.glob(f"*/{family}/*/*/{table}_perf.parquet")):
        version, backend, gpu = path.parent.name, path.parent.parent.name, path.parents[3].name
        device = slug(gpu)
        if device and (wanted is None or device in wanted):
            name = path.relative_to(root).as_posix()
            yield Table(
                device=device, backend=backend, version=version, rows=read(path), name=name, sha256=sha256_of(path)
            )


def newest(tables: Iterable[Table], columns: tuple[str, ...] = ()) -> list[Table]:
    """Of each device and backend the rows of the newest version; with `columns`, newest for each of their values.

    With ("gemm_dtype",) an old version still gives the number formats that later ones have no rows of.
    """
    found: dict[tuple[str, str], list[Table]] = {}
    for table in tables:
        found.setdefault((table.device, table.backend), []).append(table)
    kept: list[Table] = []
    for group in found.values():
        group.sort(key=lambda table: version_key(table.version), reverse=True)
        seen: set[tuple[object, ...]] = set()
        for table in group:
            rows = table.rows
            if columns:
                keys = list(rows.select(columns).iter_rows())
                rows = rows.filter([key not in seen for key in keys])
                seen.update(keys)
            elif table is not group[0]:
                break
            if rows.height:
                kept.append(
                    Table(
                        device=table.device,
                        backend=table.backend,
                        version=table.version,
                        rows=rows,
                        name=table.name,
                        sha256=table.sha256,
                    )
                )
    return kept


def parts(rows: pl.DataFrame, columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    """The rows of each combination of text columns that has usable times, sorted by combination; null reads as ""."""
    rows = rows.filter(rows["latency"] > 0)
    found = rows.partition_by(list(columns), as_dict=True, include_key=False, maintain_order=True)
    for key in sorted(found, key=str):
        yield tuple("" if value is None else str(value) for value in key), found[key]


def slug(gpu: str) -> str | None:
    """The catalogue's slug of a GPU as the tables call it; None when the catalogue has no such device."""
    try:
        return device_files.find(GPUS.get(gpu, gpu)).slug
    except BadRequest:
        return None


def rates(device: Device, dtype: str) -> Rates:
    """The datasheet rates of `device` for arithmetic in `dtype` (or the next wider format that the device computes in)."""
    peaks = device.peak_flop_per_s
    format_ = next((name for name in (dtype, *dtypes.compute_formats(dtype)) if name in peaks), None)
    if format_ is None:
        raise BadRequest(f"{device.slug} has no peak for {dtype} or anything wider: add one to its device file")
    bare = Rates(
        flop_per_s=peaks[format_],
        bytes_per_s=device.memory_bandwidth_bytes_per_s,
        link_bytes_per_s=0.0,
        link_latency_s=0.0,
        compute_units=float(device.compute_units or 1),
    )
    domain = device.scale_up.domain if device.scale_up else 0
    return with_links(bare, Cluster(device=device, num_devices=domain or 1, devices_per_node=domain))


def version_key(version: str) -> tuple[int | float, ...]:
    """A sortable form of a release number: "1.3.0rc20" comes before "1.3.0", "0.5.6.post2" after "0.5.6".

    >>> sorted(["0.5.14", "0.5.6.post2", "0.5.6", "1.0.0", "1.0.0rc3"], key=version_key)
    ['0.5.6', '0.5.6.post2', '0.5.14', '1.0.0rc3', '1.0.0']
    """
    numbers = [int(part) for part in re.match(r"[\d.]*", version).group().split(".") if part]  # type: ignore[union-attr]
    numbers += [0] * (4 - len(numbers))
    tail = re.search(r"(rc|post|dev)(\d+)", version)
    order = {"dev": -2, "rc": -1, "post": 1}
    return (*numbers, order[tail[1]] if tail else 0, int(tail[2]) if tail else 0)


def _split(rows: pl.DataFrame, path: Path, wanted: set[str] | None) -> Iterator[Table]:
    missing = [name for name in ("gpu", "data_backend", "data_version") if name not in rows.columns]
    if missing:
        raise BadRequest(f"{path.name}: the column {missing[0]} is missing")
    digest = sha256_of(path)
    parts = rows.partition_by(["gpu", "data_backend", "data_version"], as_dict=True, include_key=False)
    for key in sorted(parts, key=str):
        gpu, backend, version = (str(value) for value in key)
        device = slug(gpu)
        if device and (wanted is None or device in wanted):
            yield Table(device=device, backend=backend, version=version, rows=parts[key], name=path.name, sha256=digest)


def folders(directory: Path) -> Path | None:
    """Where below a directory the layout of folders begins (GPU/FAMILY/BACKEND/VERSION); None without one."""
    return next((p for p in (directory, directory / "data", directory / "systems" / "data") if _has_gpus(p)), None)


def _has_gpus(path: Path) -> bool:
    return path.is_dir() and next(path.glob("*/*/*/*/*_perf.parquet"), None) is not None


def read(path: Path) -> pl.DataFrame:
    """All rows of a parquet file, texts as plain strings."""
    require()
    import polars as pl

    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadRequest(f"{path.name} is larger than {MAX_FILE_BYTES >> 30} GiB: not a table of kernel times")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadRequest(f"{path.name} is not a readable parquet file: {str(error)[:120]}") from None
    frame = frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
    beside = path.with_name(path.name + LEFT_OUT)
    if not beside.is_file():
        return frame
    rows = np.array(json.loads(beside.read_text(encoding="utf-8")), dtype=np.int64)
    return frame.filter(~np.isin(np.arange(1, frame.height + 1), rows))


def columns(path: Path) -> list[str]:
    """Names of a parquet file's columns; none of one that cannot be read."""
    require()
    import polars as pl

    try:
        return pl.scan_parquet(path).collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        return []


def require() -> None:
    """Raises MissingBackend when the packages that reading and fitting tables needs are not installed."""
    for name in ("polars", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise MissingBackend(f"fitting tables needs {name}: pip install 'gemmstone[calibrate]'")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
