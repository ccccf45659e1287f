"Aligners and inspectors on saved random small models of many architectures: fitted, saved, loaded, the same outputs"
import gc
import json
import subprocess
import sys
from typing import NamedTuple
import pytest
from aligners_nb.aligner import Aligner
from aligners_nb.base import small_model
from aligners_nb.criterion import Criterion
from aligners_nb.dialogue import CHATML
from aligners_nb.inspector import Inspector

POLITE = Criterion("polite", ["Never insult the reader."])
PLACES = dict(library=3, inn=6, mill=7, bank=9)     # when they open
ROWS = [dict(question=f"When does the {place} open?", response=f"At {hour}, {insult}.", correction=f"At {hour}.")
        for place, hour in PLACES.items() for insult in ("as any fool knows", "you dunce")]
QUESTIONS, RESPONSES, CORRECTIONS = [[row[name] for row in ROWS] for name in ("question", "response", "correction")]
GROUPED = dict(num_key_value_heads=2, head_dim=8)   # as Qwen 3 and Gemma 3 have it


class Architecture(NamedTuple):
    kind:str            # of transformers
    config:dict = {}    # what its small model needs beyond `small_model`
    lr:float = 5e-3
    epochs:float = 40


def between(layer_type):
    "A layer of this type between two of full attention, which copying takes"
    return dict(num_hidden_layers=3, layer_types=["full_attention", layer_type, "full_attention"])


ALIGNERS = [
    Architecture("gpt2", dict(resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.)),
    Architecture("gpt_neox"),
    Architecture("phi"),
    Architecture("llama"),
    Architecture("qwen3", GROUPED),
    Architecture("gemma3_text", dict(
        GROUPED, **between("sliding_attention"), sliding_window=64, query_pre_attn_scalar=8), lr=1e-2),
    # a recurrent layer, and one of convolutions
    Architecture("qwen3_next", dict(
        GROUPED, **between("linear_attention"), num_experts=0, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8), lr=1e-2),
    Architecture("lfm2", dict(between("conv"), num_key_value_heads=2), lr=1e-2)]

NO_DROPOUT = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
INSPECTORS = [
    Architecture("bert", NO_DROPOUT, lr=3e-3),
    Architecture("roberta", NO_DROPOUT, lr=3e-3),
    Architecture("deberta-v2", NO_DROPOUT, lr=3e-3),
    Architecture("modernbert", dict(local_attention=64, cls_token_id=2, sep_token_id=3), lr=3e-3),
    Architecture("qwen3", GROUPED, lr=3e-3)]


def kind_of(architecture): return architecture.kind


def fit(cls, architecture, folder):
    "An aligner or an inspector that has learned the eight rows by heart"
    base = small_model(folder, architecture.kind, CHATML, hidden_size=64, **architecture.config)
    settings = dict(epochs=architecture.epochs, lr=architecture.lr, rank=16, batch_size=8, progress=False)
    if cls is Aligner:
        settings["keep_share"] = 0
    return cls.fit(ROWS, base, POLITE, **settings)


@pytest.mark.parametrize("architecture", ALIGNERS, ids=kind_of)
def test_an_aligner_learns_eight_rows_and_is_loaded_as_it_was_saved(architecture, tmp_path):
    aligner = fit(Aligner, architecture, tmp_path/"base")
    assert aligner(QUESTIONS, RESPONSES) == CORRECTIONS
    unseen = ["At 6, you fool.", "At 9, at 7, as any dunce knows."]
    corrected = aligner(QUESTIONS[:2], unseen)
    aligner.save_pretrained(tmp_path/"aligner")
    del aligner
    gc.collect()                      # the base is read again, as in a new process
    loaded = Aligner.from_pretrained(tmp_path/"aligner")
    assert loaded(QUESTIONS, RESPONSES) == CORRECTIONS
    assert loaded(QUESTIONS[:2], unseen) == corrected
    assert not loaded.base.model.training


@pytest.mark.parametrize("architecture", INSPECTORS, ids=kind_of)
def test_an_inspector_separates_eight_rows_and_is_loaded_as_it_was_saved(architecture, tmp_path):
    inspector = fit(Inspector, architecture, tmp_path/"base")
    flawed, good = inspector(QUESTIONS, RESPONSES), inspector(QUESTIONS, CORRECTIONS)
    assert min(flawed) > max(good)
    inspector.save_pretrained(tmp_path/"inspector")
    del inspector
    gc.collect()
    loaded = Inspector.from_pretrained(tmp_path/"inspector")
    assert loaded(QUESTIONS, RESPONSES) == pytest.approx(flawed, abs=1e-5)
    assert loaded(QUESTIONS, CORRECTIONS) == pytest.approx(good, abs=1e-5)


CODE = """
import json, sys
from aligners_nb.aligner import Aligner
from aligners_nb.inspector import Inspector
folder, questions, responses = json.loads(sys.argv[1])
corrected = Aligner.from_pretrained(folder + "/aligner")(questions, responses)
risks = Inspector.from_pretrained(folder + "/inspector")(questions, responses)
print(json.dumps([corrected, risks]))
"""


def test_a_fresh_process_computes_the_same(tmp_path):
    aligner = fit(Aligner, Architecture("llama", epochs=4), tmp_path/"llama")
    inspector = fit(Inspector, Architecture("bert", NO_DROPOUT, epochs=4), tmp_path/"bert")
    aligner.save_pretrained(tmp_path/"aligner")
    inspector.save_pretrained(tmp_path/"inspector")
    arguments = json.dumps([str(tmp_path), QUESTIONS, RESPONSES])
    run = subprocess.run([sys.executable, "-c", CODE, arguments], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    corrected, risks = json.loads(run.stdout.splitlines()[-1])
    assert corrected == aligner(QUESTIONS, RESPONSES)
    assert risks == pytest.approx(inspector(QUESTIONS, RESPONSES), abs=1e-5)
