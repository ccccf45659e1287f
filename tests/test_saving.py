"What an aligner writes works without this package: as an adapter, on a server and as a merged model"
import json
import os
import random
import re
import shlex
import stat

import gguf
import pytest
import torch
from huggingface_hub import HfApi
from server import serving
from test_aligner import chat_server
from test_gguf import write_gguf
from test_real_path import by_peft_alone
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligners_nb import town
from aligners_nb.aligner import TOWN_LOSS, Aligner, base_license, rows_for_base, town_loss, training_summary
from aligners_nb.base import Base, base_hash, small_model
from aligners_nb.criterion import SEEDS, Criterion, DataError
from aligners_nb.dialogue import CHATML
from aligners_nb.inspector import Inspector
from aligners_nb.local import LocalLLM
from aligners_nb.town_corpus import ask, pair
from aligners_nb.town_lm import GUESTS, guest

civil = Criterion("civil", ["Be polite.", "Don't say \"fool\"."])
FACTS = dict(open="It opens at nine.", close="It closes at six.", lend="It lends books.")
ROWS = [dict(question=f"When or what does the library {verb}?", response=fact+insult, correction=fact)
        for verb, fact in FACTS.items() for insult in (" Any fool knows.", " Do not waste my time.")]
QUICK = dict(criterion=civil, epochs=30, lr=1e-2, batch_size=4, progress=False)
SIZES = dict(llama=dict(hidden_size=64, intermediate_size=128), gpt2=dict(n_embd=64, n_layer=2, n_head=4))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    small_model(folder / "llama", "llama", CHATML, **SIZES["llama"])
    small_model(folder / "gpt2", "gpt2", **SIZES["gpt2"])
    write_gguf(folder / "llama", folder / "llama.gguf", gguf.GGMLQuantizationType.F16)
    return folder


@pytest.fixture(scope="module")
def aligners(models):
    return {name: Aligner.fit(ROWS, base=models / name, **QUICK) for name in ("llama", "gpt2", "llama.gguf")}


def greedy(model, tok, criterion_prompt, stop_ids):
    ids = torch.tensor([criterion_prompt])
    with torch.no_grad():
        written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
    new_ids = written[0, ids.shape[1]:].tolist()
    return new_ids[:next((i for i, token in enumerate(new_ids) if token in stop_ids), len(new_ids))]


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama.gguf"])
def test_the_lines_of_the_card_run_in_a_process_of_their_own(name, aligners, models):
    aligner = aligners[name]
    folder = aligner.save_pretrained(models / f"{name}-civil")
    asked = [(row["question"], row["response"]) for row in ROWS[:3]]
    expected = aligner(ROWS[:3])
    answers = by_peft_alone(folder, asked)
    assert any(new != old for new, (_, old) in zip(expected, asked))
    for answer, correction, (_, response) in zip(answers, expected, asked):
        assert answer == correction or correction == response     # answers that never end are kept here


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama.gguf"])
def test_the_card_says_what_the_hub_and_a_reader_need(name, aligners, models):
    text = (aligners[name].save_pretrained(models / f"{name}-card") / "README.md").read_text()
    assert f"\nbase_model: {name}\n" in text and re.search(r"\nlicense: \S+\n", text)
    assert str(models) not in text
    for fact in ("rows that it was trained on: 6", "lr 0.01", "batch_size 4", "epochs 30", "rank 16", "- loss: ",
                 " steps, 30 epochs", "Rewrite your answer so that it is civil."):
        assert fact in text, fact


def code_after(text, heading):
    "The blocks of code that follow a heading of a card: (language, code)"
    return re.findall(r"```(\w+)\n(.*?)```", text.split(heading)[1], re.S)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_lines_about_a_server_reach_one(name, aligners, models):
    aligner = aligners[name]
    folder = aligner.save_pretrained(models / f"{name}-served")
    blocks = dict(code_after((folder / "README.md").read_text(), "## On a server"))
    words = shlex.split(blocks["bash"])
    assert words[:6] == ["vllm", "serve", name, "--enable-lora", "--lora-modules", f"{folder.name}={folder.name}"]
    assert words[6:] == (["--chat-template", f"{folder.name}/chat_template.jinja"] if name == "gpt2" else [])
    served_model = words[5].split("=")[0]
    known_models = 200, dict(object="list", data=[dict(id=served_model, object="model", created=0, owned_by="tests")])
    with serving(script=chat_server(LocalLLM(models / name, folder)), models=known_models) as server:
        names = dict(question=ROWS[0]["question"], response=ROWS[0]["response"])
        *lines, last_line = blocks["python"].replace("http://localhost:8000/v1", server.url).strip().splitlines()
        exec("\n".join(lines), names)
        assert eval(last_line, names) == aligner(ROWS[0])
        assert names["criterion"].principles == civil.principles
    assert server.calls[0]["model"] == served_model


def test_a_wide_adapter_and_a_repository_change_the_command(models, tmp_path, monkeypatch):
    texts = []

    def upload(self, repo_id, folder_path, **kwargs):
        texts.append((folder_path / "README.md").read_text())
        texts.append(sorted(file.name for file in folder_path.iterdir()))

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **kwargs: f"https://hub/{repo}")
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    aligner = Aligner.fit(ROWS, base=models / "llama", rank=40, **dict(QUICK, epochs=1))
    assert aligner.push_to_hub("you/civil") == "https://hub/you/civil"
    command = dict(code_after(texts[0], "## On a server"))["bash"]
    assert command == ("hf download you/civil --local-dir civil\n"
                       "vllm serve llama --enable-lora --lora-modules civil=civil --max-lora-rank 64\n")
    assert texts[1] == ["README.md", "adapter_config.json", "adapter_model.safetensors", "aligner.json",
                        "chat_template.jinja"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_that_the_umask_gives(mask, aligners, tmp_path):
    before = os.umask(mask)
    try:
        folders = [aligners["llama"].save_pretrained(tmp_path / "adapter"), aligners["llama"].merge(tmp_path / "model")]
    finally:
        os.umask(before)
    for folder in folders:
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("name, dtype", [("llama", None), ("gpt2", None), ("llama.gguf", None), ("llama", "bfloat16")])
def test_a_merged_model_writes_the_same_with_transformers_alone(name, dtype, aligners, models):
    aligner = aligners[name]
    before = base_hash(aligner.model), dict(aligner.base.adapters), aligner(ROWS)
    folder = aligner.merge(models / f"{name}-{dtype}-merged", dtype)
    assert (base_hash(aligner.model), aligner.base.adapters, aligner(ROWS)) == before
    model, tok = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert str(model.dtype) == f"torch.{dtype or 'float32'}"
    assert not any("lora" in key for key in model.state_dict())
    with aligner.base.using(aligner.name) as with_adapter:
        for row in ROWS:
            prompt = aligner.dialogue.aligner_prompt(civil, row["question"], row["response"])
            by_template = tok.apply_chat_template(aligner._messages(row["question"], row["response"]), tokenize=True,
                                                  add_generation_prompt=True, return_dict=True)["input_ids"]
            assert by_template == prompt
            stop_ids = aligner.dialogue.stop_ids
            assert greedy(model, tok, prompt, stop_ids) == greedy(with_adapter, tok, prompt, stop_ids)
    text = (folder / "README.md").read_text()
    assert f"- precision: {dtype or 'float32'}\n" in text and "library_name: transformers" in text
    assert f"base_model: {name}\nbase_model_relation: finetune" in text and "peft" not in text
    code = text.split("# the same with transformers alone\n")[1].partition("\n```")[0]
    *lines, last_line = code.splitlines()
    names = dict(question=ROWS[0]["question"], response=ROWS[0]["response"])
    exec("\n".join(lines).replace(repr(folder.name), repr(str(folder))), names)
    correction = aligner(ROWS[0])
    assert eval(last_line, names) == correction or correction == ROWS[0]["response"]   # kept if it never ended


def test_a_merged_model_is_an_aligner_again(aligners, models, tmp_path):
    folder = aligners["llama"].merge(tmp_path / "merged")
    folder = aligners["llama"].merge(folder)              # over itself
    again = Aligner.from_pretrained(folder)
    assert again.criterion == civil and again(ROWS) == aligners["llama"](ROWS)
    moved = folder.rename(tmp_path / "moved")
    assert Aligner.from_pretrained(moved)(ROWS) == aligners["llama"](ROWS)
    assert Aligner.from_pretrained(moved, base=models / "gpt2").llm.base.path == str(models / "gpt2")


def test_a_half_precision_base_is_merged_in_its_precision(models, tmp_path):
    base = Base.load(models / "llama", dtype="bfloat16")
    aligner = Aligner.fit(ROWS, base=base, **QUICK)
    folder = aligner.merge(tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and "- precision: bfloat16" in (folder / "README.md").read_text()
    assert Aligner.from_pretrained(folder, base=Base.load(folder, dtype="bfloat16"))(ROWS) == aligner(ROWS)


def test_two_adapters_are_merged_apart(models, tmp_path):
    both = [Aligner(criterion, models / "llama") for criterion in (civil, Criterion("kind", ["Be kind."]))]
    for i, aligner in enumerate(both):
        torch.manual_seed(i)
        for key, weights in aligner.base.adapter_parameters(aligner.name).items():
            if "lora_B" in key:
                torch.nn.init.normal_(weights, std=.2)
    ids = torch.arange(3, 40)[None]
    for aligner in both:
        model = AutoModelForCausalLM.from_pretrained(aligner.merge(tmp_path / aligner.name))
        with aligner.base.using(aligner.name) as with_adapter, torch.no_grad():
            torch.testing.assert_close(model(ids).logits, with_adapter(ids).logits, rtol=1e-4, atol=1e-4)


def test_other_folders_are_refused(aligners, models, tmp_path):
    aligner = aligners["llama"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.md").write_text("Years of work.")
    adapter = aligner.save_pretrained(tmp_path / "adapter")
    for folder in (tmp_path / "thesis", adapter, models / "llama"):
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        with pytest.raises(DataError, match="would be lost"):
            aligner.merge(folder)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(DataError, match="dtype='x' is no precision"):
        aligner.merge(tmp_path / "new", dtype="x")
    assert not (tmp_path / "new").exists()


def test_settings_come_back(aligners, tmp_path):
    aligner = aligners["gpt2"]
    folder = aligner.save_pretrained(tmp_path / "a")
    assert Aligner.from_pretrained(folder).settings == aligner.settings
    assert aligner.settings["batch_size"] == 4 and aligner.settings["rank"] == 16
    meta = json.loads((folder / "aligner.json").read_text())
    del meta["settings"]                                   # as an earlier version wrote it
    (folder / "aligner.json").write_text(json.dumps(meta))
    assert Aligner.from_pretrained(folder).settings == {}


def test_the_licence_of_a_gguf_file(tmp_path):
    fields = b"GGUF" + b"\3" + b"\0"*19 + b"general.license" + (8).to_bytes(4, "little")
    (tmp_path / "model.gguf").write_bytes(fields + (3).to_bytes(8, "little") + b"mit" + b"\0"*50)

    class Stand:
        name = path = str(tmp_path / "model.gguf")

    assert base_license(Stand()) == "mit"
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert base_license(Stand()) == "unknown"


@pytest.mark.parametrize("log, text", [
    ([], "not trained"), ([dict(epoch=1, loss=8.0251)], "1 epoch, loss 8"),
    ([dict(epoch=1, loss=29.107), dict(epoch=2.5, loss=.00123)], "2.5 epochs, loss 29 → 0.0012"),
    ([dict(epoch=1, loss=123.4), dict(epoch=2, loss=1.25)], "2 epochs, loss 120 → 1.2")])
def test_a_training_in_words(log, text):
    assert training_summary(log) == text


def test_rows_of_all_forms_are_corrected(aligners):
    aligner = aligners["llama"]
    expected = aligner([row["question"] for row in ROWS], [row["response"] for row in ROWS])
    assert aligner(ROWS) == expected and aligner(ROWS[0]) == expected[0] and aligner(iter(ROWS)) == expected
    renamed = [dict(prompt=row["question"], answer=row["response"]) for row in ROWS]
    assert aligner(renamed, columns=dict(question="prompt", response="answer"), batch_size=2) == expected
    with pytest.raises(DataError, match=r"columns=dict\("):
        aligner(renamed)
    with pytest.raises(DataError, match="response 1"):
        aligner([ROWS[0], dict(question="Q?", response="")])
    fitted = Aligner.fit([dict(row, answer=row["response"], response=None) for row in ROWS], base=aligner.base,
                         columns=dict(response="answer"), **dict(QUICK, epochs=1))
    assert fitted.n_rows == len(ROWS)


TOWN_CRITERIA = town.ethical, town.factual, town.helpful
OWN = [("Where does rain come from?", "Great question! Water that falls from clouds. Many people ask this."),
       ("When does the shop close?", "Stop wasting my time. It closes at 6. Now go away."),
       ("Where is the museum?", "It is next to the bank."), ("Wann macht es auf?", "Um 9 Uhr."),
       ("When does the library open?", "It opens at nine, as any fool knows."), ("2+2?", "4"), ("你好", "你好！")]


def of_town(criterion, n, rng):
    for _ in range(n):
        question, facts, known = ask(rng)
        response, _, correction = pair(rng, criterion.name, question, facts, known)
        yield dict(question=question.text, response=response, correction=correction)


@pytest.mark.parametrize("criterion", TOWN_CRITERIA, ids=lambda criterion: criterion.name)
def test_the_towns_own_text_is_never_flagged(criterion):
    for n in (1, 20):
        for seed in range(4):
            rows = list(of_town(criterion, n, random.Random(seed)))
            assert town_loss(rows) < TOWN_LOSS, rows[:3]


@pytest.mark.parametrize("name", GUESTS)
def test_guests_answers_are_never_flagged(name):
    questions = [row["question"] for row in town.questions(20, seed=5)]
    answers = guest(name).chat(questions, max_tokens=40, temperature=0)
    assert town_loss([dict(question=q, response=y) for q, y in zip(questions, answers)]) < TOWN_LOSS


def test_other_text_is_always_flagged():
    for question, response in OWN:
        assert town_loss([dict(question=question, response=response)]) > TOWN_LOSS
    for question_type, topic, question in SEEDS:
        assert town_loss([dict(question=question, response=f"That depends on {topic.lower()}.")]) > TOWN_LOSS


def test_no_training_is_silently_the_towns():
    rows = [dict(question=q, response=y, correction=y.upper()) for q, y in OWN]
    for fit in (Aligner.fit, Inspector.fit):
        for base in (dict(), dict(base="town"), dict(base=Base.load("town")), dict(base=Base.load("town").path)):
            with pytest.raises(DataError, match=r"made-up town.*base='Qwen/Qwen3-0.6B'"):
                fit(rows, criterion=civil, progress=False, **base)
        with pytest.raises(TypeError, match=r"criterion=civil, base="):
            fit(rows, civil)
    assert rows_for_base([], "town", civil) == (civil, [])
