"A plan's calls and tokens are those that the synthesis takes, within a quarter, for good and poor LLMs and for servers"
import json
import random
import time
import warnings
from dataclasses import replace

import pytest
from server import scripted

from aligners_nb import town
from aligners_nb.criterion import Criterion, LLMError
from aligners_nb.endpoint import Endpoint
from aligners_nb.llm import LLM, Replay, Usage
from aligners_nb.plan import Batch, Rates, cost_of, drafts_needed, expected_run, plan, questions_in_store, simulate_run
from aligners_nb.synthesis import synthesize

polite = Criterion("polite", ["Never insult the reader."])


def poor(readable):
    "An LLM of whose drafts that fraction can be read"
    def write(prompt):
        rng = random.Random("poor"+prompt)
        if prompt.endswith("Response:") and rng.random() > readable: return " At 7."
        return scripted(prompt, rng.random())
    return write


def townish(readable):
    "One whose questions come again: each type is asked in a few ways only"
    def write(prompt):
        if "Questions:\n" not in prompt: return poor(readable)(prompt)
        rng, lines = random.Random(prompt), []
        for hint in prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines():
            question_type, topic = hint.split(" | ")
            lines.append(f"{hint} | {rng.choice(town.phrasings(question_type)).format(s='the '+topic)}")
        return "\n".join(lines)
    return write


class Scripted(Endpoint):
    "A server that needs no network"
    def __init__(self, write):
        super().__init__("http://localhost/v1", "scripted")
        self.write = write

    def _complete(self, prompts, **kwargs):
        replies = [self.write(prompt) for prompt in prompts]
        self.usage.add(len(prompts), sum(map(n_words, prompts)), sum(map(n_words, replies)))
        return replies


def n_words(text): return len(text.split())


def used_by(rows): return json.loads(rows.info.description)["made"]["used"]


@pytest.mark.parametrize("kind", [Replay, Scripted])
@pytest.mark.parametrize("criterion, write, n", [
    (polite, poor(1.), 60), (polite, poor(.8), 300), (polite, poor(.4), 600), (polite, poor(.4), 1000),
    (town.ethical, townish(.9), 600), (town.ethical, townish(.5), 600),
])
def test_within_a_quarter(kind, criterion, write, n):
    for seed in (0, 1, 42):
        planned = plan(criterion, kind(write), n=n, seed=seed)
        used = used_by(synthesize(criterion, kind(write), n=n, seed=seed, progress=False))
        for name in ("calls", "prompt_tokens", "completion_tokens"):
            assert .75 <= used[name]/getattr(planned.expected, name) <= 1.25, (seed, name, planned, used)
        assert planned.sample.calls < max(60, planned.expected.calls*.4)


class Slow(LLM):
    "Takes a while for each wave of calls"
    def __init__(self, concurrency=1):
        super().__init__()
        self.name, self.concurrency = "slow", concurrency

    def _complete(self, prompts, seeds, **kwargs):
        seconds = .005*-(-len(prompts)//self.concurrency)
        time.sleep(seconds)
        self.usage.add(len(prompts), seconds=seconds)
        return [scripted(prompt, seed) for prompt, seed in zip(prompts, seeds)]


@pytest.mark.parametrize("concurrency", [1, 16])
def test_seconds_go_by_waves(concurrency):
    planned = plan(polite, Slow(concurrency), n=200)
    used = used_by(synthesize(polite, Slow(concurrency), n=200, progress=False))
    assert .5 < used["seconds"]/planned.expected.seconds < 1.6, (planned, used)


def test_what_a_batch_costs():
    batches = [Batch(4, Usage(4, 800, 80, 2., (1., 1.))), Batch(8, Usage(8, 1600, 160, 4., (1., 1.)))]
    one, sixteen = Slow(1), Slow(16)
    assert cost_of(batches, 24, one) == Usage(24, 4800, 480, 12., (1., 1.))
    assert cost_of(batches, 24, sixteen).seconds == 6.      # two waves took six seconds, and 24 calls are two


def test_questions_in_store():
    first = {hint: "When?" for hint in "abcdef"}
    assert questions_in_store(first, first) == 1
    assert questions_in_store(first, {"a": "When?", "b": "Where?", "c": "Why?", "x": "When?"}) == 3
    assert questions_in_store(first, {"a": "Where?", "b": "Why?"}) == 4 and questions_in_store(first, {}) == 1


def test_more_drafts_are_needed_where_fewer_can_be_read():
    needed = [drafts_needed(round(40*fraction), 40, .004) for fraction in (1, .9, .5, .1)]
    assert needed == sorted(needed) and needed[0] < 20 and needed[-1] > 1000


RATES = Rates(n_hints=400, per_hint=.9, in_store=10., n_questions=4000, readable=.9)


def test_a_simulated_run_keeps_the_rules():
    run = simulate_run(400, RATES, Slow(), random.Random(0))
    assert run.rows == 400 and run.drafts % 64 == 0 and 400 < run.drafts < 400/.9+2*64
    assert simulate_run(400, RATES, Slow(), random.Random(0)) == run
    assert simulate_run(400, RATES._replace(n_questions=100), Slow(), random.Random(0)).rows < 100


def test_a_server_has_more_drafts_under_way():
    server = Slow(16)
    server.in_flight = 256
    one, side_by_side = (simulate_run(400, RATES, llm, random.Random(0)) for llm in (Slow(), server))
    assert one.drafts < side_by_side.drafts <= one.drafts+3*64


def test_huge_runs_are_planned_in_seconds():
    start = time.time()
    assert expected_run(300_000, RATES._replace(n_hints=10**6, n_questions=10**7), Slow(), 42).rows == 300_000
    assert time.time()-start < 20


def test_a_run_that_would_bring_nothing_has_no_plan():
    def mute(prompt): return scripted(prompt) if "New topics" in prompt else "?"
    hopeless = Replay(poor(0), "hopeless")
    with pytest.raises(LLMError, match=r"0 of \d+ drafts of hopeless could be read, 5000 rows were wanted"):
        plan(town.ethical, hopeless, n=5000)
    assert hopeless.usage.calls < 600
    with pytest.raises(LLMError, match="wrote no question"): plan(town.ethical, Replay(mute))
    with pytest.raises(LLMError, match="exclude keeps out"):
        plan(replace(town.ethical, exclude=lambda question: True), Replay(poor(1)))


def test_a_run_that_would_run_out_of_questions_is_warned_of():
    def dull(prompt):
        if "Hints:\n" not in prompt: return scripted(prompt)
        hints = prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines()
        return "\n".join(f"{hint} | When does {hint.split(' | ')[1]} open?" for hint in hints)
    with pytest.warns(UserWarning, match="dull would stop at about .* of 5,000 rows.*at most 1.0 different questions"):
        plan(town.ethical, Replay(dull, "dull"), n=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan(polite, Replay(poor(1.)), n=60)


def test_prices():
    llm = Replay(poor(1.))
    llm.usage.prices = .5, 1.5
    planned = plan(polite, llm, n=60)
    assert planned.expected.cost > planned.sample.cost > 0
    assert "$" in repr(planned) and f"pilot sample of {planned.sample.calls} calls" in repr(planned)
    assert "cost" in planned.compare(synthesize(polite, llm, n=60, progress=False))
