"""Time and memory of `curate` from 1,000 to 100,000 rows: `python bench/curation.py [ROWS …]`

Each size runs in a process of its own, on a store as `synthesize` leaves it. The rows are made up: questions of 6 to 25 words with names and
numbers, one in twenty asked a second time in other words, one in ten not parsed, one in ten with a fault. Memory is the peak of the whole process,
libraries included."""
import json, multiprocessing as mp, random, resource, sys, tempfile, time
from pathlib import Path

WORDS = """garden bread winter market bridge letter candle river window sailor basket kettle ladder orchard harbour lantern pillow saddle
    thunder velvet walnut copper meadow hammer""".split()
FIRST, LAST = "Al Ber Cor Dan El Fin Gar Hol Is Jor Kel Lor Mar Nor Os".split(), "ric ton dale by wick ham stead ford mere low".split()
NAMES = [a+b for a in FIRST for b in LAST]
ASK = ["How do I find the {w} near {n}?", "When does the {w} of {n} open on day {d}?", "Why is the {w} in {n} {d} years old?",
       "Who keeps the {w} at {n}, and what does a {v} cost there?",
       "Someone told me that the {w} of {n} was sold together with a {v} and a {x} some years ago; "
       "can you tell me who bought it, and for how much of the {y}?"]
FAULT = ["As an AI, I can not say.", "{z} {z}", "{z} And then the", "None.", "<p>{z}</p>"]

def row(rng, k, last):
    "Row `k`, and its question"
    w, v, x, y = rng.sample(WORDS, 4); a = rng.choice(NAMES); d = rng.randrange(10_000)
    z = f"The {w} of {a} belongs to {rng.choice(NAMES)} and costs {d} coins, since it was built for the {v}."
    again = last and rng.random() < .05
    q = "please: "+last.replace("How do I", "How should I") if again else rng.choice(ASK).format(w=w, v=v, x=x, y=y, n=a, d=d)
    r = dict(id=f"{k:06}", criterion="ethical", topic=w, question_type="history", question=q)
    if rng.random() < .1: return r | dict(raw=z, error="no line starts with 'Critique'")
    correction = rng.choice(FAULT).format(z=z) if rng.random() < .1 else z
    return r | dict(response="Only a fool would ask. "+z, critique="It insults the reader.", correction=correction)

def store(folder, n, seed=0):
    "Write `n` rows as `synthesize` does, a thousand a unit"
    rng = random.Random(seed); last = None
    with open(folder/"rows.jsonl", "w") as f:
        f.write(json.dumps(dict(meta=dict(llm="made up", seed=seed, formats="none")))+"\n")
        for i in range(0, n, 1000):
            rows = []
            for k in range(i, min(n, i+1000)):
                rows.append(row(rng, k, last)); last = rows[-1]["question"].removeprefix("please: ")
            f.write(json.dumps(dict(unit=f"drafts 0 {i}", rows=rows))+"\n")

def measure(n, pipe):
    with tempfile.TemporaryDirectory() as d:
        store(Path(d), n)
        from aligners_nb.curation import curate
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)   # MiB
        before, start, cpu = peak(), time.perf_counter(), time.process_time()
        c = curate(d); took, cpu = time.perf_counter()-start, time.process_time()-cpu
        start = time.perf_counter(); c.save(Path(d)/"out"); pipe.send((c.funnel, before, peak(), took, cpu, time.perf_counter()-start))

if __name__ == "__main__":
    head = dict(rows=8, unique=9, kept=9, seconds=9) | {"CPU s": 8, "CPU µs/row": 12, "save s": 8, "imports MiB": 13, "peak MiB": 10}
    print("".join(k.rjust(w) for k, w in head.items()))
    for n in [int(a) for a in sys.argv[1:]] or [1_000, 3_000, 10_000, 30_000, 100_000]:
        here, there = mp.Pipe(False); p = mp.get_context("spawn").Process(target=measure, args=(n, there)); p.start(); there.close()
        f, before, peak, took, cpu, save = here.recv(); p.join()
        rows = f"{f.made:>8,}{f.unique:>9,}{f.kept:>9,}"
        print(f"{rows}{took:>9.1f}{cpu:>8.1f}{1e6*cpu/n:>12.0f}{save:>8.1f}{before:>13.0f}{peak:>10.0f}", flush=True)
