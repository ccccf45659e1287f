"Nothing is special about the town: synthesis to squad on small random models of real architectures, saved to disk"
import gc
import random
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForMaskedLM
from aligners_nb.aligner import Aligner
from aligners_nb.base import Base, small_model
from aligners_nb.criterion import Criterion, Demonstration, LLMError
from aligners_nb.curation import curate
from aligners_nb.dialogue import CHATML
from aligners_nb.inspector import Inspector
from aligners_nb.llm import Replay
from aligners_nb.local import as_llm
from aligners_nb.squad import Squad
from aligners_nb.synthesis import synthesize

POLITE = Criterion("polite", ["Never insult the reader."], [
    Demonstration("How long do I boil an egg?", "Eight minutes, as any fool knows.", "It insults.", "Eight minutes."),
])


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    small_model(folder/"gpt2", "gpt2", max_position_embeddings=2048)
    small_model(folder/"qwen3", "qwen3", CHATML, max_position_embeddings=2048, num_key_value_heads=2, head_dim=8)
    for kind in ("bert", "distilbert", "roberta", "electra"):       # as on the Hub: without pooler and head
        small_model(folder/kind, kind)
    AutoModelForMaskedLM.from_pretrained(folder/"roberta").half().save_pretrained(folder/"roberta")
    return folder


def scripted(prompt):
    "An LLM that can do the recipe: the random ones can't, and say so"
    rng = random.Random(prompt)
    if "New topics:" in prompt:
        dishes = ["soup", "salad", "pie", "stew", "bread"]
        return "".join(f" {plant} {dish}\n-" for plant in ("Pea", "Bean", "Leek") for dish in rng.sample(dishes, 3))
    if "Questions:\n" in prompt:
        hints = prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines()
        return "\n".join(question_line(hint, rng) for hint in hints)
    minutes = rng.randrange(3, 90)
    if rng.random() < .5:
        return f" {minutes} minutes, as any fool knows.\nCritique: It insults.\nCorrection: {minutes} minutes."
    return f" {minutes} minutes.\nCritique: Nothing is wrong.\nCorrection: {minutes} minutes."


def question_line(hint, rng):
    "The line that answers a hint: type | topic | question"
    question_type, topic = hint.split(" | ")
    verb = rng.choice(["make", "serve", "store"])
    return f"{hint} | Thinking of {question_type}, how do I {verb} {topic.lower()}?"


def polite_rows(n, fractions):
    "The rows of a synthesis, split for training, calibration and test"
    return curate(synthesize(POLITE, Replay(scripted), n=n, progress=False)).split(fractions)


def forget_bases(folder):
    "As in a new process: bases are loaded afresh, and what a base lacks is drawn anew. The caller must hold none"
    gc.collect()
    bases = [thing for thing in gc.get_objects() if type(thing) is Base]
    assert not [base for base in bases if base.name.startswith(str(folder))], "somebody still holds a base"
    torch.rand(7)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_random_llm_is_asked_and_fails_with_an_explanation(zoo, name):
    llm = as_llm(zoo/name)
    with pytest.raises(LLMError, match="try a larger|no topics"):
        synthesize(POLITE, llm, n=4, progress=False)
    assert llm.usage.calls > 20 and llm.usage.completion_tokens > 100


def train_squad(zoo, base, encoder, folder):
    "Train and save a squad; its test questions, its answers and their risks"
    train, calib, test = polite_rows(120, (.4, .5, .1))
    aligner = Aligner.fit(train, base=str(zoo/base), epochs=1, progress=False)
    inspector = Inspector.fit(train, base=str(zoo/encoder), epochs=1, progress=False).calibrate(calib, miss_rate=.1)
    squad = Squad([(inspector, aligner)])
    questions, responses = list(test["question"]), list(test["response"])
    for policy in ("no_regret", "paper", "always"):
        alignments = squad(questions, responses, policy=policy)
        assert [alignment.response for alignment in alignments] == responses
        assert not any(alignment.error for alignment in alignments)
    squad.save_pretrained(folder)
    aligned = [alignment.aligned for alignment in squad(questions, responses)]
    return questions, responses, aligned, squad.inspect(questions, responses)[0]["polite"]


@pytest.mark.parametrize("base, encoder", [("gpt2", "bert"), ("qwen3", "distilbert"), ("qwen3", "qwen3")])
def test_from_synthesis_to_a_loaded_squad(zoo, tmp_path, base, encoder):
    questions, responses, aligned, risk = train_squad(zoo, base, encoder, tmp_path/"squad")
    forget_bases(zoo)
    squad = Squad.from_pretrained(tmp_path/"squad")
    assert [alignment.aligned for alignment in squad(questions, responses)] == aligned
    assert squad.inspect(questions, responses)[0]["polite"] == pytest.approx(risk, abs=1e-4)
    suffixes = {file.suffix for file in (tmp_path/"squad").rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".md", ".jinja"}


def train_inspector(zoo, encoder, folder):
    "Train and save an inspector; the test rows and their risks"
    train, calib, test = polite_rows(80, (.5, .3, .2))
    inspector = Inspector.fit(train, base=str(zoo/encoder), epochs=1, progress=False).calibrate(calib, miss_rate=.2)
    inspector.save_pretrained(folder)
    questions, responses = list(test["question"]), list(test["response"])
    return questions, responses, list(inspector(questions, responses))


@pytest.mark.parametrize("encoder", ["roberta", "electra"])
def test_an_inspector_whose_head_has_parts_is_loaded_as_it_was_saved(zoo, tmp_path, encoder):
    questions, responses, risks = train_inspector(zoo, encoder, tmp_path/"inspector")
    file = next((tmp_path/"inspector").rglob("adapter_model.safetensors"))
    with safe_open(file, "pt") as tensors:
        names = set(tensors.keys())
    assert any("classifier.dense.weight" in name for name in names)                          # learned whole,
    assert not [name for name in names if "classifier" in name and "lora" in name]           # and once
    forget_bases(zoo)
    inspector = Inspector.from_pretrained(tmp_path/"inspector")
    assert list(inspector(questions, responses)) == pytest.approx(risks, abs=1e-4)
