"Killed while it saves, again and again: the folder holds the old result or the new one, and no third thing"
import os
import random
import signal
import subprocess
import sys
import time
import pyarrow.parquet as pq
import yaml

SAVES = """
import sys
from aligners_nb.criterion import criteria
from aligners_nb.curation import curate

def row(i):
    return dict(id=str(i), criterion="ethical", topic="Eggs", question_type="cooking",
                question=f"How long do I boil {i} eggs?", response=f"{i} minutes, you fool.",
                critique="It insults.", correction=f"{i} minutes.")

folder = sys.argv[1]
few, many = (curate([row(i) for i in range(n)], criterion=criteria.ethical) for n in (40, 90))
few.save(folder)
print("ready", flush=True)
while True:
    many.save(folder)
    few.save(folder)
"""


def counts(folder):
    "The rows in the files that the card names, and the rows that the card says there are"
    head = yaml.safe_load((folder/"README.md").read_text().split("---\n")[1])
    files = [file["path"] for file in head["configs"][0]["data_files"]]
    return sum(len(pq.read_table(folder/file)) for file in files), head["funnel"]["kept"]


def stopped(process, folder):
    "The counts of the folder while the process stands still in the middle of whatever it does"
    os.kill(process.pid, signal.SIGSTOP)
    found = counts(folder)
    os.kill(process.pid, signal.SIGCONT)
    return found


def test_a_killed_save_leaves_the_old_result_or_the_new(tmp_path):
    rng, folder, seen = random.Random(0), tmp_path/"data", set()
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SAVES, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        for _ in range(40):
            time.sleep(rng.uniform(.001, .05))
            seen.add(stopped(process, folder))
        process.kill()
        process.wait()
        seen.add(counts(folder))
    assert seen == {(40, 40), (90, 90)}
