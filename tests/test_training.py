"Runs that can't succeed stop with a reason; what a run shows, measures and leaves behind"
import warnings

import IPython.display
import numpy as np
import pytest
import torch
from peft import get_peft_model
from tqdm import tqdm
from training_run import small_learner, texts
from transformers import GPT2Config, GPT2LMHeadModel

from aligners_nb import training
from aligners_nb.criterion import DataError
from aligners_nb.training import check_settings, checkpoint_folder, collate, lora_config, remove_checkpoints, train


def model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    base = GPT2LMHeadModel(config)
    return get_peft_model(base, lora_config(base, rank=2))


EXAMPLES = [dict(input_ids=[3 + k, 5, 6], labels=[-100, 5, 6]) for k in range(8)]


def test_numbers_of_numpy_become_pythons_own():
    settings = check_settings(np.float32(.5), np.int64(4), np.float32(1e-3), np.int32(2), np.int64(3))
    assert [type(value) for value in settings] == [float, int, float, int, int]


def test_a_loss_that_is_no_number_stops_the_run():
    def loss(model, batch):
        return model(input_ids=batch["input_ids"]).logits.sum()*float("nan")
    with pytest.raises(DataError, match="diverged .* lr=0.002: give a smaller lr="):
        train(model(), EXAMPLES, epochs=1, lr=.002, loss=loss, progress=False)


def test_weights_that_are_no_numbers_stop_the_run():
    def loss(model, batch):                          # finite, with a gradient that is not
        logits = model(input_ids=batch["input_ids"]).logits.float()
        return torch.sqrt((logits - logits.detach()).square().sum())
    with pytest.raises(DataError, match="diverged"):
        train(model(), EXAMPLES, epochs=1, batch_size=8, loss=loss, progress=False)


def test_a_token_without_an_embedding_is_named():
    with pytest.raises(DataError, match="id 50, the model has embeddings for 50 ids"):
        train(model(), [dict(input_ids=[50, 1], labels=[-100, 1])], progress=False)


def test_no_examples():
    with pytest.raises(DataError, match="0 examples"):
        train(model(), [], progress=False)


def test_a_validation_loss_that_is_no_number_stops_the_run():
    def loss(model, batch):
        loss = model(**batch).loss
        return loss if model.training else loss*float("nan")
    with pytest.raises(DataError, match="diverged .the validation loss is nan at step 0"):
        train(model(), EXAMPLES, epochs=1, loss=loss, validation=EXAMPLES, progress=False)


def test_settings_that_need_others():
    with pytest.raises(ValueError, match="patience=3 needs validation="):
        train(model(), EXAMPLES, patience=3, progress=False)
    with pytest.raises(ValueError, match="checkpoints= needs key="):
        train(model(), EXAMPLES, checkpoints="anywhere", progress=False)


def validation_loss(learner, examples):
    with torch.no_grad(): return learner(**collate(examples)).loss.item()


def test_patience_leaves_the_best_weights():
    held_back = list(texts(12, 5))
    learner = small_learner(dropout=0)
    log = train(learner, list(texts(6, 1)), epochs=60, lr=5e-2, batch_size=3, progress=False, bf16=False,
                validation=held_back, patience=2, eval_steps=4)
    losses = [row["validation_loss"] for row in log if "validation_loss" in row]
    assert log[-1]["step"] < 120 and losses[-1] > min(losses)        # it got worse, and stopped
    assert validation_loss(learner, held_back) == pytest.approx(min(losses), abs=1e-5)


def test_a_run_that_teaches_nothing_warns_and_others_do_not():
    settings = dict(epochs=40, batch_size=4, progress=False)
    with pytest.warns(UserWarning, match="nothing was learned: the loss was .* Try another lr="):
        train(small_learner(), list(texts(16, 1)), lr=1e-9, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="nothing was learned")
        train(small_learner(), list(texts(16, 1)), lr=1e-2, **settings)
        train(small_learner(), list(texts(8, 1)), lr=1e-2, epochs=1, batch_size=8, progress=False)   # too short to tell


def test_lines_where_no_bar_can_be_shown(monkeypatch, capsys):
    monkeypatch.setattr(training, "LINE_SECONDS", 0)
    monkeypatch.delenv("IN_TEST", raising=False)
    train(small_learner(), list(texts(8, 1)), epochs=2, batch_size=4, desc="civil aligner",
          validation=list(texts(4, 2)))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"civil aligner: step {step} of 4" for step in range(1, 5)]
    for word in ("loss", "validation", "tokens/s", "device cpu", "memory", "min left"): assert word in lines[-1]
    train(small_learner(), list(texts(8, 1)), epochs=2, batch_size=4, progress=False)
    assert capsys.readouterr().err == ""


class Handle:
    def __init__(self): self.updates = 0

    def update(self, image): self.updates += 1


def in_a_notebook(monkeypatch, display):
    monkeypatch.delenv("IN_TEST", raising=False)
    monkeypatch.setattr(training, "in_notebook", lambda: True)
    monkeypatch.setattr(training, "PLOT_SECONDS", 0)
    monkeypatch.setattr(training, "tqdm", tqdm)       # widgets need a kernel
    monkeypatch.setattr(IPython.display, "display", display)


def test_a_plot_that_changes_in_place(monkeypatch):
    shown, handle = [], Handle()

    def display(image, display_id):
        shown.append(image)
        return handle
    in_a_notebook(monkeypatch, display)
    train(small_learner(), list(texts(8, 1)), epochs=3, batch_size=4)
    assert len(shown) == 1 and shown[0].data.startswith(b"\x89PNG") and handle.updates >= 3


def test_a_plot_that_fails_stops_no_training(monkeypatch):
    def display(image, display_id): raise RuntimeError("no screen")
    in_a_notebook(monkeypatch, display)
    with pytest.warns(UserWarning, match="can't be plotted.*no screen"):
        log = train(small_learner(), list(texts(8, 1)), epochs=3, batch_size=4)
    assert log[-1]["step"] == 6


def learn(folder, key, **kwargs):
    return train(small_learner(), list(texts(8, 1)), epochs=4, batch_size=4, progress=False, checkpoints=folder,
                 key=key, **kwargs)


def test_checkpoints_leave_other_folders_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    folder = checkpoint_folder(tmp_path/"civil")
    assert folder == tmp_path/"civil.checkpoint" and checkpoint_folder(None) is None
    learn(folder, "mine")
    (folder/"notes.txt").write_text("keep me")
    with pytest.warns(UserWarning, match=r"also holds the checkpoint of another training \(mine\)"):
        learn(folder, "yours")
    remove_checkpoints(folder, "yours")
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "notes.txt"]
    (folder/"notes.txt").unlink()
    remove_checkpoints(folder, "mine")
    assert not folder.exists()


def test_a_checkpoint_that_cannot_be_written_stops_no_training(tmp_path, monkeypatch):
    def fail(*args): raise OSError("No space left on device")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(training.torch, "save", fail)
    with pytest.warns(UserWarning, match="checkpoint of step .* can't be written: No space left"):
        assert learn(tmp_path/"here", "run")[-1]["step"] == 8
    assert not list((tmp_path/"here").glob("*/run.json"))


def test_a_run_that_goes_on_does_not_count_as_new(tmp_path, monkeypatch):
    "Time goes on, the validation loss before training is kept, nothing is measured twice"
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    whole = learn(tmp_path/"here", "run", validation=list(texts(4, 2)))
    again = learn(tmp_path/"here", "run", validation=list(texts(4, 2)))
    assert [row["step"] for row in again] == [row["step"] for row in whole]
    assert again[0]["validation_loss_before"] == whole[0]["validation_loss_before"]
    assert again[0]["seconds"] == whole[0]["seconds"] and again[-1]["seconds"] >= again[0]["seconds"]
