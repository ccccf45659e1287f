"Aligners of all kinds: trained here, served and prompted"
import json
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT
from server import serving

from aligners_nb import town
from aligners_nb.aligner import SLACK, Aligner, pairs
from aligners_nb.base import Base, small_model
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.dialogue import CHATML
from aligners_nb.llm import CallableLLM, Cut, Refused, Replay
from aligners_nb.local import LocalLLM

SAVED = ROOT / "tests/fixtures/written_before_roles/squad/ethical/aligner"
civil = Criterion("civil", ["Be polite."])
ROWS = [dict(question=f"When does shop {i} open?", response=f"At {i}, fool.", correction=f"At {i}.", criterion="civil")
        for i in range(8)]
QUESTIONS = [row["question"] for row in ROWS]
RESPONSES = [row["response"] for row in ROWS]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "llama", "llama", CHATML)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


def town_answers(n, seed=0):
    "Questions of the town and answers, of which some are unethical"
    rng = random.Random(seed)
    questions, answers = [], []
    for row in town.questions(n, seed, held_out=True):
        question = town.read(row["question"])
        answer = town.good_answer(rng, question, town.FACTS[question.subject])
        if rng.random() < .6:
            answer = town.ethical_flaw(rng, answer)[0]
        questions.append(question.text)
        answers.append(town.render(answer))
    return questions, answers


def chat_server(llm):
    "The script of a server that answers chats with a local LLM"
    def script(call, number):
        reply = llm.chat([call["messages"]], max_tokens=[call["max_tokens"]], temperature=call["temperature"])[0]
        choice = dict(index=0, finish_reason="length" if isinstance(reply, Cut) else "stop",
                      message=dict(role="assistant", content=str(reply)))
        return 200, dict(id="x", created=0, model=call["model"], object="chat.completion", choices=[choice],
                         usage=dict(prompt_tokens=10, completion_tokens=5, total_tokens=15))
    return script


def test_a_served_aligner_equals_the_same_adapter_here():
    here = Aligner.from_pretrained(SAVED)
    questions, answers = town_answers(50)
    expected = here(questions, answers)
    assert expected != answers
    models = 200, dict(object="list", data=[dict(id="ethical", object="model", created=0, owned_by="tests")])
    with serving(script=chat_server(LocalLLM("town", SAVED)), models=models) as server:
        served = Aligner.served(server.url, model="ethical", criterion=town.ethical)
        assert served(questions, answers) == expected
        assert (served.calls, served.tokens) == (50, 250)
    assert {call["model"] for call in server.calls} == {"ethical"}
    limits = {call["messages"][-2]["content"]: call["max_tokens"] for call in server.calls}
    assert limits == {answer: 2*served.llm.count_tokens(answer) + SLACK for answer in answers}


def test_each_row_has_its_own_limit():
    limits = []

    class Recorder(CallableLLM):
        def _chat(self, conversations, max_tokens, **settings):
            limits.extend(max_tokens)
            return super()._chat(conversations, max_tokens, **settings)

        def context_left(self, messages):
            return 100

    aligner = Aligner.prompted(Recorder(lambda messages: "Fine."), civil)
    aligner(QUESTIONS[:2], ["At nine.", "At nine, you " + "silly "*12 + "fool."])
    assert limits == [2*aligner.llm.count_tokens("At nine.") + SLACK, 100]
    with pytest.raises(DataError, match="answer 1 is too long with its question"):
        aligner(QUESTIONS[:2], ["At nine.", "At nine. "*60])
    assert aligner.fits("When?", "At nine.") and not aligner.fits("When?", "At nine. "*60)


@pytest.mark.parametrize("reply", ["", "  ", Cut("At"), Refused("too long"), "The answer is fine.", "Correction:",
                                   "<think>"])
def test_a_broken_reply_leaves_the_answer_alone(reply):
    aligner = Aligner.prompted(CallableLLM(lambda messages: reply), civil)
    assert aligner(QUESTIONS, RESPONSES) == RESPONSES


def test_a_prompted_aligner_shows_the_principles_and_reads_the_correction():
    prompts = []

    def write(messages):
        prompts.append(messages)
        return 'Sure! Here is the corrected answer:\n\n"At nine."'

    assert Aligner.prompted(write, civil)("When?", "At nine, fool.") == "At nine."
    assert "Be polite." in prompts[0][0]["content"] and prompts[0][-2]["content"] == "At nine, fool."
    assert Aligner.prompted(Replay(["At nine.", "At ten."]), civil)(["When?"]*2, ["At nine, fool."]*2,
                                                                       batch_size=1) == ["At nine.", "At ten."]


def test_served_and_prompted_aligners_are_saved(tmp_path, llama):
    served = Aligner.served("http://localhost:1/v1", model="civil", criterion=civil, concurrency=3)
    prompted = Aligner.prompted(LocalLLM(llama), civil)
    for name, aligner in dict(served=served, prompted=prompted).items():
        for _ in range(2):  # the second time over the first
            folder = aligner.save_pretrained(tmp_path / name)
        meta = json.loads((folder / "aligner.json").read_text())
        assert (meta["format"], meta["corrector"], meta["llm"]) == (2, name, aligner.llm.to_dict())
        again = Aligner.from_pretrained(folder)
        assert (again.criterion, again.form, again.llm.to_dict()) == (civil, aligner.form, aligner.llm.to_dict())
    moved = small_model(tmp_path / "moved", "llama", CHATML)
    assert Aligner.from_pretrained(tmp_path / "prompted", base=moved).llm.base.path == moved


@pytest.mark.parametrize("llm", [Replay(["At nine."]), CallableLLM(len)])
def test_what_can_not_be_saved_leaves_nothing_behind(llm, tmp_path):
    with pytest.raises(DataError, match="can't be saved"):
        Aligner.prompted(llm, civil).save_pretrained(tmp_path / "aligner")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("edit, message", [
    (dict(corrector="dreamed"), "has the corrector 'dreamed'"), (dict(llm=3), "has no llm"),
    (dict(criterion=dict(name=5)), "criterion|settings"), (dict(llm=dict(type="Oracle")), "got 'Oracle'"),
    (dict(llm=dict(type="Endpoint", colour="red")), "settings that can't be used"), (dict(format=3), "has format 3")])
def test_a_broken_marker_is_an_error(edit, message, tmp_path):
    folder = Aligner.served("http://localhost:1/v1", model="m", criterion=civil).save_pretrained(tmp_path / "aligner")
    meta = json.loads((folder / "aligner.json").read_text())
    (folder / "aligner.json").write_text(json.dumps(meta | edit))
    with pytest.raises(DataError, match=message):
        Aligner.from_pretrained(folder)


def test_a_trained_aligner_is_saved_with_its_template(tmp_path, gpt2, llama):
    for base in (gpt2, llama):
        aligner = Aligner.fit(ROWS, base=base, criterion=civil, epochs=3, progress=False)
        folder = aligner.save_pretrained(tmp_path / base.rpartition("/")[2])
        assert (folder / "chat_template.jinja").read_text() == aligner.dialogue.template
        again = Aligner.from_pretrained(folder)
        assert again.dialogue.aligner_prompt(civil, "Q?", "A.") == aligner.dialogue.aligner_prompt(civil, "Q?", "A.")
        assert again(QUESTIONS, RESPONSES) == aligner(QUESTIONS, RESPONSES)
        assert again.fingerprint == aligner.fingerprint and again.log == aligner.log


def test_other_weights_and_another_request_are_told(tmp_path, llama):
    folder = Aligner(civil, llama).save_pretrained(tmp_path / "aligner")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Aligner.from_pretrained(folder)
    other = small_model(tmp_path / "other", "llama", CHATML, seed=1)
    with pytest.warns(UserWarning, match="other weights of llama"):
        Aligner.from_pretrained(folder, base=other)
    meta = json.loads((folder / "aligner.json").read_text())
    (folder / "aligner.json").write_text(json.dumps(meta | dict(request="Correct it.")))
    with pytest.warns(UserWarning, match="another request"):
        Aligner.from_pretrained(folder)


def test_a_base_that_does_not_fit_is_refused_and_stays_as_it_was(tmp_path, llama, gpt2):
    folder = Aligner(civil, llama).save_pretrained(tmp_path / "aligner")
    wide = small_model(tmp_path / "wide", "llama", CHATML, hidden_size=64)
    for name in (wide, gpt2):
        base = Base.load(name)
        with pytest.raises(DataError, match="another sort of model"):
            Aligner.from_pretrained(folder, base=base)
        assert not base.adapters


def test_a_training_that_diverges_leaves_no_adapter(gpt2):
    base = Base.load(gpt2)
    before = set(base.adapters)
    with pytest.raises(DataError, match="lr="):
        Aligner.fit(ROWS, base=base, criterion=civil, lr=1e30, epochs=6, batch_size=4, progress=False)
    assert set(base.adapters) == before


def test_an_adapter_that_is_not_finite_is_refused(tmp_path, gpt2):
    aligner = Aligner(civil, gpt2)
    next(iter(aligner.base.adapter_parameters(aligner.name).values())).data.fill_(torch.nan)
    folder = aligner.save_pretrained(tmp_path / "aligner")
    before = set(aligner.base.adapters)
    with pytest.raises(DataError, match="not finite numbers.*smaller lr="):
        Aligner.from_pretrained(folder)
    assert set(aligner.base.adapters) == before


def test_numbers_of_numpy_train_and_save_alike(tmp_path, gpt2):
    numbers = dict(rank=4, seed=3, batch_size=4, epochs=1, lr=.001)
    numpy_numbers = dict(rank=np.int64(4), seed=np.int32(3), batch_size=np.int64(4), epochs=np.int64(1),
                         lr=np.float64(.001))
    prints = []
    for name, settings in dict(plain=numbers, numpy=numpy_numbers).items():
        aligner = Aligner.fit(ROWS, base=gpt2, criterion=civil, progress=False, out=tmp_path / name, **settings)
        prints.append(aligner.fingerprint)
    assert prints[0] == prints[1]


def test_a_finished_run_is_recognised(tmp_path, gpt2):
    settings = dict(base=gpt2, criterion=civil, epochs=1, progress=False, out=tmp_path / "out")
    first = Aligner.fit(ROWS, **settings)
    written = (tmp_path / "out/adapter_model.safetensors").stat().st_mtime_ns
    again = Aligner.fit(ROWS, **settings)
    assert (tmp_path / "out/adapter_model.safetensors").stat().st_mtime_ns == written
    assert again(QUESTIONS, RESPONSES) == first(QUESTIONS, RESPONSES)
    with pytest.raises(DataError, match="holds chapter1.md"):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis/chapter1.md").write_text("Years of work.")
        Aligner.fit(ROWS, **settings | dict(out=tmp_path / "thesis"))


def test_a_home_folder_is_found(tmp_path, monkeypatch, gpt2):
    monkeypatch.setenv("HOME", str(tmp_path))
    Aligner(civil, gpt2).save_pretrained("~/aligner")
    assert (tmp_path / "aligner/aligner.json").exists()
    assert Aligner.from_pretrained("~/aligner").criterion == civil


def test_two_threads_do_not_mix_their_aligners(gpt2):
    both = [Aligner(criterion, gpt2) for criterion in (civil, Criterion("kind", ["Be kind."]))]
    generator = torch.Generator().manual_seed(1)
    for aligner in both:
        for name, weights in aligner.base.adapter_parameters(aligner.name).items():
            if "lora_B" in name:
                weights.data = torch.randn(weights.shape, generator=generator)*.5
    expected = [aligner(QUESTIONS, RESPONSES) for aligner in both]
    corrections = {0: [], 1: []}

    def correct(number):
        for _ in range(3):
            corrections[number].append(both[number](QUESTIONS, RESPONSES))

    threads = [threading.Thread(target=correct, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert corrections == {0: [expected[0]]*3, 1: [expected[1]]*3}
    assert [aligner.calls for aligner in both] == [4*len(ROWS)]*2


def test_pairs():
    fine = [dict(row, response=row["correction"]) for row in ROWS]
    assert len(pairs(ROWS + fine*9)) == 12  # a hundred good answers are not a hundred lessons
    asked = [dict(row, question=[dict(role="user", content=row["question"])]) for row in ROWS]
    as_texts = [(question[0]["content"], *rest) for question, *rest in pairs(asked)]
    assert as_texts == pairs(ROWS)  # messages are as good as a text
    with pytest.raises(DataError, match="none of these 8 rows"):
        pairs(fine)


def test_bad_input(llama):
    aligner = Aligner(civil, llama)
    chat = [dict(role="system", content="Be brief."), dict(role="user", content="When?")]
    assert isinstance(aligner([chat], ["At nine."])[0], str)
    assert aligner([], []) == [] and isinstance(aligner(tuple(QUESTIONS), tuple(RESPONSES)), list)
    with pytest.raises(DataError, match="2 questions and 1 responses"):
        aligner(QUESTIONS[:2], RESPONSES[:1])
    with pytest.raises(TypeError, match="give a question and its response, or rows with both"):
        aligner(QUESTIONS[0], None)
    with pytest.raises(ValueError, match="batch_size=0"):
        aligner(QUESTIONS, RESPONSES, batch_size=0)
    with pytest.raises(TypeError, match="lr='x'"):
        Aligner.fit(ROWS, base=llama, criterion=civil, lr="x")
    with pytest.raises(DataError, match="about 'civil', and criterion is"):
        Aligner.fit(ROWS, base=llama, criterion=town.ethical)
    with pytest.raises(DataError, match="row 0 has no correction"):
        Aligner.fit([dict(question="Q", response="R")], base=llama, criterion=civil)
    with pytest.raises(TypeError, match="criterion must be a Criterion"):
        Aligner.prompted(len, "civil")
