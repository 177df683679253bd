"""A trace file as columns in memory: 16 to 24 bytes a request, read a batch at a time, checked and where asked repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Indices, Integers
from gemmstone.simulate.traffic import lines, lint, tables
from gemmstone.simulate.traffic.batches import Batch
from gemmstone.simulate.traffic.layouts import Columns

HASH_TOKENS = 512  # of a block of Mooncake's hash ids, and of others unless told
MAX_ROWS = 100_000_000
SNIFF_BYTES = 65_536
# What compressed files begin with (RFC 1952, APPNOTE.TXT, RFC 8878, bzip2, xz).
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


class Rows(NamedTuple):
    """The requests of a file in order of arrival; None: the file has no such column. layout: as which it was read."""

    layout: str
    arrival_s: Array | None
    input_tokens: Integers
    output_tokens: Integers
    priority: Integers | None = None
    client: Integers | None = None
    hash_count: Integers | None = None
    hash_ids: Integers | None = None
    hash_tokens: int = 0


class Codes:
    """Whole numbers for texts, in order of their first appearance."""

    def __init__(self) -> None:
        self.known: dict[object, int] = {}

    def of(self, column: Any) -> Indices:
        """The code of every entry of an Arrow column."""
        import pyarrow as pa

        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = [self.known.setdefault(value, len(self.known)) for value in encoded.dictionary.to_pylist()]
        missing = self.known.setdefault(None, len(self.known)) if encoded.null_count else 0
        found = np.asarray(encoded.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False), dtype=np.int64)
        return np.array([*codes, missing], dtype=np.int64)[found]


class Kept:
    """Columns of the rows that can be used, growing batch by batch."""

    def __init__(self) -> None:
        self.columns: dict[str, list[npt.NDArray[Any]]] = {}
        self.sessions, self.requests = Codes(), Codes()
        self.rows = 0

    def add(self, batch: Batch, good: npt.NDArray[np.bool_], hash_tokens: int) -> None:
        """Takes the good rows of a batch."""
        self.rows += int(good.sum())
        lines_ = batch.lines if batch.lines[-1:].max(initial=0) >= lint.INT32 else batch.lines.astype(np.int32)
        whole = {"input_tokens": batch.input_tokens, "output_tokens": batch.output_tokens, "priority": batch.priority}
        found: dict[str, npt.NDArray[Any] | None] = {"lines": lines_, "arrival_s": batch.arrival_s}
        with np.errstate(invalid="ignore"):  # what is no number is not good, and not taken
            found |= {name: None if column is None else column.astype(np.int32) for name, column in whole.items()}
        found["client"] = None if batch.session is None else self.sessions.of(batch.session).astype(np.int32)
        found["request"] = None if batch.request is None else self.requests.of(batch.request).astype(np.int32)
        for name, column in found.items():
            if column is not None:
                self.columns.setdefault(name, []).append(column[good])
        if batch.hash_count is not None and batch.hash_ids is not None:
            self._add_hashes(batch.hash_count, batch.hash_ids, batch.input_tokens, good, hash_tokens)

    def _add_hashes(
        self, counts: Indices, ids: Indices, tokens: Array, good: npt.NDArray[np.bool_], hash_tokens: int
    ) -> None:
        """Ids of whole blocks: the last of a prompt is seldom full, and caches share whole ones."""
        held = np.maximum(counts, 0)
        whole = np.where(good, np.minimum(held, np.where(good, tokens, 0) // hash_tokens), 0).astype(np.int64)
        place = np.arange(len(ids)) - np.repeat(np.cumsum(held) - held, held)
        taken = ids[place < np.repeat(whole, held)]
        small = not len(taken) or (taken.min() >= 0 and taken.max() < lint.INT32)
        self.columns.setdefault("hash_count", []).append(whole[good].astype(np.int32))
        self.columns.setdefault("hash_ids", []).append(taken.astype(np.int32) if small else taken)

    def column(self, name: str) -> npt.NDArray[Any] | None:
        """One column whole; its parts are let go."""
        parts = self.columns.pop(name, None)
        return None if parts is None else np.concatenate(parts)


def read(
    path: Path,
    *,
    limit: int | None = None,
    repair: bool = False,
    hash_tokens: int = HASH_TOKENS,
    keep_duplicates: bool = False,
    say: Callable[[str], None],
) -> Rows:
    """The requests of a trace file; the first `limit` where there is one.

    Rows that cannot be meant are refused with their lines, or with `repair` dropped, and the others sorted.
    """
    broken: list[int] = []
    layout, columns, batches, unit = _opened(path, broken, say)
    findings, kept = lint.Findings(path.name, unit), Kept()
    for batch in batches:
        kept.add(batch, lint.usable(batch, findings, hash_tokens), hash_tokens)
        if kept.rows > MAX_ROWS:
            raise BadRequest(
                f"{path.name}: more than {MAX_ROWS:,} requests: split the file, or fit a distribution to part of it"
            )
        if limit is not None and kept.rows >= limit and not repair:
            break
    findings.add("that cannot be read", broken)
    coarse = keep_duplicates or (columns is not None and columns.layout.coarse)
    rows = _checked(layout, kept, findings, coarse, repair)
    if repair:
        for text in findings.texts():
            say(f"{path.name}: {text}: {'sorted' if 'out of order' in text else 'dropped'}")
    else:
        findings.refuse()
    rows = rows._replace(hash_tokens=hash_tokens if rows.hash_count is not None else 0)
    return rows if limit is None else first(rows, limit)


def _opened(
    path: Path, broken: list[int], say: Callable[[str], None]
) -> tuple[str, Columns | None, Iterator[Batch], str]:
    """The layout of a file, its columns, its batches, and what its lines are called."""
    start = sniff(path)
    if not start.strip():
        return "empty", None, iter(()), "line"
    if start.startswith(b"PAR1"):
        columns, batches = tables.parquet(path)
        return columns.layout.name, columns, batches, "row"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        say(
            f"{path.name}: lengths are estimated from characters, {lines.CHARS_PER_TOKEN:g} a token; first exchanges only"
        )
        return "ShareGPT", None, lines.conversations(path), "entry"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        found, batches = lines.jsonl(path, broken)
        return found.layout.name if found else "empty", found, batches, "line"
    columns, batches = tables.csv(path, broken)
    return columns.layout.name, columns, batches, "line"


def sniff(path: Path) -> bytes:
    """What a file begins with; BadRequest where it is none, or none of text or Parquet."""
    try:
        if not path.is_file():
            raise BadRequest(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        with path.open("rb") as file:
            start = file.read(SNIFF_BYTES)
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from None
    for magic, kind in COMPRESSED.items():
        if start.startswith(magic):
            raise BadRequest(f"{path.name}: compressed with {kind}: decompress it first")
    if b"\0" in start and not start.startswith(b"PAR1"):
        raise BadRequest(f"{path.name}: neither text nor Parquet: traces are CSV, Parquet, JSONL or ShareGPT's JSON")
    return start


def _checked(layout: str, kept: Kept, findings: lint.Findings, coarse: bool, repair: bool) -> Rows:
    """The rows kept, in order of arrival; what is wrong between rows is noted."""
    columns = {name: kept.column(name) for name in ("lines", "arrival_s", "input_tokens", "output_tokens", "priority")}
    columns |= {name: kept.column(name) for name in ("client", "request", "hash_count", "hash_ids")}
    if columns["lines"] is None:
        none = np.zeros(0, dtype=np.int32)
        return Rows(layout, np.zeros(0), none, none)
    columns["hash_ids"] = _dense(columns["hash_ids"])
    numbers, arrival_s = columns["lines"], columns["arrival_s"]
    good = np.ones(len(numbers), dtype=bool)
    if columns["request"] is not None:
        repeated = lint.repeated_names(columns["request"])
        findings.add("with a request id that was there before", numbers[repeated])
        good &= ~repeated
    if arrival_s is not None:
        good &= lint.span(arrival_s, numbers, findings)
        lint.unsorted(arrival_s[good], numbers[good], findings)
        if not coarse and columns["request"] is None and not lint.rough(arrival_s):
            repeated = lint.duplicates(arrival_s, _values(columns)) & good
            findings.add("that repeat another", numbers[repeated])
            good &= ~repeated
    order = np.flatnonzero(good)
    if arrival_s is not None and repair:
        order = order[np.argsort(arrival_s[order], kind="stable")]
    del good
    rows = Rows(layout, *(columns[name] for name in Rows._fields[1:-1]))  # type: ignore[arg-type]
    del columns
    if len(order) < len(numbers) or (repair and np.any(np.diff(order) < 0)):
        rows = taken(rows, order)
    return _from_zero(rows)


def _values(columns: dict[str, npt.NDArray[Any] | None]) -> list[npt.NDArray[Any]]:
    """What has to be equal in rows that repeat each other, but for their time."""
    names = ("input_tokens", "output_tokens", "priority", "client", "hash_count")
    values = [column for name in names if (column := columns[name]) is not None]
    counts, ids = columns["hash_count"], columns["hash_ids"]
    if counts is not None and ids is not None:
        ends = np.cumsum(counts, dtype=np.int64)
        values.append(np.where(counts > 0, np.append(ids, -1)[ends - 1], -1))  # chains: the last id stands for all
    return values


def _dense(ids: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    """Hash ids as 32-bit numbers: themselves where they fit, else numbered."""
    if ids is None or ids.dtype == np.int32:
        return ids
    return np.unique(ids, return_inverse=True)[1].astype(np.int32)


def _from_zero(rows: Rows) -> Rows:
    """Times since the start of the trace where they are since 1970."""
    if rows.arrival_s is None or not len(rows.arrival_s) or rows.arrival_s.min() < lint.EPOCH_S:
        return rows
    return rows._replace(arrival_s=rows.arrival_s - rows.arrival_s.min())


def taken(rows: Rows, order: Indices) -> Rows:
    """Some of the rows, in this order."""
    plain = ("arrival_s", "input_tokens", "output_tokens", "priority", "client", "hash_count")
    columns = {name: column[order] for name in plain if (column := getattr(rows, name)) is not None}
    if rows.hash_count is not None and rows.hash_ids is not None:
        starts = (np.cumsum(rows.hash_count, dtype=np.int64) - rows.hash_count)[order]
        counts = columns["hash_count"].astype(np.int64)
        place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        columns["hash_ids"] = rows.hash_ids[np.repeat(starts, counts) + place]
    return rows._replace(**columns)


def first(rows: Rows, count: int) -> Rows:
    """The first requests of a file."""
    return rows if len(rows.input_tokens) <= count else taken(rows, np.arange(count))
