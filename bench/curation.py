"""Time and memory of `curate` from 1,000 to 100,000 rows: `python bench/curation.py [ROWS …]`

Each size runs in a process of its own, on a store as `synthesize` leaves it. The rows are made up: questions of 6 to 25
words with names and numbers, one in twenty asked a second time in other words, one in ten not parsed, one in ten with a
fault. Memory is the peak of the whole process, libraries included.
"""
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

WORDS = """garden bread winter market bridge letter candle river window sailor basket kettle ladder orchard harbour
    lantern pillow saddle thunder velvet walnut copper meadow hammer""".split()
FIRST = "Al Ber Cor Dan El Fin Gar Hol Is Jor Kel Lor Mar Nor Os".split()
LAST = "ric ton dale by wick ham stead ford mere low".split()
NAMES = [first+last for first in FIRST for last in LAST]
QUESTIONS = [
    "How do I find the {w} near {n}?",
    "When does the {w} of {n} open on day {d}?",
    "Why is the {w} in {n} {d} years old?",
    "Who keeps the {w} at {n}, and what does a {v} cost there?",
    "Someone told me that the {w} of {n} was sold together with a {v} and a {x} some years ago; "
    "can you tell me who bought it, and for how much of the {y}?"]
FAULTS = ["As an AI, I can not say.", "{answer} {answer}", "{answer} And then the", "None.", "<p>{answer}</p>"]
COLUMNS = {"rows": 8, "unique": 9, "kept": 9, "seconds": 9, "CPU s": 8, "CPU µs/row": 12, "save s": 8,
           "imports MiB": 13, "peak MiB": 10}                # name → width


def make_row(rng, number, last_question):
    "Row `number`; now and then it asks the last question again"
    w, v, x, y = rng.sample(WORDS, 4)
    name, day = rng.choice(NAMES), rng.randrange(10_000)
    answer = f"The {w} of {name} belongs to {rng.choice(NAMES)} and costs {day} coins, since it was built for the {v}."
    if last_question and rng.random() < .05:
        question = "please: " + last_question.replace("How do I", "How should I")
    else:
        question = rng.choice(QUESTIONS).format(w=w, v=v, x=x, y=y, n=name, d=day)
    row = dict(id=f"{number:06}", criterion="ethical", topic=w, question_type="history", question=question)
    if rng.random() < .1: return row | dict(raw=answer, error="no line starts with 'Critique'")
    correction = answer
    if rng.random() < .1: correction = rng.choice(FAULTS).format(answer=answer)
    response = "Only a fool would ask. " + answer
    return row | dict(response=response, critique="It insults the reader.", correction=correction)


def write_store(folder, n_rows, seed=0):
    "Write rows as `synthesize` does, a thousand a unit"
    rng, last_question = random.Random(seed), None
    with open(folder/"rows.jsonl", "w") as file:
        file.write(json.dumps(dict(meta=dict(llm="made up", seed=seed, formats="none")))+"\n")
        for start in range(0, n_rows, 1000):
            rows = []
            for number in range(start, min(n_rows, start+1000)):
                rows.append(make_row(rng, number, last_question))
                last_question = rows[-1]["question"].removeprefix("please: ")
            file.write(json.dumps(dict(unit=f"drafts 0 {start}", rows=rows))+"\n")


def peak_memory():
    "The most memory that this process has held, in MiB"
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(n_rows, pipe):
    "Curate and save `n_rows` rows; send the figures of a line of the table"
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder), n_rows)
        from aligners_nb.curation import curate
        imports = peak_memory()
        start, start_cpu = time.perf_counter(), time.process_time()
        curated = curate(folder)
        seconds, cpu = time.perf_counter()-start, time.process_time()-start_cpu
        start = time.perf_counter()
        curated.save(Path(folder)/"out")
        save = time.perf_counter()-start
        funnel = curated.funnel
        pipe.send([f"{funnel.made:,}", f"{funnel.unique:,}", f"{funnel.kept:,}", f"{seconds:.1f}", f"{cpu:.1f}",
                   f"{1e6*cpu/n_rows:.0f}", f"{save:.1f}", f"{imports:.0f}", f"{peak_memory():.0f}"])


def measured(n_rows):
    "The figures of `n_rows` rows, measured in a new process"
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=measure, args=(n_rows, sender))
    process.start()
    sender.close()
    figures = receiver.recv()
    process.join()
    return figures


def print_line(cells):
    print("".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS.values())), flush=True)


if __name__ == "__main__":
    print_line(COLUMNS)
    for n_rows in map(int, sys.argv[1:] or [1_000, 3_000, 10_000, 30_000, 100_000]):
        print_line(measured(n_rows))
