"A training for tests with several processes: accelerate launch … training_parts_run.py FOLDER"
import contextlib
import io
import json
import os
import sys
from pathlib import Path

import torch
from training_run import adapter_weights, small_learner, texts
from transformers.utils import logging

from aligners_nb import training


def main(folder):
    logging.set_verbosity_error()
    training.LINE_SECONDS = 0
    learner, lines = small_learner(dropout=0), io.StringIO()
    with contextlib.redirect_stderr(lines):
        log = training.train(learner, list(texts(32, 1)), epochs=2, lr=1e-2, batch_size=8, logging_steps=1, bf16=False,
                             validation=list(texts(11, 3)))
    n_lines = [None]*int(os.environ.get("WORLD_SIZE", 1))
    has_lines = "training: step" in lines.getvalue()
    if torch.distributed.is_initialized(): torch.distributed.all_gather_object(n_lines, has_lines)
    else: n_lines = [has_lines]
    if not training.is_main_process(): return
    weights = torch.cat([weights.flatten() for weights in adapter_weights(learner).values()])
    (folder/"result.json").write_text(json.dumps(dict(
        losses=[row["loss"] for row in log], weights=weights[::16].tolist(), processes=len(n_lines), lines=sum(n_lines),
        validation_losses=[row["validation_loss"] for row in log if "validation_loss" in row])))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
