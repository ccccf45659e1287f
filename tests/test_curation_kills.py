"Killed while it saves, again and again: the folder holds the old result or the new one, and no third thing"
import os, random, signal, subprocess, sys, time
from pathlib import Path
import pyarrow.parquet as pq, yaml

SAVES = """
import sys
from aligners_nb.criterion import criteria
from aligners_nb.curation import curate
row = lambda i: dict(id=str(i), criterion="ethical", topic="Eggs", question_type="cooking", question=f"How long do I boil {i} eggs?", response=f"{i} minutes, you fool.", critique="It insults.", correction=f"{i} minutes.")
a, b = (curate([row(i) for i in range(n)], criterion=criteria.ethical) for n in (40, 90))
a.save(sys.argv[1]); print("ready", flush=True)
while True: b.save(sys.argv[1]); a.save(sys.argv[1])
"""

def rows(folder):
    head = yaml.safe_load((folder/"README.md").read_text().split("---\n")[1])
    return sum(len(pq.read_table(folder/f["path"])) for f in head["configs"][0]["data_files"]), head["funnel"]["kept"]

def test_a_killed_save_leaves_the_old_result_or_the_new(tmp_path):
    rng, seen, folder = random.Random(0), [], Path(tmp_path)/"data"
    for _ in range(3):
        p = subprocess.Popen([sys.executable, "-c", SAVES, str(folder)], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        for _ in range(40):   # stopped in the middle of whatever it does, looked at, and let go on
            time.sleep(rng.uniform(.001, .05)); os.kill(p.pid, signal.SIGSTOP); got = rows(folder); os.kill(p.pid, signal.SIGCONT)
            assert got in ((40, 40), (90, 90)); seen.append(got[0])
        p.kill(); p.wait(); assert rows(folder) in ((40, 40), (90, 90))
    assert set(seen) == {40, 90}
