"""The plain engine on scenarios whose every step a reader works out in the head: they pin what serving means here."""

from __future__ import annotations

import pytest
from reference_engine import Ask, Engine, Job, Swap
from reference_fleet import Pool, least_work, run


def second(sequences: int, context: int, prompt_tokens: int, attended: float) -> float:
    return 1.0


def engine(**how) -> Engine:
    return Engine(step_s=second, **({"total_blocks": 100, "block_size": 2, "max_num_seqs": 2} | how))


def serve(one: Engine, *asks: Ask, **how) -> list[Job]:
    return run(asks, Pool([one]), **how)


def ask(arrival_s: float, input_tokens: int, output_tokens: int, **more) -> Ask:
    return Ask(arrival_s=arrival_s, input_tokens=input_tokens, output_tokens=output_tokens, **more)


def times(job: Job) -> tuple[float | None, float | None, float | None]:
    return job.scheduled_s, job.first_token_s, job.finished_s


def shapes(one: Engine) -> list[tuple[int, int, int, float]]:
    """Of each step: decoding sequences, their context, prompt tokens, attention work."""
    return [step[2:] for step in one.trace]


def test_one_request_takes_a_step_for_its_prompt_and_one_for_each_later_token():
    one = engine()
    (job,) = serve(one, ask(0.5, 5, 3))
    assert times(job) == (0.5, 1.5, 3.5)
    assert shapes(one) == [(0, 0, 5, 12.5), (1, 5, 0, 0.0), (1, 6, 0, 0.0)]


def test_an_answer_of_one_token_ends_with_its_prompt():
    (job,) = serve(engine(), ask(0.0, 5, 1))
    assert times(job) == (0.0, 1.0, 1.0)


def test_prompts_share_the_budget_and_decoding_goes_first():
    one = engine(budget=4)
    first, other = serve(one, ask(0.0, 3, 3), ask(0.0, 6, 1))
    assert times(first) == (0.0, 1.0, 3.0)
    assert times(other) == (0.0, 3.0, 3.0)
    assert shapes(one) == [(0, 0, 4, 3 * 1.5 + 1 * 0.5), (1, 3, 3, 3 * 2.5), (1, 4, 2, 2 * 5.0)]


def test_an_arrival_at_a_boundary_joins_and_a_later_one_waits_a_step():
    _, joins, waits = serve(engine(max_num_seqs=3), ask(0.0, 1, 5), ask(1.0, 1, 1), ask(2.001, 1, 1))
    assert times(joins) == (1.0, 2.0, 2.0)
    assert times(waits) == (3.0, 4.0, 4.0)


def test_no_more_sequences_than_allowed_run_and_nobody_overtakes():
    # The third asks for more blocks than are left, so the fourth, which would fit, waits with it.
    jobs = serve(engine(total_blocks=4, max_num_seqs=3), ask(0, 2, 2), ask(0, 2, 2), ask(0, 6, 1), ask(0, 2, 1))
    assert [job.scheduled_s for job in jobs] == [0.0, 0.0, 2.0, 2.0]


# Two requests of 3 tokens and answers of 4 in 4 blocks of 2: both hold 2, and at their third token each asks for one more.
PRESSED = (ask(0.0, 3, 4), ask(0.0, 3, 4))


def test_the_last_to_come_is_preempted_and_computes_its_tokens_again():
    one = engine(total_blocks=4)
    first, last = serve(one, *PRESSED)
    assert times(first) == (0.0, 1.0, 4.0)
    assert times(last) == (0.0, 1.0, 6.0)
    assert (first.preemptions, last.preemptions, last.lost) == (0, 1, 4)
    # Prompts; both; the first alone twice (one block is free, three are needed); 3 + 2 tokens anew; the last token.
    assert shapes(one) == [
        (0, 0, 6, 9.0),
        (2, 6, 0, 0.0),
        (1, 4, 0, 0.0),
        (1, 5, 0, 0.0),
        (0, 0, 5, 12.5),
        (1, 5, 0, 0.0),
    ]
    assert one.empty == 4


def test_a_swapped_request_comes_back_without_computing_anything_twice():
    one = engine(total_blocks=4, swap=Swap(block_bytes=2.0, bytes_per_s=16.0, chunk_s=0.25, blocks_per_chunk=2))
    first, last = serve(one, *PRESSED)  # out and back: two blocks, one chunk: 2 x 2 / 16 + 0.25 = 0.5 s
    assert times(first) == (0.0, 1.0, 4.5)
    assert times(last) == (0.0, 1.0, 7.0)
    assert shapes(one) == [
        (0, 0, 6, 9.0),
        (2, 6, 0, 0.0),
        (1, 4, 0, 0.0),
        (1, 5, 0, 0.0),
        (1, 4, 0, 0.0),
        (1, 5, 0, 0.0),
    ]
    assert [step[1] for step in one.trace] == [1.0, 1.0, 1.5, 1.0, 1.5, 1.0]


def test_by_priority_the_least_important_is_preempted_although_it_came_first():
    jobs = serve(engine(total_blocks=4, policy="priority"), ask(0.0, 3, 4, priority=1), ask(0.0, 3, 4))
    assert [job.finished_s for job in jobs] == [6.0, 4.0]
    assert [job.preemptions for job in jobs] == [1, 0]


def test_a_partial_prompt_is_preempted_too():
    # In 5 blocks of 2: A holds 2 for 4 tokens; B's prompt of 6 comes in chunks of 3, 2 and 1. At t = 2 A asks for a third.
    one = engine(total_blocks=5, budget=3)
    first, last = serve(one, ask(0.0, 3, 4), ask(0.5, 6, 1))
    # t=0 A's prompt. t=1 A to 4 tokens, B 2. t=2 A to 5, B 4: 3 + 2 blocks. t=3 A to 6 (3 blocks), B's last 2 ask for a third.
    assert times(first) == (0.0, 1.0, 4.0)
    assert times(last) == (1.0, 6.0, 6.0)
    assert (last.preemptions, last.lost) == (1, 4)
    assert shapes(one)[3:] == [(1, 5, 0, 0.0), (0, 0, 3, 4.5), (0, 0, 3, 3 * 4.5)]


def test_a_prompt_waits_until_all_of_it_fits_unless_its_first_chunk_is_enough():
    # In 5 blocks of 2: A grows to 4 blocks, B's prompt of 8 asks for 4 in chunks of 3.
    asked = ask(0.0, 3, 6), ask(0.5, 8, 1)
    first, last = serve(engine(total_blocks=5, budget=3), *asked)
    assert (times(first), times(last)) == ((0.0, 1.0, 6.0), (6.0, 9.0, 9.0))
    assert last.preemptions == 0
    first, last = serve(engine(total_blocks=5, budget=3, whole_prompts=False), *asked)
    assert last.scheduled_s == 1.0
    assert (last.preemptions, last.lost) > (0, 0)


def test_the_watermark_holds_newcomers_back_but_not_from_an_empty_engine():
    one = engine(total_blocks=4, watermark_frac=0.25)
    whole, first, last = serve(one, ask(0.0, 8, 1), ask(1.0, 4, 1), ask(1.0, 4, 1))
    assert times(whole) == (0.0, 1.0, 1.0)
    assert (first.scheduled_s, last.scheduled_s) == (1.0, 2.0)


def test_a_cached_prefix_is_shared_from_the_step_on_that_computes_it():
    one = engine(hash_tokens=2)
    first, second_, capped = serve(one, ask(0, 5, 1, ids=(1, 2)), ask(0, 5, 1, ids=(1, 2)), ask(1, 4, 1, ids=(1, 2)))
    assert [job.cached_tokens for job in (first, second_, capped)] == [0, 4, 2]  # at least one token is computed
    assert shapes(one) == [(0, 0, 6, 12.5 + 4.5), (0, 0, 2, 2 * 3.0)]
    assert (one.empty, sorted(one.idle_blocks)) == (98, [1, 2])


def test_the_least_recently_used_hash_block_goes_first_and_the_deepest_of_a_request_before_its_parents():
    one = engine(total_blocks=4, hash_tokens=2)
    jobs = serve(
        one,
        ask(0, 4, 1, ids=(1, 2)),  # leaves 2, 1
        ask(1, 6, 1, ids=(3, 4, 5)),  # three blocks where two are empty: 2 goes; leaves 1, 5, 4, 3
        ask(2, 5, 1, ids=(1, 2)),  # finds 1; its other two push out 5 and 4; leaves 3, 2, 1 and an empty block
        ask(3, 7, 1, ids=(3, 4, 5)),  # finds 3; three more: the empty one, then 2 and 1; leaves 5, 4, 3
    )
    assert [job.cached_tokens for job in jobs] == [0, 0, 2, 2]
    assert one.idle_blocks == [5, 4, 3]


def test_blocks_in_use_by_anyone_are_not_evicted():
    # A holds 1 and 2 while it decodes; B shares them. C wants three blocks, and two are left until both are done.
    one = engine(total_blocks=5, hash_tokens=2, max_num_seqs=3)
    jobs = serve(one, ask(0, 5, 2, ids=(1, 2)), ask(1, 5, 2, ids=(1, 2)), ask(1, 6, 1, ids=(7, 8, 9)))
    assert [job.cached_tokens for job in jobs] == [0, 4, 0]
    assert [job.scheduled_s for job in jobs] == [0.0, 1.0, 3.0]


def test_prefill_first_makes_decoding_wait_for_prompts():
    one = engine(batching="prefill-first")
    first, other = serve(one, ask(0.0, 2, 3), ask(1.5, 2, 2))
    assert times(first) == (0.0, 1.0, 4.0)
    assert times(other) == (2.0, 3.0, 4.0)
    assert shapes(one) == [(0, 0, 2, 2.0), (1, 2, 0, 0.0), (0, 0, 2, 2.0), (2, 5, 0, 0.0)]


def test_a_static_batch_ends_with_its_longest_answer():
    one = engine(batching="static")
    short, longest, later = serve(one, ask(0.0, 2, 1), ask(0.0, 3, 3), ask(0.5, 2, 1))
    assert times(short) == times(longest) == (0.0, 1.0, 3.0)
    assert times(later) == (3.0, 4.0, 4.0)
    assert shapes(one)[:3] == [(0, 0, 5, 6.5), (2, 5, 0, 0.0), (2, 7, 0, 0.0)]


@pytest.mark.parametrize(
    ("policy", "order"), [("fcfs", [0, 1, 2, 3]), ("priority", [0, 3, 1, 2]), ("shortest", [0, 2, 3, 1])]
)
def test_policies_order_the_queue(policy, order):
    asks = (ask(0.0, 1, 1), ask(0.1, 1, 5, priority=1), ask(0.2, 1, 2, priority=1), ask(0.3, 1, 3))
    jobs = serve(engine(policy=policy, max_num_seqs=1), *asks)
    assert sorted(range(4), key=lambda index: jobs[index].scheduled_s) == order


def test_a_closed_loop_sends_the_next_request_at_once():
    jobs = serve(engine(), *[ask(9.0, 1, 2)] * 4, in_flight=2)
    assert [job.arrival_s for job in jobs] == [0.0, 0.0, 2.0, 2.0]
    assert [job.finished_s for job in jobs] == [2.0, 2.0, 4.0, 4.0]


def test_the_next_turn_comes_a_pause_after_the_answer():
    _, turn = serve(engine(), ask(0.0, 1, 2), ask(0.5, 3, 1, follows=0))
    assert (turn.arrival_s, *times(turn)) == (2.5, 2.5, 3.5, 3.5)


def test_what_can_never_fit_is_rejected_and_what_waits_for_it_goes_on():
    jobs = serve(engine(total_blocks=4), ask(0.0, 7, 3), ask(0.5, 7, 2, follows=0))
    assert (jobs[0].rejected, jobs[0].scheduled_s) == (True, None)
    assert (jobs[1].arrival_s, jobs[1].finished_s) == (0.5, 2.5)
    jobs = serve(engine(total_blocks=4), ask(0.0, 9, 1), ask(0.0, 9, 1), ask(0.0, 8, 1), in_flight=1)
    assert [job.finished_s for job in jobs] == [None, None, 1.0]


def test_replicas_take_turns_or_the_least_loaded_takes_it():
    asks = (ask(0.0, 9, 1), ask(0.0, 1, 1), ask(0.0, 1, 1), ask(0.0, 1, 1))
    assert [job.replica for job in run(asks, Pool([engine(), engine()]))] == [0, 1, 0, 1]
    assert [job.replica for job in run(asks, Pool([engine(), engine()], router=least_work))] == [0, 1, 1, 1]


def test_requests_take_their_time_to_the_scheduler():
    (job,) = serve(engine(), ask(0.5, 1, 1), front_s=0.25)
    assert (job.arrival_s, *times(job)) == (0.5, 0.75, 1.75, 1.75)


def test_prompts_and_answers_of_different_pools_are_joined_by_a_transfer():
    prefill, decode = engine(prompts_only=True), engine(max_num_seqs=1)
    jobs = run(
        [ask(0.0, 3, 3), ask(0.0, 4, 1), ask(0.5, 4, 2)],
        Pool([prefill]),
        decode_pool=Pool([decode]),
        transfer_s=lambda tokens: 0.125 * tokens,
    )
    assert times(jobs[0]) == (0.0, 1.0, 3.375)
    assert times(jobs[1]) == (0.0, 1.0, 1.0)
    assert times(jobs[2]) == (1.0, 2.0, 4.375)  # there at 2.5, while the only seat is taken until 3.375
    assert shapes(prefill) == [(0, 0, 7, 4.5 + 8.0), (0, 0, 4, 8.0)]
    assert shapes(decode) == [(1, 3, 0, 0.0), (1, 4, 0, 0.0), (1, 4, 0, 0.0)]
