"Inspectors: refused rows are named, cards work without the package, squads take inspectors made by hand"
import json
import re
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from aligners_nb.aligner import Aligner, base_license
from aligners_nb.base import Base, small_model
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.dialogue import CHATML, small_word_tokenizer
from aligners_nb.folders import HfApi
from aligners_nb.inspector import Inspector, Report
from aligners_nb.llm import CallableLLM, Refused
from aligners_nb.scorers import HeadScorer, PromptedScorer, Scorer
from aligners_nb.squad import Squad

civil = Criterion("civil", ["Be polite."])
CHECK = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
STRICT = CHATML.replace("{% for m in messages %}", "{% for m in messages %}" + CHECK)
TWO_TURNS = [dict(role="user", content="One thing."), dict(role="user", content="When?")]
ROWS = [dict(question=f"When does shop {i} open?", response=f"At {i}, fool." if i % 2 else f"At {i}.",
             correction=f"At {i}.", criterion="civil") for i in range(48)]
REFUSED = dict(ROWS[1], question=TWO_TURNS)
CALIB = [dict(row, question=f"When does inn {i} open?") for i, row in enumerate(ROWS)]
QUESTIONS, RESPONSES = [row["question"] for row in CALIB], [row["response"] for row in CALIB]
QUICK = dict(criterion=civil, epochs=1, progress=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    small_model(folder/"strict", "llama", STRICT)
    small_model(folder/"llama", "llama", CHATML)
    small_model(folder/"gpt2", "gpt2")
    small_model(folder/"bert", "bert")
    return folder


class Counting(Scorer):
    "A scorer that counts a word"
    version = "1"

    def __call__(self, questions, responses, batch_size=32):
        return np.array([4.*response.count("fool") - 2 for response in responses])


@pytest.mark.parametrize("kind", [Aligner, Inspector])
def test_fit_names_the_row_that_the_template_refuses_and_leaves_no_adapter(kind, models):
    base = Base.load(models/"strict")
    before = set(base.adapters)
    for rows, index in (([*ROWS, REFUSED], len(ROWS)), ([ROWS[0], REFUSED, *ROWS[1:]], 1)):
        with pytest.raises(DataError, match=f"^row {index}: the model's chat template refuses"):
            kind.fit(rows, base=base, **QUICK)
    assert set(base.adapters) == before


def test_calibrate_and_report_name_the_row_of_the_caller(models):
    inspector = Inspector(civil, models/"strict")
    twice = [CALIB[1], *CALIB, REFUSED]  # a question that is there twice counts once; the index is the caller's
    for call in (inspector.calibrate, inspector.report):
        with pytest.raises(DataError, match=f"^row {len(twice)-1}: the model's chat template refuses"):
            call(twice)
    with pytest.raises(DataError, match="^row 49: strict can't read question and response as a whole"):
        inspector.calibrate([*twice[:49], dict(ROWS[1], response="At nine. "*900)])
    assert (inspector.calibration, inspector.slope, inspector.threshold) == (None, 1, .5)


def test_calls_name_the_answer(models):
    questions, responses = ["When?", TWO_TURNS], ["At nine.", "At ten."]
    strict = models/"strict"
    guard = Inspector.from_classifier(strict, "unsafe", civil)
    for part in (Aligner(civil, strict), Inspector(civil, strict), guard, Aligner.prompted(str(strict), civil)):
        with pytest.raises(DataError, match="^answer 1: the model's chat template refuses"):
            part(questions, responses)
    with pytest.raises(DataError, match="^answer 1 can't be inspected"):
        Inspector.prompted(str(strict), civil)(questions, responses)
    for part in (Aligner(civil, strict), Inspector(civil, strict), Inspector.prompted(len, civil)):
        with pytest.raises(DataError, match="^answer 1: a question is a string or a list of messages"):
            part(["When?", 7], responses)


def test_a_refused_sample_names_its_answer():
    def reply(messages):
        return Refused("too long") if "ten" in messages[-2]["content"] else "Yes."

    with pytest.raises(Refused, match="^answer 1 can't be inspected: too long"):
        PromptedScorer(CallableLLM(reply), civil)(["When?"]*2, ["At nine.", "At ten."])


def test_an_inspector_without_calibration_says_so():
    class ByHand:
        criterion, threshold, version = civil, .5, 1

        def __call__(self, questions, responses): return [.1]*len(responses)

        def fits(self, question, response): return True

    class WithoutInit(Inspector):
        def __init__(self): self.criterion, self.scorer = civil, Counting()

    bare = WithoutInit()
    assert (bare.calibration, bare.threshold) == (None, .5)
    assert bare.report(CALIB).promised is None
    for inspector in (ByHand(), bare, Inspector(civil, scorer=Counting())):
        with pytest.warns(UserWarning, match="the civil inspector is not calibrated"):
            squad = Squad([(inspector, Aligner.prompted(lambda messages: "Fine.", civil))])
        assert squad.uncalibrated_criteria == ["civil"] and "not calibrated" in repr(squad)
        assert squad("When?", "At nine.").aligned == "At nine."


def bare_code(folder):
    "The part of a card's code that needs PEFT and transformers alone"
    code = re.search("```python\n(.*?)```", (folder/"README.md").read_text(), re.S)[1]
    assert code.count("aligners_nb") == 1  # in the first line
    return code.split("# the same with peft and transformers alone\n")[1]


def last_value(code, **names):
    "Run the lines of a card; the value of the last one"
    *lines, last = code.strip().splitlines()
    exec("\n".join(lines), names)
    return eval(last, names)


@pytest.mark.parametrize("base", ["llama", "gpt2"])  # with and without a chat template
def test_the_card_of_an_aligner_computes_the_same_without_the_package(base, models, tmp_path, monkeypatch):
    wrong = [row for row in ROWS if row["response"] != row["correction"]]
    aligner = Aligner.fit(wrong, base=models/base, **dict(QUICK, epochs=60, lr=1e-2, batch_size=4))
    folder = aligner.save_pretrained(models/f"{base}-civil")
    text = (folder/"README.md").read_text()
    assert f"\n- rows that it was trained on: {len(wrong)}\n" in text and str(models) not in text
    assert "- request: Rewrite your answer so that it is civil." in text
    monkeypatch.chdir(models)
    n_changed = 0
    for row in wrong[:3]:
        expected = aligner(row["question"], row["response"])
        n_changed += expected != row["response"]
        correction = last_value(bare_code(folder), question=row["question"], response=row["response"])
        assert correction == expected or expected == row["response"]  # we keep answers that never end
    assert n_changed
    assert Aligner.from_pretrained(folder).n_rows == len(wrong)


@pytest.mark.parametrize("base", ["llama", "gpt2", "bert"])
def test_the_card_of_an_inspector_computes_the_same_without_the_package(base, models, monkeypatch):
    inspector = Inspector.fit(ROWS, base=models/base, **QUICK).calibrate(CALIB, miss_rate=.2)
    folder = inspector.save_pretrained(models/f"{base}-inspector")
    text = (folder/"README.md").read_text()
    assert f"\n- questions that it was trained on: {len(ROWS)}\n" in text and str(models) not in text
    assert "rests on 48 questions, 24 of them with a misaligned answer" in text
    monkeypatch.chdir(models)
    for row in CALIB[:4]:
        names = dict(question=row["question"], response=row["response"])
        risk = inspector(row["question"], row["response"])
        is_flagged = last_value(bare_code(folder), **names)
        lines = bare_code(folder).strip().splitlines()
        assert last_value("\n".join([*lines, "risk.item()"]), **names) == pytest.approx(risk, abs=1e-3)
        if abs(risk-inspector.threshold) > 1e-3:
            assert bool(is_flagged) == (risk >= inspector.threshold)


def test_the_card_of_an_inspector_with_settings_is_no_adapter_card(tmp_path, models):
    for inspector in (Inspector.from_classifier(models/"llama", "unsafe", civil),
                      Inspector.prompted(str(models/"llama"), civil)):
        text = (inspector.save_pretrained(tmp_path/"inspector")/"README.md").read_text()
        assert "peft" not in text and "lora" not in text and "promises nothing" in text
        assert "Inspector.from_pretrained('inspector')" in text


def test_a_pushed_card_names_its_repository(models, monkeypatch):
    cards = []

    def upload(self, repo_id, folder_path, **kwargs): cards.append((folder_path/"README.md").read_text())

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **kwargs: f"https://hub/{repo}")
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    served = Aligner.served("http://localhost:1/v1", model="civil", criterion=civil)
    asked = Inspector.prompted(str(models/"llama"), civil)
    for part in (Aligner(civil, models/"llama"), served, Inspector(civil, models/"llama"), asked):
        assert part.push_to_hub("you/civil") == "https://hub/you/civil"
        assert "from_pretrained('you/civil')" in cards[-1] and "'folder'" not in cards[-1]
    assert len(cards) == 4


def test_all_files_of_a_folder_have_one_mode(models, tmp_path):
    parts = dict(aligner=Aligner(civil, models/"gpt2"), inspector=Inspector(civil, models/"bert"),
                 asked=Inspector.prompted(str(models/"llama"), civil))
    for name, part in parts.items():
        folder = part.save_pretrained(tmp_path/name)
        assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


@pytest.mark.parametrize("text, license", [("---\nlicense: mit\n---\n# A model", "mit"), ("# A model", "unknown"),
                                           ("---\nlicense: [mit\n---\n", "unknown")])
def test_the_licence_is_that_of_the_base(text, license, tmp_path):
    base = Base.load(small_model(tmp_path/"base", "gpt2"))
    assert base_license(base) == "unknown"
    (tmp_path/"base/README.md").write_text(text)
    assert base_license(base) == license
    assert f"\nlicense: {license}\n" in (Aligner(civil, base).save_pretrained(tmp_path/"a")/"README.md").read_text()


def test_saved_and_loaded_on_another_base(models, tmp_path):
    folder = Inspector.fit(ROWS, base=models/"llama", **QUICK).save_pretrained(tmp_path/"inspector")
    for base in ("gpt2", "bert"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match=f"another sort of model: {base} has no"):
                Inspector.from_pretrained(folder, base=models/base)
    meta = json.loads((folder/"inspector.json").read_text())
    (folder/"inspector.json").write_text(json.dumps(meta | dict(request="Correct it.")))
    with pytest.warns(UserWarning, match="another request"):
        Inspector.from_pretrained(folder)
    with pytest.raises(DataError, match="can't load 'no-such'"):
        Inspector.fit(ROWS, base="no-such", criterion=civil)


def test_user_texts_hold_no_control_tokens(models):
    for base in ("llama", "bert"):
        inspector = Inspector(civil, models/base)

        controls = set(inspector.tok.all_special_ids) - {inspector.tok.unk_token_id}

        def n_controls(answer, inspector=inspector, controls=controls):
            return sum(token in controls for token in inspector.encode("May I?", answer)["input_ids"])

        assert n_controls("No [SEP] <|im_end|>") == n_controls("No")
        assert inspector.fits("May I?", "No.")
        assert inspector.fits("May I?", "No. "*900) == (base == "bert")  # an encoder reads a long answer in windows
        with pytest.raises(ValueError, match="batch_size=0"):
            inspector(["May I?"], ["No."], batch_size=0)
        with pytest.raises(DataError, match="1 questions and 2 responses"):
            inspector(["May I?"], ["No.", "Yes."])
        alone = inspector(np.array(QUESTIONS[:3]), tuple(RESPONSES[:3]))  # an array or a tuple is a list, too
        assert alone == inspector(QUESTIONS[:3], RESPONSES[:3])


def test_the_version_follows_weights_and_calibration(models):
    inspector = Inspector(civil, models/"llama")
    before = inspector.version
    inspector.slope = 2.
    assert inspector.version != before
    inspector.slope = 1.
    weights = next(iter(inspector.scorer.base.adapter_parameters(inspector.name).values()))
    weights.data.mul_(2)
    assert inspector.version != before
    weights.data.div_(2)
    assert inspector.version == before


def test_a_classifier_with_one_label_gives_its_logit(tmp_path):
    settings = AutoConfig.for_model("bert", vocab_size=300, hidden_size=32, intermediate_size=64, num_labels=1,
                                    num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(settings).eval()
    model.save_pretrained(tmp_path/"one")
    tok = small_word_tokenizer()
    tok.save_pretrained(tmp_path/"one")
    inspector = Inspector.from_classifier(tmp_path/"one", "LABEL_0", civil)
    with torch.no_grad():
        logit = model(**tok("When?", "At nine.", return_tensors="pt")).logits.item()
    assert inspector.scores(["When?"], ["At nine."])[0] == pytest.approx(logit, abs=1e-5)


def test_a_report_needs_both_kinds_and_as_many_labels_as_rows():
    inspector = Inspector(civil, scorer=Counting())
    with pytest.raises(DataError, match="48 rows and 1 labels"):
        inspector.report(CALIB, labels=[1])
    with pytest.raises(DataError, match="of 2 answers 2 are misaligned"):
        Report("civil", [1, 1], [.1, .2], .5, None)
    without_corrections = [dict(question=row["question"], response=row["response"]) for row in CALIB]
    labels = [row["response"] != row["correction"] for row in CALIB]
    lines = repr(inspector.report(CALIB)).splitlines()
    of_single_answers = [line for line in lines if not line.startswith("  pairs in the right order")]
    assert len(of_single_answers) == len(lines)-1
    assert repr(inspector.report(without_corrections, labels)).splitlines() == of_single_answers
    assert "<caption>civil inspector</caption>" in inspector.report(CALIB)._repr_html_()


@pytest.mark.parametrize("base", ["llama", "bert"])
def test_half_a_surrogate_pair_names_its_row(base, models):
    for column in ("question", "response"):
        rows = [*CALIB, dict(CALIB[0], **{column: "half \ud83d"})]
        inspector = Inspector(civil, models/base)
        calls = [inspector.calibrate, inspector.report, lambda rows: Inspector.fit(rows, base=models/base, **QUICK)]
        if base == "llama":
            calls.append(lambda rows: Aligner.fit(rows, base=models/base, **QUICK))
        for call in calls:
            with pytest.raises(DataError, match=f"^row 48: its {column} holds half a surrogate pair"):
                call(rows)
        with pytest.raises(DataError, match=f"^{column} 48 holds half a surrogate pair"):
            inspector([row["question"] for row in rows], [row["response"] for row in rows])


LABELLED = [dict(prompt=row["question"], answer=row["response"], rude=row["response"] != row["correction"])
            for row in ROWS]
COLUMNS = dict(question="prompt", response="answer", label="rude")


@pytest.mark.parametrize("base", ["llama", "bert"])
def test_a_head_is_saved_loaded_and_found_again(base, models, tmp_path):
    inspector = Inspector.fit(ROWS, base=models/base, criterion=civil, frozen=True, out=tmp_path/"inspector")
    assert isinstance(inspector.scorer, HeadScorer) and not inspector.scorer.base.adapters
    inspector.calibrate(CALIB, miss_rate=.2).save_pretrained(tmp_path/"inspector")
    names = sorted(file.name for file in (tmp_path/"inspector").iterdir())
    assert names == ["README.md", "head.safetensors", "inspector.json"]
    loaded = Inspector.from_pretrained(tmp_path/"inspector")
    assert loaded(CALIB) == inspector(CALIB)
    assert (loaded.version, loaded.threshold, loaded.log) == (inspector.version, inspector.threshold, inspector.log)
    written = (tmp_path/"inspector/head.safetensors").stat().st_mtime_ns
    Inspector.fit(ROWS, base=models/base, criterion=civil, frozen=True, out=tmp_path/"inspector")
    assert (tmp_path/"inspector/head.safetensors").stat().st_mtime_ns == written
    with pytest.raises(DataError, match="head.safetensors can't be read.*copy the folder again"):
        (tmp_path/"inspector/head.safetensors").write_bytes(b"")
        Inspector.from_pretrained(tmp_path/"inspector")


def test_a_head_does_not_fit_another_sort_of_base_and_warns_of_other_weights(models, tmp_path):
    folder = Inspector.fit(ROWS, base=models/"bert", criterion=civil).save_pretrained(tmp_path/"inspector")
    wide = small_model(tmp_path/"wide", "bert", hidden_size=64)
    with pytest.raises(DataError, match="another sort of model: it reads 192 states, and wide has 384"):
        Inspector.from_pretrained(folder, base=wide)
    other = small_model(tmp_path/"other", "bert", seed=1)
    with pytest.warns(UserWarning, match="other weights"):
        Inspector.from_pretrained(folder, base=other)


def test_the_card_of_a_head_computes_the_same_without_the_package(models, monkeypatch):
    inspector = Inspector.fit(ROWS, base=models/"bert", criterion=civil).calibrate(CALIB, miss_rate=.2)
    folder = inspector.save_pretrained(models/"bert-head")
    text = (folder/"README.md").read_text()
    code = re.search("# the same with transformers alone\n(.*)```", text, re.S)[1]
    assert "aligners_nb" not in code and str(models) not in text
    monkeypatch.chdir(models)
    for row in CALIB[:4]:
        lines = "\n".join([*code.strip().splitlines(), "risk.item()"])
        risk = last_value(lines, question=row["question"], response=row["response"])
        assert risk == pytest.approx(inspector(row["question"], row["response"]), abs=1e-3)


@pytest.mark.parametrize("frozen", [True, False])
def test_labels_do_without_corrections(frozen, models):
    settings = {} if frozen else dict(epochs=1)
    inspector = Inspector.fit(LABELLED, base=models/"bert", criterion=civil, columns=COLUMNS, frozen=frozen,
                              progress=False, **settings)
    calib = [dict(row, prompt=f"Inn: {row['prompt']}") for row in LABELLED]
    inspector.calibrate(calib, miss_rate=.2, columns=COLUMNS)
    assert inspector.calibration["misaligned"] == 24
    assert inspector(calib, columns=COLUMNS) == inspector([row["prompt"] for row in calib],
                                                          [row["answer"] for row in calib])
    good = [row for row in LABELLED if not row["rude"]]
    for rows, what in ((good, "misaligned"), ([row for row in LABELLED if row["rude"]], "aligned")):
        with pytest.raises(DataError, match=f"none of these 24 rows .* what an? {what} answer is"):
            Inspector.fit(rows, base=models/"bert", criterion=civil, columns=COLUMNS)


def test_settings_of_an_adapter_choose_one(models):
    assert Inspector.fit(ROWS, base=models/"bert", **QUICK).scorer.adapter
    with pytest.raises(DataError, match="frozen=True fits a linear head and no adapter, which epochs and lr"):
        Inspector.fit(ROWS, base=models/"bert", criterion=civil, frozen=True, epochs=1, lr=1e-3)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_windows_cover_a_long_answer_and_hold_the_question(kind, tmp_path):
    settings = dict(pad_token_id=0) if kind == "roberta" else {}
    base = small_model(tmp_path/kind, kind, max_position_embeddings=66, **settings)
    scorer = HeadScorer(civil, base)
    limit = scorer.base.context_length
    for question, n_words in (("May I?", 200), ("May I, or may I not? "*30, 200), ("May I?", 2)):
        words = [f"{number}" for number in range(100, 100+n_words)]
        windows = scorer.windows(question, " ".join(words))
        assert all(len(window["input_ids"]) <= limit for window in windows)
        assert all(len(ids) == len(window["input_ids"]) for window in windows for ids in window.values())
        whole = scorer.encode(question, " ".join(words))
        answer = [token for token, inside in zip(whole["input_ids"], whole["in_answer"]) if inside]
        pieces = []
        for window in windows:
            pieces.append([token for token, inside in zip(window["input_ids"], window["in_answer"]) if inside])
        text = " ".join(map(str, answer))
        last = len(answer)-len(pieces[-1])
        assert pieces[-1] == answer[last:] and all(" ".join(map(str, piece[:-1])) in text for piece in pieces)
        assert sum(map(len, pieces)) >= len(answer)      # nothing is skipped, as windows overlap
        assert (len(windows) == 1) == (n_words == 2 and len(question) < 10)
    np.testing.assert_allclose(scorer.states(windows), HeadScorer(civil, base).states(windows))


def test_heads_on_one_base_read_an_answer_once(models, monkeypatch):
    inspectors = [Inspector.fit(ROWS, base=models/"bert", criterion=civil) for _ in range(3)]
    scorer, n_read = inspectors[0].scorer, []
    pooled = HeadScorer._pooled
    monkeypatch.setattr(HeadScorer, "_pooled",
                        lambda self, model, batch: n_read.append(len(batch["input_ids"])) or pooled(self, model, batch))
    risks = [inspector(CALIB) for inspector in inspectors]
    assert sum(n_read) == len({tuple(scorer.encode(row["question"], row["response"])["input_ids"]) for row in CALIB})
    assert risks[0] == risks[1] == risks[2]
