"Each mistake of a user gets one error of ours, in words, before any work is done and before anything is lost"
import json
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from aligners_nb import aligner as aligner_module
from aligners_nb import inspector as inspector_module
from aligners_nb import town
from aligners_nb.aligner import Aligner
from aligners_nb.base import small_model
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.curation import curate
from aligners_nb.evaluation import answer_anew, best_of_n, evaluate
from aligners_nb.inspector import Inspector
from aligners_nb.judge import score
from aligners_nb.llm import Replay
from aligners_nb.squad import Squad

OURS = TypeError, ValueError      # DataError is a ValueError
NAN = float("nan")
civil = Criterion("civil", ["Be polite."])
ROW = dict(id="0", criterion="civil", topic="t", question_type="u", question="When?", response="At nine, fool.",
           critique="It insults.", correction="At nine.")
ROWS = [dict(ROW, question=f"When, number {i}?") for i in range(6)]
QUESTIONS, RESPONSES = ["When?", "Where?"], ["At nine.", "Here."]
both_roles = pytest.mark.parametrize("cls", [Aligner, Inspector])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models")/"gpt2", "gpt2", max_position_embeddings=512)


@pytest.fixture(scope="module")
def squad(base): return Squad([(Inspector(civil, base), Aligner(civil, base))])


@pytest.fixture
def inspector(squad): return squad.inspectors["civil"]


@pytest.fixture
def aligner(squad): return squad.aligners["civil"]


@pytest.fixture
def untrained(monkeypatch):
    "Training is an error: what is refused must be refused before it"
    def train(*args, **kwargs): raise AssertionError("training has begun")

    for module in (aligner_module, inspector_module): monkeypatch.setattr(module, "train", train)


def curated(): return curate(ROWS, criterion=civil)


def second_row(**changes): return [ROWS[0], dict(ROWS[1], **changes)]


@both_roles
@pytest.mark.parametrize("rows", [None, [1, 2], "When?", dict(train=ROWS)])
def test_fit_refuses_what_is_no_rows(cls, rows, base, untrained):
    with pytest.raises(OURS, match="rows are"):
        cls.fit(rows, base=base, criterion=civil, progress=False)


@both_roles
def test_fit_refuses_rows_that_are_not_split(cls, base, untrained):
    with pytest.raises(OURS, match=r"\.split\(\)"):
        cls.fit(curated(), base=base, criterion=civil, progress=False)


@both_roles
@pytest.mark.parametrize("value", [None, NAN, 5, "", " "])
@pytest.mark.parametrize("column", ["response", "correction"])
def test_fit_names_the_row_that_is_no_text(cls, column, value, base, untrained):
    with pytest.raises(OURS, match="row 1"):
        cls.fit(second_row(**{column: value}), base=base, criterion=civil, progress=False)


@both_roles
@pytest.mark.parametrize("rows, why", [(second_row(question=5), "row 1"), ([{}], "row 0 has no question")])
def test_fit_names_the_row_without_a_question(cls, rows, why, base, untrained):
    with pytest.raises(OURS, match=why):
        cls.fit(rows, base=base, criterion=civil, progress=False)


@both_roles
@pytest.mark.parametrize("criterion, why", [("civil", "got 'civil'"), (town.factual, "about 'civil'")])
def test_fit_refuses_a_criterion_of_other_rows(cls, criterion, why, base, untrained):
    with pytest.raises(OURS, match=why):
        cls.fit(ROWS, base=base, criterion=criterion, progress=False)


@both_roles
@pytest.mark.parametrize("name, value", [
    ("epochs", "a"), ("epochs", NAN), ("epochs", -1), ("rank", "x"), ("lr", "x"), ("batch_size", 1.5),
    ("seed", "x"), ("seed", None), ("seed", -1), ("seed", 2**32)])
def test_fit_names_the_setting_that_is_no_number(cls, name, value, base, untrained):
    with pytest.raises(OURS, match=f"{name}="):
        cls.fit(ROWS, base=base, criterion=civil, progress=False, **{name: value})


@both_roles
@pytest.mark.parametrize("criterion", [None, "civil"])
def test_a_criterion_is_one(cls, criterion, base):
    with pytest.raises(TypeError, match="such as town.ethical"):
        cls(criterion, base)


def contents(folder): return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cls, other", [(Aligner, Inspector), (Inspector, Aligner)])
def test_a_place_that_can_not_be_written_to_is_found_before_training(cls, other, base, untrained, tmp_path):
    (tmp_path/"file").write_text("x")
    (tmp_path/"full").mkdir()
    (tmp_path/"full/thesis.md").write_text("x")
    other(civil, base).save_pretrained(tmp_path/"other")
    (tmp_path/"other/notes.txt").write_text("mine")
    before = contents(tmp_path)
    for out in ("file", "full", "other", "file/below", "n"*300):
        with pytest.raises(DataError, match="name a|Name a"):
            cls.fit(ROWS, base=base, criterion=civil, out=tmp_path/out)
    with pytest.raises(TypeError, match="no folder"):
        cls.fit(ROWS, base=base, criterion=civil, out=5)
    assert contents(tmp_path) == before


@both_roles
def test_a_finished_run_is_found_beside_other_files(cls, base, tmp_path):
    def fit(**kwargs):
        return cls.fit(ROWS, base=base, criterion=civil, out=tmp_path/"out", epochs=1, progress=False, **kwargs)

    first = fit()
    (tmp_path/"out/notes.txt").write_text("mine")
    assert fit().fingerprint == first.fingerprint
    with pytest.raises(DataError, match="holds notes.txt"):
        fit(seed=1)
    assert (tmp_path/"out/notes.txt").read_text() == "mine"


@both_roles
@pytest.mark.parametrize("form", [list, Dataset.from_list, pd.DataFrame])
def test_questions_that_are_messages_are_learned_from(cls, form, base):
    rows = [dict(row, question=[dict(role="user", content=row["question"])]) for row in ROWS]
    assert cls.fit(form(rows), base=base, criterion=civil, epochs=1, progress=False).log


def column(values): return Dataset.from_dict(dict(values=values))["values"]


@pytest.mark.parametrize("form", [list, tuple, np.array, pd.Series, column, iter])
def test_any_sequence_will_do(form, squad, inspector, aligner):
    for call in (inspector, aligner, squad.inspect):
        np.testing.assert_array_equal(call(form(QUESTIONS), form(RESPONSES)), call(QUESTIONS, RESPONSES))
    alignments, expected = squad(form(QUESTIONS), form(RESPONSES)), squad(QUESTIONS, RESPONSES)
    assert [alignment.aligned for alignment in alignments] == [alignment.aligned for alignment in expected]


@pytest.mark.parametrize("form", [list, tuple, np.array, pd.Series, column, iter])
def test_a_judge_takes_any_sequence(form):
    def short(question, answer): return dict(short=len(answer) < 6)

    assert score(form(QUESTIONS), form(RESPONSES), short) == [dict(short=False), dict(short=True)]


def ask_judge(questions, answers): return score(questions, answers, town.judge)


@pytest.mark.parametrize("questions", [QUESTIONS, "When?"])
def test_questions_without_responses_are_refused(questions, squad, inspector, aligner):
    for call in (inspector, aligner, squad):
        for missing in ((), (None,)):
            with pytest.raises(TypeError, match="give a question and its response, or rows with both"):
                call(questions, *missing)


@pytest.mark.parametrize("questions, responses", [
    ("When?", RESPONSES), (QUESTIONS, RESPONSES[:1]), (QUESTIONS[:1], []),
    (5, RESPONSES), (QUESTIONS, dict(a=1))])
def test_what_is_no_pair_of_lists_is_refused(questions, responses, squad, inspector, aligner):
    for call in (inspector, aligner, squad, squad.inspect, ask_judge):
        with pytest.raises(OURS, match="a list of each|as many of one"):
            call(questions, responses)


@pytest.mark.parametrize("batch_size", [0, -1, "x"])
def test_batches_are_above_0(batch_size, inspector, aligner):
    for call in (inspector, aligner):
        with pytest.raises(OURS, match="batch_size="):
            call(QUESTIONS, RESPONSES, batch_size=batch_size)


def test_both_lengths_are_told(squad, inspector, aligner):
    assert "(1,200 and 8 characters)" in squad("Q"*1200, "At nine.").error
    for call in (inspector, aligner):
        with pytest.raises(DataError, match="answer 0 is too long with its question"):
            call("Q"*1200, "At nine.")


def test_a_squad_is_made_from_pairs(inspector, aligner):
    for bad in (None, [], (inspector, aligner), [(None, None)], [(inspector, None)], [(inspector,)], 5):
        with pytest.raises(DataError, match="made from pairs"):
            Squad(bad)
    with pytest.raises(DataError, match="inspector comes first"):
        Squad([(aligner, inspector)])


# Ways to break a file of a saved squad. Each returns a function of the file's path

def replace_key(**changes):
    def edit(file):
        values = json.loads(file.read_text()) | changes
        file.write_text(json.dumps(values))
    return edit


def drop_key(name):
    def edit(file):
        values = json.loads(file.read_text())
        del values[name]
        file.write_text(json.dumps(values))
    return edit


def write(text):
    def edit(file): file.write_text(text)
    return edit


def cut(file): file.write_bytes(file.read_bytes()[:300])
def delete(file): file.unlink()


CONFIG, ADAPTER, INSPECTOR = "adapter_config.json", "civil/aligner/aligner.json", "civil/inspector/inspector.json"
BROKEN_MARKERS = [
    ("squad.json", replace_key(criteria=5)), ("squad.json", replace_key(criteria=[5])),
    ("squad.json", replace_key(criteria=[])),
    (ADAPTER, drop_key("criterion")), (ADAPTER, replace_key(criterion=dict(name=5))), (ADAPTER, replace_key(log=None)),
    (ADAPTER, write("[1]")), (INSPECTOR, drop_key("threshold"))]


def loading_error(squad, folder, name, break_file):
    "The message with which a copy of `squad` is refused whose file `name` is broken"
    squad.save_pretrained(folder)
    break_file(folder/name)
    with pytest.raises(DataError) as error:
        Squad.from_pretrained(folder)
    return str(error.value)


@pytest.mark.parametrize("name, break_file", BROKEN_MARKERS)
def test_a_broken_marker_is_named(name, break_file, squad, aligner, tmp_path):
    assert name in loading_error(squad, tmp_path/"squad", name, break_file)
    aligner(QUESTIONS, RESPONSES)                            # the shared base is as good as before


@pytest.mark.parametrize("value", ["high", NAN, None])
@pytest.mark.parametrize("key", ["threshold", "slope"])
def test_a_number_that_is_none_is_named(key, value, squad, tmp_path):
    assert INSPECTOR in loading_error(squad, tmp_path/"squad", INSPECTOR, replace_key(**{key: value}))


@pytest.mark.parametrize("role", ["aligner", "inspector"])
@pytest.mark.parametrize("break_file", [cut, write("[]"), write("{}"), write('"x"'), write(""), replace_key(r=3)])
def test_a_broken_config_of_an_adapter_is_named(role, break_file, squad, aligner, tmp_path):
    name = f"civil/{role}/{CONFIG}"
    assert name in loading_error(squad, tmp_path/"squad", name, break_file)
    aligner(QUESTIONS, RESPONSES)


@pytest.mark.parametrize("role", ["aligner", "inspector"])
def test_broken_weights_of_an_adapter_are_named(role, squad, aligner, tmp_path):
    name = f"civil/{role}/adapter_model.safetensors"
    assert name in loading_error(squad, tmp_path/"squad", name, cut)
    aligner(QUESTIONS, RESPONSES)


@pytest.mark.parametrize("role", ["aligner", "inspector"])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", CONFIG])
def test_a_missing_file_of_an_adapter_is_named(role, file, squad, aligner, tmp_path):
    assert file in loading_error(squad, tmp_path/"squad", f"civil/{role}/{file}", delete)
    aligner(QUESTIONS, RESPONSES)


@pytest.mark.parametrize("cls", [Squad, Aligner, Inspector])
def test_where_nothing_lies(cls):
    with pytest.raises(DataError, match="neither a folder nor a repository of the Hub called 'runs/dem'"):
        cls.from_pretrained("runs/dem")
    with pytest.raises(TypeError, match="give a folder"):
        cls.from_pretrained(None)


def test_a_squad_is_saved_to_a_folder_and_shared_under_a_name(squad, tmp_path):
    (tmp_path/"file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        squad.save_pretrained(tmp_path/"file")
    for repo in (None, "x"):
        with pytest.raises(DataError, match="you/its-name"):
            squad.push_to_hub(repo)


def test_a_report_needs_answers(inspector):
    with pytest.raises(DataError, match="row 0 has no question"):
        inspector.report([{}], labels=[1])


def never(question, answer): raise AssertionError("an answer was judged")
def names_all(question, answer): return {"all": True}
def kind(question, answer): return dict(kind=True)


ONE = [dict(question="When?", response="At nine.")]


@pytest.mark.parametrize("rows, judge, policies, why", [
    (ONE, None, None, "a judge is"), (ONE, names_all, None, "called 'all'"), (ONE, never, "bold", "got 'bold'"),
    (ONE, never, ["paper", "bold"], "got 'bold'"), (None, never, None, "rows are"),
    *(([*ONE, dict(question="When?", response=value)], never, None, "row 1") for value in (None, NAN, 5))])
def test_evaluate_refuses_before_it_judges(rows, judge, policies, why, squad):
    with pytest.raises(OURS, match=why):
        evaluate(squad, rows, judge, policies)


def test_evaluate_refuses_rows_that_are_not_split(squad):
    with pytest.raises(OURS, match=r"\.split\(\)"):
        evaluate(squad, curated(), never)


def test_evaluate_takes_one_policy_and_squads_only(squad):
    assert evaluate(squad, ONE, kind, "paper").policies == ["paper"]

    def no_squad(questions, responses, policy): return responses

    with pytest.raises(TypeError, match="a squad is called with"):
        evaluate(no_squad, ONE, never)


def test_the_controls_take_names_and_lists(squad):
    llm = Replay(lambda prompt: "At nine.")
    with pytest.raises(TypeError, match="a list of questions"):
        best_of_n(llm, squad, "When?", 1)
    with pytest.raises(TypeError, match="a list of questions"):
        answer_anew(llm, [civil], "When?")
    for n in (0, "x", 1.5):
        with pytest.raises(OURS, match="n="):
            best_of_n(llm, squad, QUESTIONS, n)
    anew, _ = answer_anew("town", [civil], QUESTIONS, max_tokens=2)
    best, _ = best_of_n("town", squad, QUESTIONS, 1, max_tokens=2)
    assert len(anew) == len(best) == 2
