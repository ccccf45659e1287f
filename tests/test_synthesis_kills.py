"A synthesis that is killed again and again ends with the rows of one that never was"
import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
from server import WORDS, scripted, serving

from aligners_nb import town
from aligners_nb.criterion import Criterion
from aligners_nb.endpoint import Endpoint
from aligners_nb.llm import Replay
from aligners_nb.local import as_llm
from aligners_nb.synthesis import correct, synthesize

try: import openai                 # noqa: F401 (once, before the forks)
except ImportError: openai = None

polite = Criterion("polite", ["Never insult the reader."])
TRIES, PATIENCE = 400, 1500        # processes, and seconds for all of them


class Scribe(Replay):
    "The tests' deterministic LLM, in this process"
    def __init__(self):
        super().__init__([], "scribe")

    def _complete(self, prompts, seeds, **kwargs):
        return [scripted(prompt, seed) for prompt, seed in zip(prompts, seeds)]

    def _chat(self, conversations, seeds, **kwargs):
        return [scripted(str(messages), seed) for messages, seed in zip(conversations, seeds)]


def size_of(file): return file.stat().st_size if file.exists() else 0


def kill_when_grown(process, file, size, end):
    "Kill a process when a file has grown to `size`; False if the process ended before"
    while process.is_alive() and size_of(file) < size:
        assert time.monotonic() < end, "it hangs"
        time.sleep(.0005)
    if not process.is_alive(): return False
    os.kill(process.pid, signal.SIGKILL)
    return True


def run_and_kill(make, out, max_kills, max_growth, rng):
    "Start `make` again and again in processes that are killed when the store has grown a little; then let it finish"
    fork, file, n_kills = multiprocessing.get_context("fork"), out/"rows.jsonl", 0
    end = time.monotonic()+PATIENCE
    for _ in range(TRIES):
        process, size = fork.Process(target=make), size_of(file)+rng.randrange(1, max_growth)
        process.start()
        if n_kills < max_kills: n_kills += kill_when_grown(process, file, size, end)
        process.join()
        if process.exitcode == 0: return n_kills
        assert process.exitcode == -signal.SIGKILL, f"ended with {process.exitcode}"
    raise AssertionError(f"not finished after {TRIES} processes")


def read_lines(folder):
    return [json.loads(line) for line in (folder/"rows.jsonl").read_text().splitlines()]


def assert_undisturbed(out, llm, criterion, n, **settings):
    "The rows and the units of a killed run are those of one that was not disturbed"
    def make(folder): return synthesize(criterion, llm, n=n, out=folder, progress=False, **settings)
    assert_same_as_calm(out, make, n)


def assert_same_as_calm(out, make, n):
    calm = out.with_name("calm")
    rows = make(calm).to_list()
    assert make(out).to_list() == rows
    assert len({row["id"] for row in rows}) == n
    (killed_meta, *killed_lines), (calm_meta, *calm_lines) = read_lines(out), read_lines(calm)
    killed_units = {line["unit"]: line["rows"] for line in killed_lines}
    assert killed_meta == calm_meta
    assert killed_units == {line["unit"]: line["rows"] for line in calm_lines}
    assert len(killed_units) == len(killed_lines) == len(calm_lines)     # none was written twice


@pytest.mark.parametrize("max_kills, n", [(5, 400), pytest.param(50, 4000, marks=pytest.mark.slow)])
def test_scripted(tmp_path, max_kills, n):
    out = tmp_path/"killed"
    def make(): synthesize(polite, Scribe(), n=n, out=out, progress=False)
    assert run_and_kill(make, out, max_kills, 30_000, random.Random(1)) >= max_kills*.9
    assert_undisturbed(out, Scribe(), polite, n)


def test_grown(tmp_path):
    "A run of another size in the same folder, killed again and again, too"
    out, calm = tmp_path/"killed", tmp_path/"calm"
    first = synthesize(polite, Scribe(), n=150, out=out, progress=False).to_list()
    shutil.copytree(out, calm)
    synthesize(polite, Scribe(), n=500, out=calm, progress=False)
    def make(): synthesize(polite, Scribe(), n=500, out=out, progress=False)
    assert run_and_kill(make, out, 5, 30_000, random.Random(4)) >= 3
    assert_undisturbed(out, Scribe(), polite, 500)
    assert synthesize(polite, Replay([], "scribe"), n=150, out=out, progress=False).to_list() == first


QUESTIONS = [f"What should I know about {first} and {second}?" for first in WORDS for second in WORDS]
ANSWERS = [dict(question=question, response=f"Nothing, fool {i}.") for i, question in enumerate(QUESTIONS)]


def answer(llm, out): return synthesize(polite, llm, questions=QUESTIONS, out=out, progress=False)
def mend(llm, out): return correct(polite, ANSWERS, llm, out=out, progress=False)


@pytest.mark.parametrize("verb", [answer, mend])
def test_questions_and_answers_at_hand(tmp_path, verb):
    out = tmp_path/"killed"
    def make(): verb(Scribe(), out)
    assert run_and_kill(make, out, 5, 30_000, random.Random(5)) >= 3
    assert_same_as_calm(out, lambda folder: verb(Scribe(), folder), len(QUESTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("verb", [answer, mend])
def test_questions_and_answers_at_hand_through_a_server(tmp_path, verb):
    out = tmp_path/"killed"
    with serving() as server:
        def make(): verb(Endpoint(server.url), out)
        assert run_and_kill(make, out, 20, 12_000, random.Random(6)) >= 10
        assert_same_as_calm(out, lambda folder: verb(Endpoint(server.url), folder), len(QUESTIONS))


@pytest.mark.slow
def test_through_a_server(tmp_path):
    out = tmp_path/"killed"
    with serving() as server:
        def make(): synthesize(polite, Endpoint(server.url), n=2500, out=out, progress=False)
        assert run_and_kill(make, out, 50, 12_000, random.Random(2)) >= 45
        assert_undisturbed(out, Endpoint(server.url), polite, 2500)


@pytest.mark.slow
def test_the_embedded_model(tmp_path):
    out = tmp_path/"killed"
    def make(): synthesize(town.ethical, as_llm("town"), n=100, out=out, progress=False, calls="separate")
    assert run_and_kill(make, out, 8, 8_000, random.Random(3)) >= 5
    assert_undisturbed(out, as_llm("town"), town.ethical, 100, calls="separate")
