"""Aligners on real pairs: `Aligner.fit` on SmolLM2-135M-Instruct beside copying, a word list and the prompted LM

    ALIGNERS_REAL_DATA=FOLDER SMOLLM2=FOLDER python bench/real/aligners.py [--sets fluent polite] [--methods copy fit]
        [--seeds 0 1 2] [--pairs 400]

Each run appends one JSON line to bench/results/aligners.jsonl; a run whose line is there is not done again. `--table`
prints the results so far. The pairs of a set are the same people's: a flawed text and its correction. Where a set has
no question, all its rows get the same one (`QUESTIONS`). All methods and seeds are tested on the same held-back pairs;
pairs that share a question or a correction are on one side. An aligner gets the flawed text of each test pair, and the
correction too: a good answer, which it should leave as it is. Words are compared as `aligners_nb.edits` does: with
case, without spaces. `prompted 4` puts four training pairs before the question.

Polite corrections are free paraphrases, so two more figures stand there. An *insulting word* is a word that stands in
at least two responses outside the test, and is gone from the correction in three of four of them. `insults_left` is
the fraction of test responses with insulting words that still hold one after the correction; `content_kept` is the
fraction of all other words (without stop words) that the correction keeps.
"""
import argparse
import datetime
import gzip
import importlib.metadata
import json
import os
import platform
import random
import time
from pathlib import Path

import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from aligners_nb.aligner import Aligner
from aligners_nb.base import Base
from aligners_nb.criterion import Criterion
from aligners_nb.edits import edit_report, edit_words
from aligners_nb.local import LocalLLM
from aligners_nb.prompts import assistant, correction_request, user

FILES = dict(fluent="disfl_qa", polite="paradetox_mild", neutral="wnc_sample", faithful="summedits_pairs")
CRITERIA = dict(
    fluent=Criterion("fluent", ["The question has no false start, no repeated word and no correction of itself."]),
    polite=Criterion("polite", ["The text insults nobody and has no rude words."]),
    neutral=Criterion("neutral", ["The text takes no side: no word of it praises, blames or doubts."]),
    faithful=Criterion("faithful", ["The summary says only what the text says."]))
QUESTIONS = dict(fluent="Ask your question.", polite="What do you think?", neutral="Write a sentence.")
RESULTS = Path(__file__).parents[1]/"results/aligners.jsonl"
MOST_TESTED = 200   # pairs
# what `Aligner.fit` did before this benchmark
OLD_SETTINGS = dict(epochs=4, rank=16, lr=5e-4*(2000/576)**.781, batch_size=16, keep_share=1/3)


def read_set(name):
    "The rows of a set, with a `group` that must not be on two sides of a split"
    folder = os.environ.get("ALIGNERS_REAL_DATA")
    if not folder: raise SystemExit("ALIGNERS_REAL_DATA names no folder: there is nothing to measure on")
    path = Path(folder)/f"{FILES[name]}.jsonl.gz"
    with gzip.open(path, "rt") as lines: records = [json.loads(line) for line in lines]
    rows = []
    for record in records:
        row = dict(question=record["x"] or QUESTIONS[name], response=record["y_bad"], correction=record["y_good"])
        rows.append(dict(row, group=record["x"] or record["y_good"]))
    return rows


def split(rows, seed, n_train):
    "Training rows, test rows and all rows outside the test, which is the same for every seed"
    groups = {}
    for row in rows: groups.setdefault(row["group"], []).append(row)
    names = sorted(groups)
    random.Random(0).shuffle(names)
    test = []
    while len(test) < min(MOST_TESTED, len(rows)//4): test += groups[names.pop()]
    rest = [row for name in names for row in groups[name]]
    random.Random(seed).shuffle(rest)
    return rest[:n_train], test, rest


def lower_words(text): return edit_words(text.lower())


def removed_words(rows, least=2):
    "Words that stand in at least `least` responses and are gone from the correction in three of four of them"
    n_held, n_removed = {}, {}
    for row in rows:
        remaining = set(lower_words(row["correction"]))
        for word in set(lower_words(row["response"])):
            if not word.isalpha() or word in ENGLISH_STOP_WORDS: continue
            n_held[word] = n_held.get(word, 0) + 1
            n_removed[word] = n_removed.get(word, 0) + (word not in remaining)
    return {word for word, n in n_held.items() if n_removed[word] >= max(least, .75*n)}


def insult_figures(rows, corrections, insults):
    "The fraction of rows with insulting words in which one is left, and of other content words that stay"
    n_rows, n_left, n_content, n_kept = 0, 0, 0, 0
    for row, correction in zip(rows, corrections):
        before, after = lower_words(row["response"]), set(lower_words(correction))
        own_insults = [word for word in before if word in insults]
        content = [word for word in before if word.isalpha() and word not in insults | ENGLISH_STOP_WORDS]
        n_rows += bool(own_insults)
        n_left += any(word in after for word in own_insults)
        n_content += len(content)
        n_kept += sum(word in after for word in content)
    return dict(n_insulting=n_rows, insults_left=n_left/n_rows, content_kept=n_kept/n_content)


class Copy:
    "Changes nothing"
    def __init__(self, name, train, seed): self.log = []

    def __call__(self, questions, responses): return list(responses)


class WordList(Copy):
    "Deletes the words that the corrections of training pairs delete"
    def __init__(self, name, train, seed):
        super().__init__(name, train, seed)
        self.words = removed_words(train)

    def __call__(self, questions, responses):
        return [" ".join(w for w in text.split() if w.lower().strip(".,!?;:") not in self.words) for text in responses]


class Prompted(Copy):
    "The LM that is asked for a correction, after `n_shots` training pairs"
    n_shots = 0

    def __init__(self, name, train, seed):
        super().__init__(name, train, seed)
        self.aligner = Aligner.prompted(LocalLLM(smollm2()), CRITERIA[name])
        self.turns = []
        for i, row in enumerate(train[:self.n_shots]):
            response = row["correction"] if i % 2 else row["response"]      # every second shot is a good answer
            self.turns += [user(row["question"]), assistant(response)]
            self.turns += [user(correction_request(CRITERIA[name])), assistant(row["correction"])]

    def __call__(self, questions, responses):
        return self.aligner([[*self.turns, user(question)] for question in questions], responses)


class FourShots(Prompted):
    "The LM after two training pairs and two good answers as they are"
    n_shots = 4


class Fit(Copy):
    "`Aligner.fit` with its own settings"
    settings:dict = {}

    def __init__(self, name, train, seed):
        rows = [{key: row[key] for key in ("question", "response", "correction")} for row in train]
        self.aligner = Aligner.fit(rows, smollm2(), CRITERIA[name], seed=seed, progress=False, **self.settings)
        self.log = self.aligner.log

    def __call__(self, questions, responses): return self.aligner(questions, responses)


class OldFit(Fit):
    "`Aligner.fit` with the settings that it had before this benchmark"
    settings = OLD_SETTINGS


METHODS = {"copy": Copy, "word list": WordList, "prompted": Prompted, "prompted 4": FourShots, "fit": Fit,
           "old fit": OldFit}


def smollm2():
    "The base; it is loaded once"
    folder = os.environ.get("SMOLLM2")
    if not folder: raise SystemExit("SMOLLM2 names no folder: save SmolLM2-135M-Instruct there")
    return Base.load(folder)


def measure(name, method, seed, n_pairs):
    "One run, as a dict"
    train, test, rest = split(read_set(name), seed, n_pairs)
    start = time.time()
    aligner = METHODS[method](name, train, seed)
    training = time.time()-start
    start = time.time()
    questions = [row["question"] for row in test]
    responses, references = [row["response"] for row in test], [row["correction"] for row in test]
    corrections = aligner(questions*2, responses+references)
    inference = time.time()-start
    report = edit_report(test, corrections[:len(test)], corrections[len(test):])
    figures = {key: round(value, 4) for key, value in report.to_dict().items()}
    if name == "polite":
        for key, value in insult_figures(test, corrections, removed_words(rest)).items(): figures[key] = round(value, 4)
    letters = ["=" if edit.exact else "~" if edit.changed else "." for edit in report.edits]
    return dict(set=name, method=method, seed=seed, pairs=len(train), **figures, seconds_training=round(training, 1),
                seconds_inference=round(inference, 1), loss=aligner.log[-1]["loss"] if aligner.log else None,
                outcomes="".join(letters), good="".join(".x"[not alone] for alone in report.left_alone))


def about_this_run():
    "The date, the machine and the versions"
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    return dict(date=datetime.date.today().isoformat(), machine=f"{platform.machine()}, {os.cpu_count()} cores",
                threads=torch.get_num_threads(), versions=versions)


def finished():
    "The results so far"
    if not RESULTS.exists(): return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def run(name, method, seed, n_pairs):
    "Measure and write the line, unless it is there"
    key = name, method, seed, n_pairs
    if any((line["set"], line["method"], line["seed"], line["asked"]) == key for line in finished()): return
    result = dict(measure(name, method, seed, n_pairs), asked=n_pairs, **about_this_run())
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as file: file.write(json.dumps(result)+"\n")
    print({key: value for key, value in result.items() if key not in ("outcomes", "good", "versions")}, flush=True)


def show_table():
    "The results so far, a line each"
    columns = ["exact", "changed", "good_kept", "right_kept", "distance", "copying", "relative_size", "insults_left",
               "content_kept", "seconds_training", "seconds_inference"]
    print("| set | method | pairs | seed | n |", " | ".join(column.replace("_", " ") for column in columns), "|")
    print("|---"*(5+len(columns)), "|", sep="")
    for line in sorted(finished(), key=lambda line: (line["set"], line["method"], line["asked"], line["seed"])):
        figures = [f"{line[column]:g}" if column in line else "" for column in columns]
        cells = [line["set"], line["method"], str(line["pairs"]), str(line["seed"]), str(line["n"]), *figures]
        print("|", " | ".join(cells), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pairs", nargs="+", type=int, default=[400])
    parser.add_argument("--table", action="store_true", help="print the results so far and do nothing else")
    arguments = parser.parse_args()
    if arguments.table: return show_table()
    for n_pairs in arguments.pairs:
        for seed in arguments.seeds:
            for name in arguments.sets:
                for method in arguments.methods: run(name, method, seed, n_pairs)


if __name__ == "__main__": main()
