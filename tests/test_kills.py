"Killed at any moment and started again, the commands end where they would have ended"
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest

ALIGNERS = Path(sys.executable).parent/"aligners"
N = "30"

def aligners(*args, after=None, **kw):
    "Run the command; kill it and all it started `after` seconds, if it takes as long. None: it was killed"
    p = subprocess.Popen([str(a) for a in (ALIGNERS, *args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **kw)
    try: p.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL); p.communicate()
        return None
    return p.returncode

def until_done(rng, shortest, longest, *args):
    "Start again after each kill, giving it a little longer each time; returns the exit code and the number of kills"
    kills = 0
    while (code := aligners(*args, after=rng.uniform(shortest, longest)*(1+kills/4))) is None: kills += 1
    return code, kills

def lines(p): return [json.loads(l) for l in p.read_text().splitlines()]

@pytest.mark.slow
def test_demo_survives_kills(tmp_path):
    assert aligners("demo", "--out", tmp_path/"whole", "--n", N) == 0
    code, kills = until_done(random.Random(0), 5, 25, "demo", "--out", tmp_path/"killed", "--n", N)
    assert code == 0 and kills >= 2
    whole, killed = lines(tmp_path/"whole/answers.jsonl"), lines(tmp_path/"killed/answers.jsonl")
    assert [(r["llm"], r["question"]) for r in killed] == [(r["llm"], r["question"]) for r in whole]
    assert [(r["before"], r["greedy"]) for r in killed] == [(r["before"], r["greedy"]) for r in whole]
    assert len({(r["llm"], r["question"]) for r in killed}) == len(killed)
    start = time.time()
    assert aligners("demo", "--out", tmp_path/"killed", "--n", N) == 0 and time.time()-start < 60   # nothing left to do
    files = [tmp_path/"in.jsonl", tmp_path/"out.jsonl", tmp_path/"out2.jsonl"]
    files[0].write_text("".join(json.dumps(dict(id=i, question=r["question"], response=r["before"]["text"]))+"\n" for i, r in enumerate(whole)))
    assert aligners("align", "--squad", tmp_path/"killed/squad", "--in", files[0], "--out", files[1]) == 0
    assert until_done(random.Random(1), 4, 12, "align", "--squad", tmp_path/"killed/squad", "--in", files[0], "--out", files[2])[0] == 0
    assert [r["id"] for r in lines(files[2])] == list(range(len(whole)))
    assert [r["aligned"] for r in lines(files[2])] == [r["aligned"] for r in lines(files[1])]
