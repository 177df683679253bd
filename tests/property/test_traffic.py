"""Whatever a file holds, it is traffic in order or one line that says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic import distribution
from gemmstone.simulate.traffic.named import named
from gemmstone.simulate.traffic.show import first

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADERS = (
    "arrival_s,input_tokens,output_tokens",
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "arrival_s,input_tokens,output_tokens,priority,session_id,prefix_hash_ids,request_id",
)
CELLS = st.one_of(
    st.integers(-3, 2_000).map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "nan", "inf", "2023-11-16 18:17:03", '"1', '"[1,2]"', "1;2", "é", "\x00", "1e400", "0x10", "-"]
    ),
    st.text(max_size=5),
)


def check(path: Path, **asked: object) -> None:
    refused = ""
    try:
        traffic = named(str(path), **asked)  # type: ignore[arg-type]
    except BadRequest as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        return
    found = first(traffic, traffic.count + 1)
    assert len(found.arrival_s) == traffic.count
    assert np.isfinite(found.arrival_s).all()
    assert (found.arrival_s >= 0).all()
    assert (np.diff(found.arrival_s) >= 0).all()
    assert (found.input_tokens >= 1).all()
    assert (found.output_tokens >= 1).all()
    assert found.hash_start[-1] == len(found.hash_ids)


@SETTINGS
@given(st.sampled_from(HEADERS), st.lists(st.lists(CELLS, min_size=1, max_size=8), max_size=12), st.booleans())
def test_any_csv(tmp_path, header, rows, repair):
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join([header, *(",".join(row) for row in rows)]).encode("utf-8", "surrogatepass"))
    check(path, repair=repair, rate_per_s=None)


@SETTINGS
@given(st.binary(max_size=300), st.sampled_from([b"", b"PAR1", b"{", b"[", b"arrival_s,input_tokens,output_tokens\n"]))
def test_any_bytes(tmp_path, content, start):
    path = tmp_path / "a.bin"
    path.write_bytes(start + content)
    check(path, rate_per_s=1.0)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
NAMES = ("timestamp", "input_length", "output_length", "hash_ids", "session_id", "priority")


@SETTINGS
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, JSON)), min_size=1, max_size=6), st.booleans())
def test_any_jsonl(tmp_path, rows, repair):
    import json

    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    check(path, repair=repair)


@SETTINGS
@given(JSON, st.sampled_from(["lengths", "arrivals", "sharing", "parts", "days"]))
def test_any_distribution(content, field):
    with pytest.raises(BadRequest) as refused:
        distribution.read({"schema": distribution.SCHEMA, field: content}, "mine")
    assert "\n" not in str(refused.value)
