"""JSON traces: one object a line, or ShareGPT's list of conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic.batches import Batch, Origin, hash_lists, of_table
from gemmstone.simulate.traffic.layouts import Columns, columns

MAX_LINE_BYTES = 16 << 20
ROWS = 65_536
READ_CHARS = 1 << 20
MAX_ENTRY_CHARS = 64 << 20
SEPARATORS = re.compile(r"[,\s]*")
# OpenAI, "What are tokens and how to count them?" (help.openai.com): one token is about four characters of English.
CHARS_PER_TOKEN = 4.0
SPEAKERS = {"human": "prompt", "user": "prompt", "gpt": "answer", "chatgpt": "answer", "assistant": "answer"}


def jsonl(path: Path, broken: list[int]) -> tuple[Columns | None, Iterator[Batch]]:
    """Batches of a file of one JSON object a line; numbers of lines that hold none are added to `broken`."""
    found = _first(path, broken)
    broken.clear()
    return found, iter(()) if found is None else _objects(path, found, broken)


def _first(path: Path, broken: list[int]) -> Columns | None:
    for _, row in _rows(path, broken):
        return columns(list(row), path.name)
    if broken:
        raise BadRequest(f"{path.name}: line {broken[0]} is no JSON object")
    return None


def _rows(path: Path, broken: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise BadRequest(f"{path.name}: line {number} is longer than {MAX_LINE_BYTES:,} bytes")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                broken.append(number)


def _objects(path: Path, found: Columns, broken: list[int]) -> Iterator[Batch]:
    origin, lines, rows = Origin(), [], []
    for number, row in _rows(path, broken):
        lines.append(number)
        rows.append(row)
        if len(rows) == ROWS:
            yield _batch(lines, rows, found, origin)
            lines, rows = [], []
    if rows:
        yield _batch(lines, rows, found, origin)


def _batch(lines: list[int], rows: list[dict[str, Any]], found: Columns, origin: Origin) -> Batch:
    import pyarrow as pa

    numeric = [found.input_tokens, found.output_tokens, *([found.priority] if found.priority else [])]
    table: dict[str, Any] = {name: pa.array([_float(row.get(name)) for row in rows]) for name in numeric}
    if found.arrival:
        times = [row.get(found.arrival) for row in rows]
        dates = any(isinstance(value, str) for value in times)
        table[found.arrival] = pa.array(
            [str(value)[:64] for value in times] if dates else [_float(value) for value in times]
        )
    for name in (found.session, found.request):
        if name:
            table[name] = pa.array([_text(row.get(name)) for row in rows])
    batch = of_table(
        pa.RecordBatch.from_pydict(table), np.array(lines, dtype=np.int64), replace(found, hash_ids=None), origin
    )
    if found.hash_ids is None:
        return batch
    counts, ids = hash_lists([row.get(found.hash_ids) for row in rows])
    return batch._replace(hash_count=counts, hash_ids=ids)


def _float(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except (ValueError, OverflowError):
        return float("nan")


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:256].encode("utf-8", "replace").decode("utf-8")


def conversations(path: Path) -> Iterator[Batch]:
    """The first question and answer of every conversation of ShareGPT, lengths estimated from characters; lines are entries."""
    lines, prompts, answers = [], [], []
    for number, entry in enumerate(_entries(path), start=1):
        turns = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
        if not isinstance(turns, list):
            raise BadRequest(f"{path.name}: entry {number} of the list has no conversations")
        pair = _exchange(turns)
        if pair is not None:
            lines.append(number)
            prompts.append(pair[0])
            answers.append(pair[1])
        if len(lines) == ROWS:
            yield _estimated(lines, prompts, answers)
            lines, prompts, answers = [], [], []
    if lines:
        yield _estimated(lines, prompts, answers)


def _exchange(turns: list[Any]) -> tuple[int, int] | None:
    """Characters of the first prompt that is answered, and of its answer."""
    asked = None
    for turn in turns[:1000]:
        text = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        speaker = SPEAKERS.get(str(turn.get("from", turn.get("role")))) if isinstance(turn, dict) else None
        if not isinstance(text, str) or speaker is None:
            continue
        if speaker == "prompt":
            asked = len(text)
        elif asked is not None:
            return asked, len(text)
    return None


def _estimated(lines: list[int], prompts: list[int], answers: list[int]) -> Batch:
    first, second = (np.maximum(np.rint(np.array(chars) / CHARS_PER_TOKEN), 1.0) for chars in (prompts, answers))
    return Batch(np.array(lines, dtype=np.int64), None, first, second)


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON list, one at a time however long it is."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        held = file.read(READ_CHARS).lstrip()
        at = 1  # behind the bracket
        while True:
            at = SEPARATORS.match(held, at).end()  # type: ignore[union-attr]
            if at < len(held):
                if held[at] == "]":
                    return
                try:
                    entry, at = decoder.raw_decode(held, at)
                except (ValueError, RecursionError):  # most often it goes on in what was not read yet
                    if len(held) - at > MAX_ENTRY_CHARS:
                        raise BadRequest(
                            f"{path.name}: broken, or an entry beyond {MAX_ENTRY_CHARS:,} characters"
                        ) from None
                else:
                    yield entry
                    continue
            more = file.read(max(READ_CHARS, len(held) - at))
            if not more:
                raise BadRequest(f"{path.name}: the JSON list is broken or ends in the middle")
            held, at = held[at:] + more, 0
