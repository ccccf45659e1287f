"However a step is split, by accumulation, recomputation or several processes, it teaches the same"
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from training_run import adapter_weights, small_learner, texts
from transformers import BertConfig, BertForSequenceClassification

from aligners_nb.training import lora_config, train

SCRIPT = Path(__file__).with_name("training_parts_run.py")


def learned(n=22, learner=None, **kwargs):
    "The losses and the weights after two epochs of batches that end with a shorter one"
    learner = learner or small_learner(dropout=0)
    log = train(learner, list(texts(n, 1)), epochs=2, lr=1e-2, batch_size=8, progress=False, logging_steps=1,
                bf16=False, **kwargs)
    return [row["loss"] for row in log], adapter_weights(learner)


def assert_same(result, expected):
    losses, weights = result
    assert losses == pytest.approx(expected[0], abs=1e-5)
    for name in weights: torch.testing.assert_close(weights[name], expected[1][name], rtol=0, atol=1e-5)


def test_accumulated_parts_learn_as_one_batch():
    whole = learned()
    for n_parts in (2, 4): assert_same(learned(gradient_accumulation_steps=n_parts), whole)


def test_accumulation_weighs_tokens_not_parts():
    "A part with one label token and a part with three: the mean is over the four tokens"
    short = dict(input_ids=[11, 12, 7], labels=[-100, -100, 7])
    long = dict(input_ids=[13, 14, 7, 8, 9], labels=[-100, -100, 7, 8, 9])
    losses = []
    for n_parts in (1, 2):
        log = train(small_learner(dropout=0), [short, long], epochs=1, batch_size=2, lr=1e-2, progress=False,
                    bf16=False, gradient_accumulation_steps=n_parts)
        losses.append(log[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_accumulation_with_a_loss_of_ones_own():
    def small_classifier():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                            num_attention_heads=2, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
        base = BertForSequenceClassification(config)
        return get_peft_model(base, lora_config(base, rank=2, kind="classifier"))

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits, batch["input_ids"][:, 0] % 2)

    whole = learned(learner=small_classifier(), loss=loss)
    assert_same(learned(learner=small_classifier(), loss=loss, gradient_accumulation_steps=4), whole)


def test_gradient_checkpointing_learns_the_same_and_is_switched_off_again():
    whole, learner = learned(), small_learner(dropout=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(learned(learner=learner, gradient_checkpointing=True), whole)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in learner.modules())


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="batch_size=8 can't be split into 3 equal parts .* give batch_size=9"):
        learned(gradient_accumulation_steps=3)


def test_measuring_the_validation_loss_changes_nothing():
    assert_same(learned(validation=list(texts(10, 3))), learned())


def test_validation_loss_does_not_depend_on_the_parts():
    def validation_losses(**kwargs):
        log = train(small_learner(dropout=0), list(texts(16, 1)), epochs=2, lr=1e-2, batch_size=8, progress=False,
                    bf16=False, validation=list(texts(11, 3)), **kwargs)
        return [row["validation_loss"] for row in log if "validation_loss" in row]
    assert validation_losses(gradient_accumulation_steps=4) == pytest.approx(validation_losses(), abs=1e-5)


def test_two_processes_learn_as_one(tmp_path):
    "`accelerate launch` deals each step to two processes; losses, weights and checkpoints are those of one process"
    def launch(n_processes):
        folder = tmp_path/str(n_processes)
        folder.mkdir()
        options = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        # on a machine without GPUs this starts processes on its CPU
        if n_processes > 1: options += ["--multi_gpu", "--main_process_port", "0"]
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(n_processes), *options,
                   str(SCRIPT), str(folder)]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr[-3000:]
        return json.loads((folder/"result.json").read_text())

    one, two = launch(1), launch(2)
    assert two["processes"] == 2
    for name in ("losses", "validation_losses", "weights"): assert two[name] == pytest.approx(one[name], abs=1e-4)
    assert two["lines"] == 1      # only the main process prints
