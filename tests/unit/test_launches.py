"""What a plan hands to the launch: the priced load as a limit, and pools as two kinds of workers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from gemmstone.core.deployment import Workload
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.launches import commands, manifests
from gemmstone.plan.question import Question
from gemmstone.plan.trials import Tried
from gemmstone.predict.deploy import Choice
from gemmstone.simulate.metrics import Answer
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.pools import choice as pools_choice
from gemmstone.simulate.scenario import Scenario, made, system
from tests.unit.test_launch import servers

WORKLOAD = Workload(input_tokens=4000, output_tokens=500)


def question(model: str) -> Question:
    return Question(model=model, hardware=("8xh100-sxm",), engines=("vllm",), workload=WORKLOAD)


def scenario(**changes) -> Scenario:
    return Scenario(model="llama-3.1-70b", hardware="8xh100-sxm", engine="vllm", workload=WORKLOAD, **changes)


def candidate(found, pools: Pools | None, in_flight: float = 96.0) -> Candidate:
    """A candidate with as much of an answer, and of what was simulated, as a launch looks at."""
    answer = cast(Answer, SimpleNamespace(system=found, pools=pools))
    return Candidate(hardware="8xh100-sxm", answer=answer, loads=np.array([in_flight]), point=0)


def simulated(best: Candidate, max_num_seqs: int) -> Candidate:
    """The same on traffic, with what its engines were allowed."""
    return best._replace(tried=cast(Tried, SimpleNamespace(max_num_seqs=max_num_seqs)))


def pooled(prefill: str, decode: str) -> Pools:
    found = made(scenario(pools=pools_choice(prefill, decode, None, None, "")))
    assert isinstance(found, Pools)
    return found


def test_the_priced_load_limits_the_running_requests():
    found = system(scenario(choice=Choice(tensor_parallel=4, data_parallel=2)))
    texts = commands(question("llama-3.1-70b"), candidate(found, None))
    assert set(texts) == {"vllm", "sglang", "trtllm", "llamacpp"}
    assert "--max-num-seqs 48 " in texts["vllm"]


def test_what_was_simulated_limits_the_running_requests():
    """Not the mean in flight: the engine runs as many as the simulated one was allowed."""
    found = system(scenario(choice=Choice(tensor_parallel=4, data_parallel=2)))
    best = simulated(candidate(found, None), 200)
    assert "--max-num-seqs 200 " in commands(question("llama-3.1-70b"), best)["vllm"]
    pools = pooled("2*tp2", "1*tp4")
    texts = commands(question("llama-3.1-70b"), simulated(candidate(pools.decode, pools), 200))
    prefill, decode = (servers(texts["vllm"])[at][1] for at in (0, 2))
    assert decode[decode.index("--max-num-seqs") + 1] == "200"
    assert prefill[prefill.index("--max-num-seqs") + 1] == "48"  # its half of the load


def test_the_longest_request_of_the_traffic_fits():
    """The lengths of a question on traffic are means, --max-model-len is of the longest."""
    found = candidate(system(scenario(choice=Choice(tensor_parallel=4, data_parallel=2))), None)
    longest = replace(question("llama-3.1-70b"), longest_tokens=30_000.0)
    for asked, least in ((question("llama-3.1-70b"), 4_500), (longest, 30_000)):
        words = commands(asked, found)["vllm"].split()
        assert least <= int(words[words.index("--max-model-len") + 1]) < 1.1 * least


def test_pools_are_started_worker_by_worker_behind_a_router():
    pools = pooled("2*tp2", "1*tp4")
    best = candidate(pools.decode, pools)
    texts = commands(question("llama-3.1-70b"), best)
    for name in ("vllm", "sglang", "trtllm"):
        assert len(servers(texts[name])) == 4
    assert texts["llamacpp"].startswith("# no launch command: llama.cpp has no disaggregated")
    decode = servers(texts["vllm"])[2][1]
    assert decode[decode.index("--max-num-seqs") + 1] == "96"
    assert decode[decode.index("--tensor-parallel-size") + 1] == "4"


def test_pools_of_other_devices_have_nodes_of_their_own():
    pools = pooled("1*tp4", "1*tp4@h200-sxm")
    text = commands(question("llama-3.1-70b"), candidate(pools.decode, pools))["vllm"]
    assert "# on $PREFILL_NODE_0:" in text
    assert "# on $DECODE_NODE_0:" in text


@pytest.mark.parametrize("kind", ["kubernetes", "compose"])
def test_pools_have_no_manifest_and_say_so(kind):
    pools = pooled("2*tp2", "1*tp4")
    asked, best = question("llama-3.1-70b"), candidate(pools.decode, pools)
    assert manifests(asked, [best], [kind])[kind].startswith("# not written: pools of prefill and decode workers")
    second = candidate(system(scenario(choice=Choice(tensor_parallel=8))), None)
    text = manifests(asked, [best, second], [kind])[kind]
    assert text.startswith("# the best plan has pools of prefill and decode workers")
    assert "--tensor-parallel-size" in text
    assert not manifests(asked, [second, best], [kind])[kind].startswith("# the best plan has pools")
