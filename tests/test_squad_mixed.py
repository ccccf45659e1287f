"""A squad of parts of all kinds: trained here, served on loopback, prompted, a published classifier.

It is calibrated, saved and loaded, and decides alike; also after its models were moved."""
import json

import pytest
from conftest import ROOT
from server import serving
from test_aligner import chat_server, town_answers
from test_scorers import classifier

from aligners_nb import town
from aligners_nb.aligner import Aligner
from aligners_nb.base import small_model
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.dialogue import CHATML
from aligners_nb.inspector import Inspector
from aligners_nb.local import LocalLLM
from aligners_nb.squad import POLICIES, Squad

SERVED = ROOT / "tests/fixtures/written_before_roles/squad/ethical/aligner"
brief, kind = Criterion("brief", ["Say it in one sentence."]), Criterion("kind", ["Be kind to whoever asks."])
QUESTIONS, ANSWERS = town_answers(10, seed=1)
ROWS = [dict(question=f"When does shop {i} open?", response=f"It opens at {i}." + " Any fool knows."*(i % 2),
             correction=f"It opens at {i}.") for i in range(40)]
ASKED = 200, dict(object="list", data=[dict(id="polite", object="model", created=0, owned_by="tests")])


def verdict_or_correction():
    "The script of a server that corrects by the saved adapter, and finds long answers too long if it is asked"
    correct = chat_server(LocalLLM("town", SERVED))

    def script(call, number):
        if not call["messages"][-1]["content"].endswith("Reply with Yes or No only."):
            return correct(call, number)
        verdict = "No." if len(call["messages"][-2]["content"]) > 60 else "Yes."
        choice = dict(index=0, finish_reason="stop", message=dict(role="assistant", content=verdict))
        return 200, dict(id="x", created=0, model=call["model"], object="chat.completion", choices=[choice],
                         usage=dict(prompt_tokens=10, completion_tokens=1, total_tokens=11))
    return script


@pytest.fixture(scope="module")
def server():
    with serving(script=verdict_or_correction(), models=ASKED) as server:
        yield server


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    small_model(folder / "llama", "llama", CHATML, max_position_embeddings=2048)
    small_model(folder / "gpt2", "gpt2", max_position_embeddings=2048)
    small_model(folder / "bert", "bert")
    classifier(folder / "toxic", max_position_embeddings=1024)
    return folder


def mixed_squad(models, url, judge):
    "Three pairs; `judge` is the LLM of the prompted inspector"
    quick = dict(epochs=1, progress=False)
    pairs = [
        (Inspector.from_classifier(models / "toxic", ["toxic", "insult"], town.ethical),
         Aligner.served(url, model="polite", criterion=town.ethical)),
        (Inspector.prompted(judge, brief), Aligner.prompted(str(models / "llama"), brief)),
        (Inspector.fit(ROWS[20:], base=str(models / "bert"), criterion=kind, **quick),
         Aligner.fit(ROWS[20:], base=str(models / "gpt2"), criterion=kind, **quick))]
    for inspector, _ in pairs:
        inspector.calibrate(ROWS[:20], miss_rate=.3)
    return Squad(pairs)


def check_same(squad, again):
    "Both decide alike under all policies"
    assert again.thresholds == squad.thresholds and not again.uncalibrated_criteria
    for policy in POLICIES:
        for before, after in zip(squad(QUESTIONS, ANSWERS, policy=policy), again(QUESTIONS, ANSWERS, policy=policy)):
            assert after.aligned == before.aligned and not after.error
            assert after.risks == pytest.approx(before.risks, abs=1e-5)
            assert [step.decision for step in after.trace] == [step.decision for step in before.trace]


def test_a_mixed_squad_is_saved_and_decides_alike(tmp_path, models, server):
    squad = mixed_squad(models, server.url, str(models / "llama"))
    gated = [step for alignment in squad(QUESTIONS, ANSWERS) for step in alignment.trace]
    assert len(gated) > 3 and all(step.risk_after is not None for step in gated)
    rewritten = squad(QUESTIONS, ANSWERS, policy="always")
    assert sum(alignment.changed for alignment in rewritten) > 3
    folder = squad.save_pretrained(tmp_path / "squad")
    assert json.loads((folder / "squad.json").read_text())["parts"] == dict(
        ethical=dict(inspector="ClassifierScorer", aligner="served"),
        brief=dict(inspector="PromptedScorer", aligner="prompted"),
        kind=dict(inspector="trained", aligner="trained"))
    card = (folder / "README.md").read_text()
    assert "ClassifierScorer, on toxic | served" in card and "trained, on bert | trained, on gpt2" in card
    assert str(tmp_path) not in card and server.url not in card
    check_same(squad, Squad.from_pretrained(folder))
    check_same(squad, Squad.from_pretrained(folder, device="cpu"))


def test_a_mixed_squad_whose_models_moved(tmp_path, models, server):
    squad = mixed_squad(models, server.url, server.url)
    folder = squad.save_pretrained(tmp_path / "squad")
    names = ["bert", "gpt2", "llama", "toxic"]
    moved = {str(models / name): tmp_path / "elsewhere" / name for name in names}
    models.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError) as error:
        Squad.from_pretrained(folder)
    assert all(f"{name!r}: '…'" in str(error.value) for name in moved)
    with pytest.raises(DataError, match="need 4"):
        Squad.from_pretrained(folder, base=tmp_path / "elsewhere/gpt2")
    with pytest.raises(DataError, match="base= names 'gpt2'"):
        Squad.from_pretrained(folder, base=dict(gpt2="elsewhere"))
    three = dict(list(moved.items())[:3])
    with pytest.raises(DataError, match=r"models/toxic.*base=\{'[^,]*toxic': '…'\}"):
        Squad.from_pretrained(folder, base=three)
    again = Squad.from_pretrained(folder, base=moved)
    assert again.aligners["brief"].llm.base.path == str(tmp_path / "elsewhere/llama")
    check_same(squad, again)


def test_one_model_that_moved_is_reached_in_all_parts(tmp_path):
    old = small_model(tmp_path / "old", "llama", CHATML)
    pairs = [(Inspector(town.ethical, old), Aligner.prompted(old, town.ethical)),
             (Inspector.from_classifier(old, "unsafe", kind), Aligner(kind, old))]
    for inspector, _ in pairs:
        inspector.calibrate(ROWS, miss_rate=.2)
    squad = Squad(pairs)
    folder = squad.save_pretrained(tmp_path / "squad")
    new = (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(DataError, match=f"{old}.* base='…'"):
        Squad.from_pretrained(folder)
    again = Squad.from_pretrained(folder, base=new)
    bases = [inspector.scorer.base for inspector in again.inspectors.values()]
    bases += [aligner.llm.base for aligner in again.aligners.values()]
    assert len(set(map(id, bases))) == 1 and bases[0].path == str(new)
    check_same(squad, again)


def test_a_prompted_inspector_whose_model_moved(tmp_path):
    old = small_model(tmp_path / "old", "llama", CHATML)
    squad = Squad([(Inspector.prompted(old, kind).calibrate(ROWS, miss_rate=.2), Aligner.prompted(old, kind))])
    folder = squad.save_pretrained(tmp_path / "squad")
    new = (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(DataError, match="base='…'"):
        Squad.from_pretrained(folder)
    again = Squad.from_pretrained(folder, base=new, device="cpu")
    assert again.inspectors["kind"].scorer.llm.base is again.aligners["kind"].llm.base
    assert again.inspect(QUESTIONS, ANSWERS) == [dict(kind=pytest.approx(risks["kind"], abs=1e-5))
                                                 for risks in squad.inspect(QUESTIONS, ANSWERS)]
