"Killed at any moment and started again, the commands end where they would have ended"
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ALIGNERS = Path(sys.executable).parent/"aligners"
N = "30"


def aligners(*args, after=None):
    "The exit code of the command; None if it took longer than `after` seconds and was killed with all its children"
    command = [str(part) for part in (ALIGNERS, *args)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
    return process.returncode


def until_done(rng, shortest, longest, *args):
    "Start the command again after each kill, with a little more time; returns its exit code and the number of kills"
    n_kills = 0
    while True:
        code = aligners(*args, after=rng.uniform(shortest, longest)*(1+n_kills/4))
        if code is not None: return code, n_kills
        n_kills += 1


def read_lines(file): return [json.loads(line) for line in file.read_text().splitlines()]


def columns(rows, *names): return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.slow
def test_demo_survives_kills(tmp_path):
    assert aligners("demo", "--out", tmp_path/"whole", "--n", N) == 0
    code, n_kills = until_done(random.Random(0), 5, 25, "demo", "--out", tmp_path/"killed", "--n", N)
    assert code == 0 and n_kills >= 2

    whole, killed = read_lines(tmp_path/"whole/answers.jsonl"), read_lines(tmp_path/"killed/answers.jsonl")
    assert columns(killed, "llm", "question") == columns(whole, "llm", "question")
    assert columns(killed, "before", "greedy") == columns(whole, "before", "greedy")
    assert len(set(columns(killed, "llm", "question"))) == len(killed)

    start = time.time()
    assert aligners("demo", "--out", tmp_path/"killed", "--n", N) == 0
    assert time.time()-start < 60      # nothing is left to do

    answers, aligned, killed_file = tmp_path/"in.jsonl", tmp_path/"out.jsonl", tmp_path/"out2.jsonl"
    with answers.open("w") as file:
        for i, row in enumerate(whole):
            file.write(json.dumps(dict(id=i, question=row["question"], response=row["before"]["text"]))+"\n")
    command = "align", "--squad", tmp_path/"killed/squad", "--in", answers, "--out"
    assert aligners(*command, aligned) == 0
    assert until_done(random.Random(1), 4, 12, *command, killed_file)[0] == 0
    assert columns(read_lines(killed_file), "id") == [(i,) for i in range(len(whole))]
    assert columns(read_lines(killed_file), "aligned") == columns(read_lines(aligned), "aligned")
