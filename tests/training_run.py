"One training of a small model, for tests that kill it or split it between processes: python training_run.py FOLDER"
import json
import sys
import time
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from aligners_nb import training

N_STEPS = 48


def texts(n, seed):
    "Texts of random tokens that all end in the same three"
    random = torch.Generator().manual_seed(seed)
    for _ in range(n):
        length = int(torch.randint(4, 40, (1,), generator=random))
        ending = [7, 8, 9][:int(torch.randint(1, 4, (1,), generator=random))]
        ids = torch.randint(10, 60, (length,), generator=random).tolist()
        yield dict(input_ids=ids+ending, labels=[-100]*length+ending)


def small_learner(seed=0, dropout=.1):
    "A model with an adapter; dropout makes random numbers matter"
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=64, pad_token_id=0)
    base = LlamaForCausalLM(config)
    return get_peft_model(base, training.lora_config(base, rank=4, lora_dropout=dropout))


def adapter_weights(learner):
    return {name: weights.detach() for name, weights in learner.named_parameters() if "lora_" in name}


def slow_loss(seconds):
    "The model's own loss, after a while, so that a kill comes between"
    def loss(model, batch):
        time.sleep(seconds)
        return model(**batch).loss
    return loss


def main(folder, seconds=.02, **kwargs):
    "Train, with a checkpoint after each tenth of the run; losses and weights are written to `folder`"
    logging.set_verbosity_error()
    training.CHECKPOINT_SECONDS = 0
    learner = small_learner()
    log = training.train(learner, list(texts(32, 1)), epochs=6, lr=1e-2, batch_size=4, loss=slow_loss(seconds),
                         progress=False, validation=list(texts(8, 2)), patience=40,
                         checkpoints=folder/"out.checkpoint", key="example", **kwargs)
    torch.save(adapter_weights(learner), folder/"weights.pt")
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in log]
    (folder/"log.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
