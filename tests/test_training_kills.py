"Killed at any moment and started again, a training ends where it would have ended"
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_run import N_STEPS, main

SCRIPT = Path(__file__).with_name("training_run.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The folder of a run that nobody disturbs"
    folder = tmp_path_factory.mktemp("whole")
    main(folder, seconds=0)
    return folder


def start(folder):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stderr=subprocess.DEVNULL)


def checkpointed_step(folder):
    "The step of the last checkpoint, as a reader at any moment sees it"
    try: return json.loads((folder/"out.checkpoint/example/run.json").read_text())["step"]
    except FileNotFoundError: return 0


def kill_after(process, folder, step):
    "Kill the run as soon as it has a checkpoint of that step or a later one; False if it has ended before"
    while process.poll() is None:
        if checkpointed_step(folder) >= step:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(.005)
    return False


def assert_equal(folder, whole):
    weights, expected = torch.load(folder/"weights.pt"), torch.load(whole/"weights.pt")
    for name in expected: torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
    rows, expected_rows = json.loads((folder/"log.json").read_text()), json.loads((whole/"log.json").read_text())
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    for name in ("loss", "validation_loss"):
        assert [row.get(name) for row in rows] == pytest.approx([row.get(name) for row in expected_rows], abs=1e-5)


def test_killed_in_the_middle_and_resumed(tmp_path, whole):
    folder = tmp_path/"killed"
    assert kill_after(start(folder), folder, N_STEPS//2)
    step = checkpointed_step(folder)
    assert N_STEPS//2 <= step < N_STEPS and not (folder/"log.json").exists()
    assert start(folder).wait() == 0
    assert_equal(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_again_and_again(tmp_path, whole, seed):
    rng, folder, n_kills = random.Random(seed), tmp_path/"killed", 0
    while True:
        process, next_step = start(folder), checkpointed_step(folder)+rng.randint(1, 20)
        if not kill_after(process, folder, min(next_step, N_STEPS)): break
        n_kills += 1
    assert n_kills >= 1 and process.returncode == 0
    assert_equal(folder, whole)


@pytest.mark.slow
def test_killed_while_it_writes(tmp_path, whole):
    "Kills at short intervals hit checkpoints that are being written; some checkpoint is always whole"
    rng, folder, n_kills = random.Random(0), tmp_path/"killed", 0
    while True:
        process = start(folder)
        try:
            process.wait(timeout=rng.uniform(4, 12)*(1+n_kills/4))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            n_kills += 1
    assert process.returncode == 0
    assert_equal(folder, whole)
