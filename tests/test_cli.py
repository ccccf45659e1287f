"`aligners align` in processes of its own: dirty files, kills, resumption, exit codes"
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from aligners_nb import cli

ALIGNERS = Path(sys.executable).parent/"aligners"
SLOW = """
import json, sys, time
from aligners_nb.cli import align_file
class Result:
    def __init__(self, q, y): self.d = dict(question=q, response=y, aligned=y.upper(), risks={"loud": .5}, risks_after={"loud": .1}, trace=[], error=None if y else "the response is empty")
    def to_dict(self): return self.d
def squad(qs, ys, policy=None):
    time.sleep(.02)
    return [Result(q, y) for q, y in zip(qs, ys)]
sys.exit(3 if align_file(squad, sys.argv[1], sys.argv[2], block=3) else 0)
"""

def start(*args): return subprocess.Popen([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
def slow(src, dst): return start(sys.executable, "-c", SLOW, src, dst)
def aligners(*args):
    p = start(ALIGNERS, *args); out, err = p.communicate(timeout=240)
    return p.returncode, err
def read(p): return [json.loads(l) for l in Path(p).read_text().splitlines()]

@pytest.fixture
def dirty(tmp_path):
    "200 lines, every seventh of them bad in another way"
    bad = ["", "{", '["question"]', '{"question": "q"}', '{"question": "q", "response": 3}', '{"question": [], "response": "a"}', '{"question": "q", "response": "\\ud800"}']
    lines = [bad[(i//7) % len(bad)] if i % 7==3 else json.dumps(dict(id=i, question=f"q {i}", response=f"an answer, {i}" if i % 11 else "")) for i in range(200)]
    (tmp_path/"in.jsonl").write_text("\n".join(lines)+"\n")
    return tmp_path/"in.jsonl"

def test_killed_at_any_moment_it_ends_with_the_same_file(dirty, tmp_path):
    p = slow(dirty, tmp_path/"whole.jsonl"); err = p.communicate(timeout=60)[1]
    assert p.returncode==3 and "line 4: the line is empty" in err and "line 25: response is missing" in err
    whole, kills = read(tmp_path/"whole.jsonl"), 0
    assert len(whole)==200 and [r["id"] for r in whole if "id" in r]==[i for i in range(200) if i % 7!=3]
    assert all(set(r)=={"error"} for r in whole[3::7]) and all(r["aligned"]=="" and "risks" not in r for r in whole if r.get("response")=="")
    killed, lines = tmp_path/"killed.jsonl", (tmp_path/"whole.jsonl").read_bytes().splitlines(keepends=True)
    size = lambda: killed.stat().st_size if killed.exists() else 0
    while True:
        before, end = size(), time.time()+60; p = slow(dirty, killed)
        while time.time() < end and p.poll() is None and size() <= before+2500: time.sleep(.005)
        if p.poll() is not None: break
        p.send_signal(signal.SIGKILL); p.communicate(); kills += 1
        there = killed.read_bytes(); due = lines[there.count(b"\n")]; torn = there.rpartition(b"\n")[2]
        with open(killed, "ab") as f: f.write(due[len(torn):max(len(torn), len(due)//2)])     # a line that the disk took half of
    assert p.returncode==3 and kills > 3
    assert killed.read_bytes()==(tmp_path/"whole.jsonl").read_bytes()

def test_bad_arguments_take_no_time_and_one_line(tmp_path):
    f = tmp_path/"in.jsonl"; f.write_text('{"question": "q", "response": "a"}\n')
    t = time.time()
    for args, words in [(("--squad", tmp_path, "--in", f, "--out", tmp_path/"o"), "no squad in"), (("--squad", tmp_path, "--in", tmp_path/"no", "--out", tmp_path/"o"), "no file"),
                        (("--in", f, "--out", tmp_path/"o"), "--squad")]:
        code, err = aligners("align", *args)
        assert code==2 and words in err.splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path/"o").exists()
    assert aligners("--help")[0]==0 and aligners()[0]==2
    assert time.time()-t < 10      # no model library is loaded for these

def test_help_needs_no_torch():
    code = "import sys, aligners_nb.cli; sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode==0

def test_a_real_squad_from_disk(tmp_path):
    "An untrained pair: nothing to be learned from its answers, but all goes through models, files and processes"
    from aligners_nb import town
    from aligners_nb.aligner import Aligner
    from aligners_nb.inspector import Inspector
    from aligners_nb.squad import Squad
    Squad([(Inspector(town.ethical), Aligner(town.ethical))]).save_pretrained(tmp_path/"squad")
    q = town.questions(4, seed=0)
    rows = [dict(id=i, question=r["question"], response="Use your own eyes for once.") for i, r in enumerate(q)]
    rows[1]["response"], rows[2]["response"] = "", "On and on it goes. "*2000
    f, o = tmp_path/"in.csv", tmp_path/"out.jsonl"
    f.write_text("id,question,response\n"+"".join(f'{r["id"]},"{r["question"]}","{r["response"]}"\n' for r in rows)+"4,only a question\n")
    code, err = aligners("align", "--squad", tmp_path/"squad", "--in", f, "--out", o)
    assert code==3 and "line 3:" in err and "line 4:" in err and "line 6: response is missing" in err
    out = read(o)
    assert [r.get("id") for r in out]==["0", "1", "2", "3", None] and [bool(r.get("error")) for r in out]==[False, True, True, False, True]
    assert {"aligned", "risks", "trace"} <= set(out[0]) and out[2]["aligned"]==rows[2]["response"] and set(out[4])=={"error"}
    whole = o.read_bytes(); o.write_bytes(whole[:len(whole)//2])
    assert cli.main(["align", "--squad", str(tmp_path/"squad"), "--in", str(f), "--out", str(o)])==3 and len(read(o))==5
    assert cli.main(["align", "--squad", str(tmp_path/"squad"), "--in", str(f), "--out", str(o), "--policy", "always"])==2
