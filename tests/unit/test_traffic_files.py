"""Traffic out of files: every layout, every kind of broken row with its line, repair, scaling, and what is no trace at all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.requests import Requests
from gemmstone.simulate.traffic import lint, tables
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.show import first

HEADER = "arrival_s,input_tokens,output_tokens\n"
GOOD = "0.5,100,10\n1.0,200,20\n4.0,50,5\n"


@pytest.fixture
def file(tmp_path):
    """Writes a file and says where."""

    def write(text: str | bytes, name: str = "trace.csv") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def rows(name: str, **asked: object) -> Requests:
    traffic = named(name, **asked)  # type: ignore[arg-type]
    found = first(traffic, traffic.count + 1)
    assert len(found.arrival_s) == traffic.count
    return found


def plain(found: Requests) -> list[tuple[float, int, int]]:
    columns = (found.arrival_s.tolist(), found.input_tokens.tolist(), found.output_tokens.tolist())
    return [(round(a, 7), i, o) for a, i, o in zip(*columns, strict=True)]


WANTED = [(0.5, 100, 10), (1.0, 200, 20), (4.0, 50, 5)]
SHIFTED = [(0.0, 100, 10), (0.5, 200, 20), (3.5, 50, 5)]
LAYOUTS = {
    "contract": (HEADER + GOOD, WANTED),
    "contract, other order and more columns": (
        "output_tokens,model,arrival_s,input_tokens\n10,x,0.5,100\n20,y,1.0,200\n5,,4.0,50\n",
        WANTED,
    ),
    "byte order mark, spaces, carriage returns": (
        "\ufeffarrival_s, input_tokens ,output_tokens\r\n 0.5,100 ,10\r\n1.0,200,20\r\n4.0,50,5\r\n",
        WANTED,
    ),
    "empty lines": (HEADER + "0.5,100,10\n\n1.0,200,20\n   \n4.0,50,5\n\n", WANTED),
    "Azure 2023": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.5000000,100,10\n"
        "2023-11-16 18:17:04.0000000,200,20\n2023-11-16 18:17:07,50,5\n",
        SHIFTED,
    ),
    "Azure 2024": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,100,10\n"
        "2024-05-10 00:00:00.509930+00:00,200,20\n2024-05-10 00:00:03.509930+00:00,50,5\n",
        SHIFTED,
    ),
    "Azure in seconds": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n0.5,100,10\n1.0,200,20\n4.0,50,5\n",
        WANTED,
    ),
    "BurstGPT": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n0.5,ChatGPT,100,10,110,Conversation log\n"
        "1.0,GPT-4,200,20,220,API log\n4.0,ChatGPT,50,5,55,API log\n",
        WANTED,
    ),
    "Mooncake": (
        '{"timestamp": 500, "input_length": 100, "output_length": 10, "hash_ids": [0]}\n'
        '{"timestamp": 1000, "input_length": 200, "output_length": 20, "hash_ids": [1]}\n'
        '{"timestamp": 4000, "input_length": 50, "output_length": 5, "hash_ids": [2]}\n',
        WANTED,
    ),
    "JSONL": (
        '{"arrival_s": 0.5, "input_tokens": 100, "output_tokens": 10}\n\n'
        '{"arrival_s": 1, "output_tokens": 20, "input_tokens": 200, "more": {"a": [1]}}\n'
        '{"arrival_s": "4.0", "input_tokens": 50, "output_tokens": "5"}',
        WANTED,
    ),
    "seconds since 1970": (
        HEADER + "1700000000.5,100,10\n1700000001.0,200,20\n1700000004.0,50,5\n",
        SHIFTED,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_requests(file, layout):
    text, wanted = LAYOUTS[layout]
    assert plain(rows(file(text))) == wanted


@pytest.mark.parametrize("kind", ["float", "timestamp", "dictionary"])
def test_parquet(tmp_path, kind):
    arrival = {
        "float": pa.array([0.0, 0.5, 3.5]),
        "timestamp": pa.array([0, 500, 3500], pa.timestamp("ms")),
        "dictionary": pa.array(["0", "0.5", "3.5"]).dictionary_encode(),
    }[kind]
    table = pa.table(
        {"arrival_s": arrival, "input_tokens": [100, 200, 50], "output_tokens": pa.array([10, 20, 5], pa.int8())}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert plain(rows(str(tmp_path / "a.parquet"))) == SHIFTED


def test_priorities_sessions_and_hash_ids(file):
    text = (
        "arrival_s,input_tokens,output_tokens,priority,session_id,prefix_hash_ids\n"
        '0,1024,1,2,anna,"[7, 9]"\n1,600,1,-1,bert,7\n2,2000,1,0,anna,7 9 8000000000 3\n3,100,1,0,,\n'
    )
    traffic = named(file(text))
    (found,) = traffic.chunks()
    assert traffic.hash_tokens == 512
    assert found.priority.tolist() == [2, -1, 0, 0]
    assert found.client.tolist() == [0, 1, 0, 2]
    assert np.diff(found.hash_start).tolist() == [2, 1, 3, 0]  # the fourth block of 2,000 tokens is not full
    first_, second, third = (found.hash_ids[found.hash_start[i] : found.hash_start[i + 1]].tolist() for i in range(3))
    assert third[:2] == first_
    assert second == first_[:1]
    assert len({*first_, *third}) == 3


def test_hash_ids_of_parquet_and_jsonl_are_the_same(tmp_path, file):
    lists = [[0, 1, 2], [0, 1, 3, 4], None, [0]]
    tokens = [1536, 2048, 100, 900]
    table = pa.table(
        {"arrival_s": [0.0, 1.0, 2.0, 3.0], "input_tokens": tokens, "output_tokens": [1, 1, 1, 1], "hash_ids": lists}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    one = rows(str(tmp_path / "a.parquet"))
    entries = [
        {"timestamp": 1000 * i, "input_length": count, "output_length": 1, "hash_ids": ids}
        for i, (count, ids) in enumerate(zip(tokens, lists, strict=True))
    ]
    other = rows(file("\n".join(map(json.dumps, entries)), "b.jsonl"))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
    assert one.hash_ids.tolist() == [0, 1, 2, 0, 1, 3, 4, 0]


def test_sharegpt_is_estimated_and_says_so(file):
    entries = [
        {"id": "a", "conversations": [{"from": "human", "value": "x" * 400}, {"from": "gpt", "value": "y" * 40}]},
        {"id": "b", "conversations": [{"from": "gpt", "value": "hello"}]},
        {"id": "c", "conversations": []},
        {
            "id": "d",
            "conversations": [
                {"from": "system", "value": "s"},
                {"role": "user", "content": "z"},
                {"role": "assistant", "content": "é" * 8},
            ],
        },
    ]
    said: list[str] = []
    path = file(json.dumps(entries, indent=2), "sharegpt.json")
    found = rows(path, rate_per_s=2.0, say=said.append)
    assert [(i, o) for _, i, o in plain(found)] == [(100, 10), (1, 2)]
    assert "estimated" in said[0]
    with pytest.raises(BadRequest, match="--rate"):
        named(path)


BROKEN = {
    "negative time": ("-0.1,10,1", "negative time of arrival", 3),
    "time that is no number": ("soon,10,1", "without a time of arrival", 3),
    "no time": (",10,1", "without a time of arrival", 3),
    "NaN": ("nan,10,1", "without a time of arrival", 3),
    "infinite": ("inf,10,1", "without a time of arrival", 3),
    "out of order": ("0.1,10,1", "out of order", 3),
    "years later": ("1e8,10,1", "more than two years", 3),
    "no prompt": ("0.7,0,1", "with no input tokens", 3),
    "no answer": ("0.7,10,0", "with no output tokens", 3),
    "negative tokens": ("0.7,-3,1", "negative number of input tokens", 3),
    "absurd tokens": ("0.7,10000001,1", "more than 10,000,000 input tokens", 3),
    "absurd answer": ("0.7,10,1e300", "more than 10,000,000 output tokens", 3),
    "half a token": ("0.7,10.5,1", "fraction of input tokens", 3),
    "missing tokens": ("0.7,,1", "without a number of input tokens", 3),
    "too few values": ("0.7,10", "cannot be read", 3),
    "too many values": ("0.7,10,1,1", "cannot be read", 3),
    "twice": ("0.5,100,10", "repeat another", 3),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_rows_are_refused_with_their_line(file, kind):
    row, words, line = BROKEN[kind]
    head, *rest = GOOD.splitlines()
    path = file(HEADER + "\n".join([head, row, *rest]) + "\n")
    with pytest.raises(BadRequest) as caught:
        named(path)
    assert words in str(caught.value)
    assert f"(line {line})" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in BROKEN if kind != "out of order"])
def test_broken_rows_are_dropped_where_repair_is_asked(file, kind):
    head, *rest = GOOD.splitlines()
    said: list[str] = []
    path = file(HEADER + "\n".join([head, BROKEN[kind][0], *rest]) + "\n")
    assert plain(rows(path, repair=True, say=said.append)) == WANTED
    assert BROKEN[kind][1] in said[0]


def test_repair_sorts(file):
    said: list[str] = []
    path = file(HEADER + "4.0,50,5\n0.5,100,10\n1.0,200,20\n0.5,100,10\n")
    assert plain(rows(path, repair=True, say=said.append)) == WANTED
    assert "sorted" in said[0]
    assert any("repeat another" in line for line in said)


def test_lines_are_counted_past_empty_and_broken_ones(file):
    path = file(HEADER + "0,1,1\n\n1,2\n2,0,1\n\n3,-1,1\n" + "".join(f"{i},0,1\n" for i in range(4, 20)))
    with pytest.raises(BadRequest) as caught:
        named(path)
    text = str(caught.value)
    assert "17 rows with no input tokens (lines 5, 8, 9, 10, 11, ...)" in text
    assert "negative number of input tokens (line 7)" in text
    assert "cannot be read (line 4)" in text


def test_lines_hold_where_rows_are_skipped_in_many_blocks(file, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1 << 12)
    lines = [f"{i},5,7" if i % 50 else f"{i},5" for i in range(5_000)]
    lines[4_321] = "4321,0,7"
    with pytest.raises(BadRequest) as caught:
        named(file(HEADER + "\n".join(lines)))
    assert "100 rows that cannot be read (lines 2, 52, 102, 152, 202, ...)" in str(caught.value)
    assert "no input tokens (line 4323)" in str(caught.value)


@pytest.mark.parametrize("rows_", [lint.ROUGH_ROWS, 300_000])
def test_lines_hold_over_batches(file, rows_, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1 << 16)
    lines = [f"{i}.25,{i % 900 + 1},7" for i in range(rows_)]
    lines[rows_ - 7] = f"{rows_ - 7}.25,0,7"
    with pytest.raises(BadRequest, match=f"line {rows_ - 7 + 2}\\)"):
        named(file(HEADER + "\n".join(lines)))


def test_jsonl_lines_are_named(file):
    good = '{"arrival_s": %d, "input_tokens": 5, "output_tokens": 5}\n'
    text = (
        good % 0
        + "\n"
        + "{broken\n"
        + good % 1
        + '[1]\n{"arrival_s": 2, "input_tokens": null, "output_tokens": true}\n'
    )
    path = file(text, "a.jsonl")
    with pytest.raises(BadRequest) as caught:
        named(path)
    assert "2 rows that cannot be read (lines 3, 5)" in str(caught.value)
    assert "without a number of input tokens (line 6)" in str(caught.value)
    assert len(rows(path, repair=True).arrival_s) == 2


def test_request_ids_tell_equal_rows_apart_and_must_differ(file):
    head = "request_id,arrival_s,input_tokens,output_tokens\n"
    assert len(rows(file(head + "a,0,5,5\nb,0,5,5\nc,0,5,5\n")).arrival_s) == 3
    with pytest.raises(BadRequest, match=r"request id that was there before \(line 4\)"):
        named(file(head + "a,0,5,5\nb,0,5,5\na,1,6,6\n"))
    assert len(rows(file(HEADER + "0,5,5\n0,5,5\n"), keep_duplicates="yes").arrival_s) == 2


def test_coarse_clocks_may_repeat_rows(file):
    text = "Timestamp,Model,Request tokens,Response tokens\n" + "5,m,10,10\n" * 3
    assert len(rows(file(text)).arrival_s) == 3


NO_TRACE = {
    "no such file": (None, "no file"),
    "gzip": (gzip.compress((HEADER + GOOD).encode()), "gzip"),
    "zip": (b"PK\x03\x04junk", "zip"),
    "binary": (b"\x01\x02\x00\x05" * 100, "neither text nor Parquet"),
    "truncated Parquet": (b"PAR1" + b"\x15\x04" * 50, "Parquet"),
    "not UTF-8": (b"arrival_s,input_tokens,output_tokens\n\xff\xfe,1,1\n", "not text in UTF-8, on line 1"),
    "header not UTF-8": (b"\xff\xfea,b\n1,2\n", "UTF-8"),
    "other columns": ("time,prompt,answer\n1,2,3\n", "'time', 'prompt', 'answer'"),
    "twice a column": ("arrival_s,input_tokens,input_tokens,output_tokens\n1,2,3,4\n", "twice"),
    "endless line": (HEADER + "1," + "9" * (12 << 20) + ",1\n", "line 1"),
    "endless header": ("x" * (5 << 20), "no header"),
    "JSON of something else": ('{"a": 1}', "'a'"),
    "no JSON": ("{a: 1}\n{b}\n", "line 1"),
    "deep JSON": ("[" * 100_000, "broken"),
    "list of numbers": ("[1, 2, 3]", "entry 1"),
    "list cut off": ('[{"conversations": []}, {"conv', "ends in the middle"),
    "Arrow file": (b"ARROW1\x00\x00" + b"x" * 64, "neither"),
}


@pytest.mark.parametrize("kind", NO_TRACE)
def test_what_is_no_trace_is_refused_in_one_line(file, tmp_path, kind):
    content, words = NO_TRACE[kind]
    path = str(tmp_path / "gone.csv") if content is None else file(content)
    with pytest.raises(BadRequest, match=words) as caught:
        named(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_a_folder_is_no_trace(tmp_path):
    with pytest.raises(BadRequest, match="not a file"):
        named(str(tmp_path))


@pytest.mark.parametrize("text", ["", "\n", HEADER, HEADER.strip(), "[]", "[\n]\n", "\n\n\n"])
def test_nothing_is_a_traffic_without_requests(file, text):
    traffic = named(file(text))
    (found,) = traffic.chunks()
    assert traffic.count == len(found.arrival_s) == 0


def test_an_empty_parquet_is_a_traffic_without_requests(tmp_path):
    table = pa.table(
        {
            "arrival_s": pa.array([], pa.float64()),
            "input_tokens": pa.array([], pa.int64()),
            "output_tokens": pa.array([], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert named(str(tmp_path / "a.parquet")).count == 0


def test_one_request(file):
    path = file(HEADER + "0,5,6\n")
    assert plain(rows(path)) == [(0.0, 5, 6)]
    assert named(path).rate_per_s is None
    with pytest.raises(BadRequest, match="all its requests arrive at once"):
        named(path, rate_per_s=3.0)


def test_rate_time_scale_repetition_and_limit(file):
    path = file(HEADER + GOOD)
    assert named(path).rate_per_s == pytest.approx(3 / 4.0)
    fast = named(path, rate_per_s=7.5)
    assert fast.rate_per_s == pytest.approx(7.5)
    assert first(fast, 3).arrival_s == pytest.approx([0.05, 0.1, 0.4])
    assert rows(path, time_scale=0.5).arrival_s == pytest.approx([0.25, 0.5, 2.0])
    assert rows(f"{path}:time_scale=0.5").arrival_s == pytest.approx([0.25, 0.5, 2.0])
    # The next repetition starts a mean gap (1.75 s) after the last request.
    assert rows(path, repeat=2).arrival_s == pytest.approx([0.5, 1.0, 4.0, 5.75, 6.25, 9.25])
    assert plain(rows(path, requests=2)) == WANTED[:2]
    assert len(rows(path, repeat=3, requests=3).arrival_s) == 3
    with pytest.raises(BadRequest, match="one of them"):
        named(path, rate_per_s=1.0, time_scale=2.0)
    with pytest.raises(BadRequest, match="lengths of its own"):
        named(path, input_tokens=5)


def test_more_requests_than_a_file_has_are_said(file):
    said: list[str] = []
    assert named(file(HEADER + GOOD), requests=7, say=said.append).count == 3
    assert "repeat=3" in said[0]


def test_repetitions_bring_prompts_of_their_own(file):
    text = '{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [0, 1]}\n{"timestamp": 9, "input_length": 512, "output_length": 1, "hash_ids": [0]}\n'
    found = rows(file(text, "a.jsonl"), repeat=2)
    assert found.hash_ids.tolist() == [0, 1, 0, 2, 3, 2]


def test_a_file_in_a_closed_loop(file):
    traffic = named(file("input_tokens,output_tokens\n5,6\n7,8\n"), in_flight=2)
    assert traffic.in_flight == 2
    assert traffic.rate_per_s is None
    assert next(traffic.chunks()).input_tokens.tolist() == [5, 7]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 100])
def test_chunk_boundaries_do_not_matter(file, chunk):
    text = '{"timestamp": %d, "input_length": 1100, "output_length": 1, "hash_ids": [%d, 1]}\n'
    path = file("".join(text % (1000 * i, i) for i in range(11)), "a.jsonl")
    traffic, whole = named(path, chunk=chunk, repeat=2), rows(path, repeat=2)
    parts = list(traffic.chunks())
    assert max(len(part.arrival_s) for part in parts) <= chunk
    joined = first(traffic, traffic.count)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(joined, whole, strict=True))


def test_reading_needs_no_more_than_what_it_keeps(tmp_path):
    """Batches are let go: two million rows in less than 100 bytes each above what the process had."""
    import resource

    count = 2_000_000
    table = pa.table(
        {
            "arrival_s": np.arange(count) / 100.0,
            "input_tokens": np.full(count, 700, np.int32),
            "output_tokens": np.full(count, 7, np.int32),
            "text": pa.array(["x" * 50] * 1000 * (count // 1000)),
        }
    )
    path = Path(tmp_path / "a.parquet")
    pq.write_table(table, path, row_group_size=100_000)
    del table
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert named(str(path)).count == count
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100 * count
