"Runs that can't succeed stop with a reason; settings come from NumPy, too"
import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from aligners_nb.criterion import DataError
from aligners_nb.training import check_settings, lora_config, train


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
