"A synthesis that is killed again and again ends with the rows of one that never was"
import json, multiprocessing, os, random, shutil, signal, time
import pytest
from aligners_nb.criterion import Criterion
from aligners_nb.endpoint import Endpoint
from aligners_nb.llm import Replay
from aligners_nb.local import as_llm
from aligners_nb.synthesis import synthesize
from aligners_nb import town
from server import scripted, serving
try: import openai                 # once, before the forks
except ImportError: openai = None

polite = Criterion("polite", ["Never insult the reader."])

class Scribe(Replay):
    "The tests' deterministic LLM, in this process"
    def __init__(self): super().__init__([], "scribe")
    def _complete(self, prompts, seeds, **kw): return [scripted(p, s) for p, s in zip(prompts, seeds)]

def killed(make, out, kills, grows, rng, tries=400):
    "Start `make` in a process of its own, kill it when the store has grown by a random amount, and start it again; then let it finish"
    fork, file, done = multiprocessing.get_context("fork"), out/"rows.jsonl", 0
    size = lambda: file.stat().st_size if file.exists() else 0
    end = time.monotonic()+1500
    for _ in range(tries):
        p = fork.Process(target=make); enough = size()+rng.randrange(1, grows); p.start()
        while p.is_alive() and size() < enough and done < kills: assert time.monotonic() < end, "it hangs"; time.sleep(.0005)
        if done < kills and p.is_alive(): os.kill(p.pid, signal.SIGKILL); done += 1
        p.join()
        if p.exitcode == 0: return done
        assert p.exitcode == -signal.SIGKILL, f"ended with {p.exitcode}"

def same(out, llm, criterion, n, **kw):
    "The rows and the units of the killed run are those of an undisturbed one"
    calm = out.with_name("calm"); want = synthesize(criterion, llm, n=n, out=calm, progress=False, **kw).to_list()
    assert synthesize(criterion, llm, n=n, out=out, progress=False, **kw).to_list() == want and len({r["id"] for r in want}) == n
    units = lambda d: [json.loads(l) for l in (d/"rows.jsonl").read_text().splitlines()]
    a, b = units(out), units(calm)
    assert sorted(u["unit"] for u in a[1:]) == sorted(u["unit"] for u in b[1:]) and len({u["unit"] for u in a[1:]}) == len(a)-1
    assert {u["unit"]: u["rows"] for u in a[1:]} == {u["unit"]: u["rows"] for u in b[1:]} and a[0] == b[0]

@pytest.mark.parametrize("kills, n", [(5, 400), pytest.param(50, 4000, marks=pytest.mark.slow)])
def test_scripted(tmp_path, kills, n):
    out = tmp_path/"killed"
    assert killed(lambda: synthesize(polite, Scribe(), n=n, out=out, progress=False), out, kills, 30_000, random.Random(1)) >= kills*.9
    same(out, Scribe(), polite, n)

def test_grown(tmp_path):
    "A run of another size in the same folder, killed again and again, too"
    out, calm = tmp_path/"killed", tmp_path/"calm"; first = synthesize(polite, Scribe(), n=150, out=out, progress=False).to_list(); shutil.copytree(out, calm)
    synthesize(polite, Scribe(), n=500, out=calm, progress=False)
    assert killed(lambda: synthesize(polite, Scribe(), n=500, out=out, progress=False), out, 5, 30_000, random.Random(4)) >= 3
    same(out, Scribe(), polite, 500)
    assert synthesize(polite, Replay([], "scribe"), n=150, out=out, progress=False).to_list() == first

@pytest.mark.slow
def test_through_a_server(tmp_path):
    out = tmp_path/"killed"
    with serving() as s:
        assert killed(lambda: synthesize(polite, Endpoint(s.url), n=2500, out=out, progress=False), out, 50, 12_000, random.Random(2)) >= 45
        same(out, Endpoint(s.url), polite, 2500)

@pytest.mark.slow
def test_the_embedded_model(tmp_path):
    out = tmp_path/"killed"
    assert killed(lambda: synthesize(town.ethical, as_llm("town"), n=100, out=out, progress=False, calls="separate"), out, 8, 8_000, random.Random(3)) >= 5
    same(out, as_llm("town"), town.ethical, 100, calls="separate")
