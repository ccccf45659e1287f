"Answers, corrections and labels of one's own come in as they are, or meet an error that shows the line to type"
import gzip
import json
import re
import warnings
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from aligners_nb.aligner import Aligner
from aligners_nb.base import small_model
from aligners_nb.checks import check_texts
from aligners_nb.criterion import COLUMNS, Criterion, DataError, criteria, criterion_of
from aligners_nb.curation import curate
from aligners_nb.evaluation import evaluate
from aligners_nb.inspector import Inspector
from aligners_nb.llm import Replay
from aligners_nb.local import as_llm
from aligners_nb.prompts import critique_request
from aligners_nb.rows import LABELLED, as_dicts, check_rows, fill_rows, labelled_rows, read_texts, rename_columns
from aligners_nb.rows import row_id, rows_and_criterion
from aligners_nb.squad import Squad
from aligners_nb.synthesis import correct, drafts, synthesize
from server import scripted

brief = Criterion("brief", ["Say only what was asked."])
PLACES = "library mill inn school bakery theatre garden harbour chapel market stable workshop".split()
PAIRS = [dict(question=f"When does the {place} open?", response=f"Great question! The {place} opens at {hour}, hm.",
              correction=f"The {place} opens at {hour}.") for hour, place in enumerate(PLACES, 6)]
TEXTS = [dict(question=row["question"], response=row["response"]) for row in PAIRS]
LABELS = []
for pair in PAIRS:
    LABELS.append(dict(question=pair["question"], response=pair["response"], label=1))
    LABELS.append(dict(question=pair["question"], response=pair["correction"], label=0))
FOREIGN = dict(question="prompt", response="output", correction="fixed")
MAPPING = 'columns=dict(question="prompt", response="output"'


def renamed(rows): return [{FOREIGN.get(name, name): value for name, value in row.items()} for row in rows]


def forms(rows, folder):
    "`rows` in every form that people have"
    lines = "".join(json.dumps(row)+"\n" for row in rows)
    (folder/"mine.jsonl").write_text(lines)
    (folder/"mine.json").write_text(json.dumps(rows))
    frame = pd.DataFrame(rows)
    frame.to_csv(folder/"mine.csv", index=False)
    frame.to_csv(folder/"mine.tsv", index=False, sep="\t")
    frame.to_parquet(folder/"mine.parquet")
    files = sorted(folder.glob("mine.*"))
    for file in files: (folder/f"packed-{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    files += folder.glob("packed-*.gz")
    dataset = Dataset.from_list(rows)
    streamed = IterableDataset.from_generator(lambda: iter(rows))
    return [rows, iter(rows), frame, dataset, dataset.to_iterable_dataset(), streamed, *files, str(files[0])]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models")/"gpt2", "gpt2", max_position_embeddings=512)


@pytest.fixture(scope="module")
def squad(base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # it is not calibrated
        return Squad([(Inspector(brief, base), Aligner(brief, base))])


def test_every_form_is_read_under_any_names(tmp_path):
    for form in forms(renamed(PAIRS), tmp_path): assert check_rows(form, columns=FOREIGN) == PAIRS
    for form in forms(LABELS, tmp_path): assert labelled_rows(form, brief) == LABELS
    for form in forms(renamed(TEXTS), tmp_path):
        assert read_texts(form, FOREIGN|dict(correction="prompt")) == read_texts(TEXTS)


@pytest.mark.parametrize("names, line", [
    (dict(question="prompt", response="output", correction="fixed"), 'question="prompt", response="output", corr'),
    (dict(question="instruction", response="completion", correction="revision"), 'response="completion"'),
    (dict(question="prompt", response="rejected", correction="chosen"), 'response="rejected", correction="chosen"'),
    (dict(question="User Query", response="model-answer", correction="Target"),
     'question="User Query", response="model-answer", correction="Target"'),
    (dict(question="Frage", response="answer"), 'dict(question="…", response="answer"), with the name of your column'),
    (dict(question="x", response="y"), 'dict(question="x", response="y")')])
def test_a_column_under_another_name_meets_the_mapping_to_type(names, line):
    rows = [{names.get(name, name): value for name, value in row.items()} for row in PAIRS]
    with pytest.raises(DataError, match="row 0 has no question, only .*: type columns=") as error: check_rows(rows)
    assert line in str(error.value)
    if "…" not in line:
        typed = eval(re.search(r"dict\(.*?\)", str(error.value))[0])   # what it says is what works
        assert check_rows(rows, columns=typed) == PAIRS


@pytest.mark.parametrize("columns, error, why", [
    (dict(question="promt"), DataError, "question is called 'promt', and no row has that: the rows have prompt, out"),
    (dict(prompt="question"), DataError, r'none of ours.*columns=dict\(question="prompt"\)'),
    (dict(answer="output"), DataError, "'answer' is none of ours: they are id, criterion"),
    (dict(question=["prompt"]), DataError, "no row has that"), (["prompt"], TypeError, "maps our names to yours"),
    ("prompt", TypeError, r"columns=dict\(question=.prompt., response=.output.\); got 'prompt'")])
def test_a_mapping_that_can_not_be(columns, error, why):
    for take in (as_dicts, check_rows, labelled_rows, read_texts, lambda rows, columns: curate(rows, columns=columns)):
        with pytest.raises(error, match=why): take(renamed(PAIRS), columns=columns)


def test_a_mapping_moves_columns_and_leaves_the_others():
    row = dict(question="old", prompt="When?", response="bad", correction="good", note=7)
    swapped = dict(question="prompt", response="correction", correction="response")
    assert rename_columns([row], swapped) == [dict(question="When?", response="good", correction="bad", note=7)]
    assert rename_columns([row, {}], dict(question="prompt"))[1] == {} and rename_columns([], dict(question="a")) == []
    frame = pd.DataFrame([["When?", "At nine."]])            # without a header its columns are numbers
    assert read_texts(frame, dict(question=0, response=1)) == (["When?"], ["At nine."])
    with pytest.raises(DataError, match="row 0 has no question, only 0, 1: type columns="): read_texts(frame)


def test_messages_in_a_frame_of_parquet(tmp_path):
    messages = [dict(role="user", content="When?")]
    Dataset.from_list([dict(question=messages, response="At nine.")]).to_parquet(tmp_path/"chat.parquet")
    frame = pd.read_parquet(tmp_path/"chat.parquet")
    assert isinstance(frame["question"][0], np.ndarray)
    assert check_rows(frame, ("question", "response")) == [dict(question=messages, response="At nine.")]


@pytest.mark.parametrize("question", ["", " ", None, float("nan"), [], [dict(role="user", content=" ")]])
def test_a_question_is_not_empty(question, squad):
    row = dict(question=question, response="At nine.", correction="At nine.")
    for take in (check_rows, lambda rows: labelled_rows(rows), lambda rows: evaluate(squad, rows, judge)):
        with pytest.raises(DataError, match="row 1.*question"): take([PAIRS[0], row])
    alignment = squad([TEXTS[0], row])[1]
    assert "question" in alignment.error and alignment.aligned == "At nine."
    with pytest.raises(DataError, match="the row.*question"): squad(row)


def judge(question, answer): return dict(brief=not answer.startswith("Great"))


SPELLINGS = [(1, 1), (True, 1), (1., 1), ("1", 1), ("1.0", 1), ("True", 1), ("misaligned", 1), ("Misaligned ", 1),
             (np.int64(1), 1), (np.bool_(True), 1), (0, 0), (False, 0), ("0", 0), ("false", 0), ("aligned", 0)]


@pytest.mark.parametrize("label, expected", SPELLINGS)
def test_labels_in_any_spelling(label, expected):
    [row] = labelled_rows([dict(TEXTS[0], label=label)])
    assert row["label"] == expected and type(row["label"]) is int


@pytest.mark.parametrize("changes, why", [
    (dict(label="bad"), "row 1 has label='bad': it must be 1, True or \"misaligned\""), (dict(label=2), "label=2"),
    (dict(label=[1]), "it must be 1"), (dict(label=.5), "label=0.5"),
    (dict(label=None), "row 1 has label=None: drop the rows without"), (dict(label=""), "label='': drop"),
    (dict(label=float("nan")), "label=nan: drop"), (dict(label=None, correction=""), "label=None: drop"),
    (dict(correction=5), "row 1 has correction=5"),
    (dict(label=1, correction=TEXTS[0]["response"]), "one of them is wrong"),
    (dict(), "row 1 has no label, only question, response: rows need question, response and label. A label is 1"),
    (dict(toxic=1), r'type columns=dict\(label="toxic"\)'),
    (dict(chosen="."), r'type columns=dict\(correction="chosen"\)'),
    (dict(verdikt=1), r'type columns=dict\(label="…"\), with the name')])
def test_what_is_no_label(changes, why):
    with pytest.raises(DataError, match=why): labelled_rows([LABELS[0], dict(TEXTS[0], **changes)])


def test_labels_and_corrections_mix():
    good = dict(question="Why?", response="For the sun.", correction="For the sun.")
    rows = [LABELS[0], LABELS[1], PAIRS[0], good, dict(PAIRS[1], label=0)]
    frame = pd.DataFrame(rows)                               # a data set takes its columns from the first row
    for form in (rows, frame, Dataset.from_pandas(frame)):
        labelled = labelled_rows(form)
        assert [row["label"] for row in labelled] == [1, 0, 1, 0, 0]
        assert [row.get("correction") for row in labelled[1:3]] == [None, PAIRS[0]["correction"]]
        assert all("correction" in row for row in labelled[2:]) and "correction" not in labelled[0]
    assert rows_and_criterion(rows, brief, needed=LABELLED) == (brief, labelled)
    with pytest.raises(DataError, match="rows are about 'polite'"):
        labelled_rows([dict(LABELS[0], criterion="polite")], brief)


def test_the_names_of_classes_count_and_not_their_numbers():
    names = ClassLabel(names=["misaligned", "aligned"])
    features = Features(question=Value("string"), response=Value("string"), label=names)
    dataset = Dataset.from_list([dict(LABELS[0], label=0), dict(LABELS[1], label=1)], features=features)
    for form in (dataset, dataset.to_iterable_dataset()):
        assert [row["label"] for row in labelled_rows(form)] == [1, 0]
        assert curate(form, criterion=brief).rows["label"][:] == [1, 0]
    other = dataset.cast_column("label", ClassLabel(names=["rude", "polite"]))
    with pytest.raises(DataError, match="row 0 has label='rude'"): labelled_rows(other)


def test_what_rows_lack_is_filled_in():
    mine = dict(PAIRS[2], id=7, topic="t", note="mine")
    rows = [*PAIRS[:2], dict(PAIRS[0], response="Hm."), PAIRS[0], PAIRS[0], mine]
    filled = fill_rows(rows, brief)
    ids = [row["id"] for row in filled]
    assert len(set(ids)) == 6 and ids[0] == row_id(brief, PAIRS[0]["question"]) and ids[5] == "7"
    assert ids[:3] == [row["id"] for row in fill_rows(rows[:3], brief)]      # later rows change no id
    assert filled[5] == dict(mine, id="7", criterion="brief", question_type="", critique="")
    assert fill_rows(filled, brief) == filled and list(filled[0])[:6] == [*COLUMNS[:5], "critique"]
    with pytest.raises(DataError, match="rows are about 'brief'"): fill_rows(filled, criteria.ethical)


def test_curate_takes_pairs_of_ones_own(tmp_path):
    for form in forms(renamed(PAIRS), tmp_path)[1::3]:
        curated = curate(form, criterion=brief, columns=FOREIGN)
        assert curated.funnel.made == len(curated) == len(PAIRS) and curated.rows.column_names == COLUMNS
        parts = curated.split((.5, .25, .25))
        assert sum(map(len, parts)) == len(PAIRS) and all(criterion_of(part) == brief for part in parts)
        assert rows_and_criterion(parts[0])[0] == brief
    with pytest.raises(DataError, match="row 0 has no question, only prompt, output, fixed: type "+re.escape(MAPPING)):
        curate(tmp_path/"mine.csv", criterion=brief)
    with pytest.raises(DataError, match="pass criterion="): curate(PAIRS)
    assert curate(curate(PAIRS, criterion=brief).rows).rows.to_list() == curate(PAIRS, criterion=brief).rows.to_list()


def test_curate_takes_labels_of_ones_own(tmp_path):
    for form in forms(LABELS, tmp_path)[::3]:
        curated = curate(form, criterion=brief)
        assert len(curated) == curated.funnel.uncorrected == len(LABELS) and not curated.funnel.drops
        train, calib, test = curated.split((.5, .25, .25))
        assert labelled_rows(train, brief)[0]["label"] in (0, 1) and not set(train["question"]) & set(test["question"])
    saved = curated.save(tmp_path/"curated")
    files = list((saved/"data").glob("train-*.parquet"))
    assert {row["label"] for row in labelled_rows(files[0])} == {0, 1}
    assert "with a label" in (saved/"README.md").read_text()
    assert "24 with a label and no correction" in repr(curated) and curated.funnel.to_dict()["uncorrected"] == 24
    with pytest.raises(DataError, match="row 0 has no correction, only"): check_rows(train)
    with pytest.raises(DataError, match="row 0 has no correction.*an inspector learns from rows with a label, too"):
        curate(TEXTS, criterion=brief)


def test_filters_of_corrections_skip_labelled_rows():
    def shouts(row): return row["correction"].isupper()
    def asks(row): return row["response"].endswith("?") or row["correction"].endswith("?")

    rows = [*LABELS[:2], dict(LABELS[2], response="How would I know?"), dict(PAIRS[5], correction="AT NINE.")]
    curated = curate(rows, filters=[shouts, asks], criterion=brief)
    assert curated.funnel.drops == dict(shouts=1, asks=1) and len(curated) == 2
    assert curated.drop_reasons["response"][0] == "How would I know?" and curated.funnel.uncorrected == 3
    assert curate([*LABELS, *PAIRS], criterion=brief).funnel.drops == dict(duplicate=len(PAIRS))


def test_a_judge_sees_labels():
    rows = [*LABELS[:4], dict(LABELS[4], label=0), dict(LABELS[7], label=1), PAIRS[10]]
    curated = curate(rows, judge=judge, criterion=brief)
    assert curated.funnel.drops == dict(mislabelled=2) and len(curated) == 5
    assert set(curated.drop_reasons["label"]) == {0, 1}


def test_only_the_same_answer_to_a_question_of_ones_own_is_a_duplicate():
    rows = [LABELS[0], LABELS[1], dict(LABELS[0], response=LABELS[0]["response"].upper()), PAIRS[1],
            dict(PAIRS[1], response="No idea. The mill opens at 7.")]
    assert curate(rows, criterion=brief).funnel.drops == dict(duplicate=1)


def test_squads_take_rows(squad, tmp_path):
    expected = [alignment.to_dict() for alignment in squad(*read_texts(TEXTS))]
    for form in forms(renamed(TEXTS), tmp_path):
        aligned = squad(form, columns=dict(question="prompt", response="output"))
        assert [alignment.to_dict() for alignment in aligned] == expected
    one = squad(TEXTS[3])
    assert one.to_dict() == expected[3] == squad(TEXTS[3]["question"], TEXTS[3]["response"]).to_dict()
    named = squad(dict(prompt="When?", answer="At nine."), columns=dict(question="prompt", response="answer"))
    assert named.response == "At nine."
    gaps = squad([TEXTS[0], dict(TEXTS[1], response=None), dict(question="When?")])
    assert [bool(alignment.error) for alignment in gaps] == [False, True, True] and squad([]) == []
    assert squad(TEXTS, policy="always")[0].response == TEXTS[0]["response"]


@pytest.mark.parametrize("given, error, why", [
    ("When?", TypeError, "give a question and its response, or rows with both; got only 'When"),
    (["When?"], TypeError, "give a question and its response"), (7, TypeError, "got int"),
    ([dict(role="user", content="When?")], TypeError, "give a question and its response"),
    ("mine.csv", DataError, "there is no file mine.csv"), (renamed(TEXTS), DataError, "type "+re.escape(MAPPING)),
    (dict(prompt="When?", output="At nine."), DataError, "the row has no question, only prompt, output: type columns="),
    (dict(question="When?"), DataError, "the row has no response, only question"),
    (dict(train=Dataset.from_list(TEXTS)), DataError, "the row has no question")])
def test_what_a_squad_can_not_take(given, error, why, squad):
    with pytest.raises(error, match=why): squad(given)


def test_evaluations_take_rows(squad, tmp_path):
    expected = evaluate(squad, TEXTS[:3], judge)
    for form in (renamed(TEXTS[:3]), pd.DataFrame(renamed(TEXTS[:3]))):
        found = evaluate(squad, form, judge, columns=dict(question="prompt", response="output"))
        assert found.texts == expected.texts and found.met == expected.met
    with pytest.raises(DataError, match="row 0 has no question, only prompt, output: type "+re.escape(MAPPING)):
        evaluate(squad, renamed(TEXTS), judge)


def test_questions_are_checked_beside_their_answers():
    for question in ("", " ", [dict(role="user", content="")]):
        with pytest.raises(DataError, match="question 1 is empty"): check_texts(["When?", question], ["At nine."]*2)


@pytest.mark.parametrize("name, line", [
    ("gpt-4o", "Endpoint('https://api.openai.com/v1', model='gpt-4o', key_env='OPENAI_API_KEY')"),
    ("gpt-4o-mini", "model='gpt-4o-mini'"), ("o3-mini", "api.openai.com"), ("chatgpt-4o-latest", "api.openai.com"),
    ("gpt-3.5-turbo", "api.openai.com"), ("gpt-5", "api.openai.com"), ("GPT-4o", "model='GPT-4o'"),
    ("claude-opus-4", "Endpoint('https://api.anthropic.com/v1', model='claude-opus-4', key_env='ANTHROPIC_API_KEY')"),
    ("gemini-2.5-pro", "generativelanguage"),
    ("openai/gpt-4o", "Endpoint('https://openrouter.ai/api/v1', model='openai/gpt-4o'"),
    ("anthropic/claude-opus-4", "openrouter"), ("llama3", "Endpoint('http://localhost:8000/v1', model='llama3')"),
    ("llama3:8b", "model='llama3:8b'"), ("my-model", "has an owner, as in 'Qwen/Qwen3-0.6B'")])
def test_the_name_of_an_api_s_model_shows_the_line_to_type(name, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aligners_nb.local.LocalLLM", lambda name: pytest.fail("looked for on the Hub"))
    with pytest.raises(DataError, match=re.escape(line)): as_llm(name)


def test_other_names_are_looked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aligners_nb.local.LocalLLM", lambda name: f"loads {name}")
    (tmp_path/"gpt-4o").mkdir()
    (tmp_path/"tiny.gguf").write_bytes(b"")
    for name in ("town", "gpt2", "distilgpt2", "gpt2-medium", "openai-gpt", "bert-base-uncased", "gpt-4o", "tiny.gguf",
                 "openai/gpt-oss-20b", "mistralai/Mistral-Small-24B-Instruct", "google/gemma-3-1b-it", "~/nowhere"):
        assert as_llm(name) == f"loads {name}"
    monkeypatch.setattr("aligners_nb.local.try_to_load_from_cache", lambda name, file: "config.json")
    assert as_llm("loaded-before") == "loads loaded-before"


def test_a_plain_function_is_an_llm():
    llm = as_llm(lambda messages: messages[-1]["content"].upper())
    assert llm.chat(["When?", [dict(role="user", content="Where?")]]) == ["WHEN?", "WHERE?"]
    assert llm.chat("Why?") == "WHY?"
    assert Aligner.prompted(lambda messages: "At nine.", brief)("When?", "At nine, I think.") == "At nine."


def test_a_frame_is_rows_for_an_aligner(base):
    fitted = Aligner.fit(pd.DataFrame(PAIRS), base=base, criterion=brief, epochs=.1, progress=False)
    assert fitted.n_rows == len(PAIRS) and fitted.criterion == brief
    train = curate(renamed(PAIRS), criterion=brief, columns=FOREIGN).split()[0]
    assert Aligner.fit(train, base, epochs=.1, progress=False).criterion == brief


def test_a_criterion_in_the_place_of_the_base_is_said(base):
    for fit in (Aligner.fit, Inspector.fit):
        with pytest.raises((TypeError, DataError), match="criterion="): fit(PAIRS, brief)


def test_questions_at_hand_get_drafts(tmp_path):
    questions = [row["question"] for row in PAIRS]
    llm = Replay(scripted, "scribe")
    for given in (questions, TEXTS, pd.DataFrame(TEXTS), Dataset.from_list(TEXTS)):
        made = synthesize(brief, llm, questions=given, progress=False)
        assert set(made["question"]) <= set(questions) and len(made) > 6 and criterion_of(made) == brief
    foreign = dict(questions=renamed(TEXTS), out=tmp_path/"run", progress=False)
    with pytest.raises(DataError, match=r'has no question, only prompt, output: type columns=dict.question="prompt"'):
        synthesize(brief, llm, **foreign)
    made = synthesize(brief, llm, columns=dict(question="prompt"), **foreign)
    for rows in (made, tmp_path/"run"):
        curated = curate(rows, filters=(), criterion=brief)
        assert len(curated) == len(made) and sum(map(len, curated.split())) == len(made)
    assert [row["question"] for row in drafts(brief, llm, TEXTS[:2])] == questions[:2]


def test_answers_at_hand_get_corrections(tmp_path):
    def scribe(messages):
        return "It says too much." if messages[-1]["content"] == critique_request(brief) else "At nine."

    for form in (renamed(TEXTS), pd.DataFrame(renamed(TEXTS))):
        corrected = correct(brief, form, scribe, columns=dict(question="prompt", response="output"), progress=False)
        assert corrected["response"][:] == [row["response"] for row in TEXTS]
        assert set(corrected["correction"]) == {"At nine."}
    curated = curate(corrected)
    assert len(curated) == len(TEXTS) and rows_and_criterion(curated.split()[0])[0] == brief


def test_aligners_take_rows(squad):
    aligner, names = squad.aligners["brief"], dict(question="prompt", response="output")
    expected = aligner(*read_texts(TEXTS[:2]))
    assert aligner(TEXTS[:2]) == aligner(pd.DataFrame(renamed(TEXTS[:2])), columns=names) == expected
    assert aligner(TEXTS[0]) == expected[0]
    with pytest.raises(DataError, match="row 0 has no question, only prompt, output: type "+re.escape(MAPPING)):
        aligner(renamed(TEXTS))


def test_inspectors_take_labels_and_rows(base):
    names = dict(question="prompt", response="output", label="verdict")
    foreign = [{names[name]: value for name, value in row.items()} for row in LABELS]
    inspector = Inspector.fit(pd.DataFrame(foreign), base, brief, epochs=1, progress=False, columns=names)
    fresh = [dict(row, question=f"Please, {row['question']}") for row in LABELS]
    inspector.calibrate(fresh, miss_rate=.5)
    assert inspector.calibration["misaligned"] == len(PAIRS) and len(inspector.report(fresh).labels) == len(LABELS)
    risks = inspector(TEXTS)
    assert risks == inspector(*read_texts(TEXTS)) and inspector(TEXTS[0]) == pytest.approx(risks[0])
    with pytest.raises(DataError, match=r'type columns=dict.question="prompt", response="output", label="verdict"'):
        Inspector.fit(foreign, base, brief)
