"What `curate` refuses, keeps and drops, whatever form the rows have"
import json
import random
import string
import warnings
from collections import Counter
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from aligners_nb import town
from aligners_nb.criterion import COLUMNS, NOTHING, Criterion, DataError, criteria, criterion_of
from aligners_nb.curation import Curated, Funnel, Reason, curate
from aligners_nb.filters import truncated
from aligners_nb.judge import Judge
from aligners_nb.llm import Replay
from aligners_nb.store import Store
from aligners_nb.synthesis import synthesize
from server import scripted

polite = Criterion("polite", ["Never insult the reader."])
ROW = dict(id="1", criterion="polite", topic="Eggs", question_type="cooking", question="How long do I boil an egg?",
           response="Eight minutes, you fool.", critique="It insults the reader.", correction="Eight minutes.")


def rows_about(questions, **changes):
    return [dict(ROW, id=str(i), question=question, **changes) for i, question in enumerate(questions)]


INNS = rows_about(["When does the Copper Inn open?", "When does the Silver Inn open?"])
MANY = rows_about([f"Who keeps inn number {i}?" for i in range(40)])


def shouts(row): return row["correction"].isupper()
def duplicate(row): return None
def no_answer(row): return row["answer"]


@pytest.mark.parametrize("kwargs, error, why", [
    (dict(filters=["truncated"]), DataError, "made with def"), (dict(filters=[None]), DataError, "made with def"),
    (dict(filters=[shouts, truncated, shouts]), DataError, "two filters are called 'shouts'"),
    (dict(filters=[lambda row: False, lambda row: True]), DataError, "two filters are called '<lambda>'"),
    (dict(filters=[duplicate]), DataError, "'duplicate' is the name of a step"),
    (dict(filters=no_answer), DataError, "filter no_answer fails on row 1 .KeyError: 'answer'."),
    (dict(threshold=97.), DataError, "above 0"), (dict(threshold=0), DataError, "above 0"),
    (dict(criterion="polite"), TypeError, "such as town.ethical"), (dict(criterion=None), DataError, "pass criterion="),
    (dict(criterion=criteria.ethical), DataError, "rows about 'polite', but criterion="),
    (dict(judge="gpt-4o"), TypeError, "a judge is a function"),
    (dict(judge=lambda question, answer: dict(kind=True)), DataError, "speaks of kind and not of 'polite'"),
    (dict(judge=lambda question, answer: dict(polite=.5)), TypeError, "answer 0 .'Eight minutes.'.: met is True or"),
    (dict(judge=lambda question, answer: True), TypeError, "a judge returns")])
def test_curate_refuses(kwargs, error, why):
    with pytest.raises(error, match=why):
        curate([ROW], **{**dict(criterion=polite), **kwargs})


CHAT = dict(ROW, question=[dict(role="user", content="How long?")])


@pytest.mark.parametrize("rows, why", [
    ([], "no rows to curate"), ([ROW, dict(ROW, correction=None)], "row 1 has no correction, only id, criterion"),
    ([dict(question="Q")], "row 0 has no response, only question: rows need question, response and correction"),
    ([dict(ROW, correction=8)], "row 0: correction must be a text; got 8"), (["How long?"], "row 0 must be a dict"),
    ([dict(ROW, question=5)], "question must be a text or a list of chat messages; got 5"),
    ([dict(ROW, question=[])], "question must be a text or"), ([dict(ROW, question=["Q"])], "question must be a text"),
    ([ROW, CHAT], "these rows have both"), ([CHAT, ROW], "these rows have both"),
    ([dict(ROW, response="Eight! \ud83d")], r"response holds '\\ud83d', half a character"),
    ([dict(CHAT, question=[dict(role="user", content="\ud83d")])], "question holds"),
    ([dict(ROW, error="cut off", raw="\ud83d")], "raw holds"),
    (dict(train=[ROW]), r"rows\['train'\]"), (7, "got int"), (None, "got NoneType"),
    ("nowhere", "no nowhere in .*folder it was given as out=")])
def test_rows_that_can_not_be_curated(rows, why):
    with pytest.raises(DataError, match=why):
        curate(rows, criterion=polite)


def test_a_row_is_kept_as_it_is():
    kept = curate([dict(ROW, id=7, note="mine"), dict(INNS[0], response="Été, 你好 🙂")], filters=(), criterion=polite)
    assert kept.rows.to_list() == [dict(ROW, id="7"), dict(INNS[0], response="Été, 你好 🙂")]
    assert curate([CHAT], criterion=polite).rows.to_list() == [CHAT]
    assert (kept.rows.column_names, criterion_of(kept.rows), len(kept)) == (COLUMNS, polite, 2)


def test_every_form_of_rows_gives_the_same(tmp_path, monkeypatch):
    expected = curate(MANY, criterion=polite).rows.to_list()
    frame, dataset = pd.DataFrame(MANY), Dataset.from_list(MANY)
    lines = "".join(json.dumps(row)+"\n" for row in MANY)
    (tmp_path/"mine.jsonl").write_text(lines)
    (tmp_path/"noted.jsonl").write_text("".join(json.dumps(dict(row, meta={}, unit="a"))+"\n" for row in MANY))
    frame.to_csv(tmp_path/"mine.csv", index=False)
    dataset.to_parquet(tmp_path/"mine.parquet")
    files = [tmp_path/name for name in ("mine.jsonl", "noted.jsonl", "mine.csv", "mine.parquet")]
    for form in (tuple(MANY), iter(MANY), frame, dataset, dataset.to_iterable_dataset(), *files, str(files[0])):
        assert curate(form, criterion=polite).rows.to_list() == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert curate("~/mine.csv", criterion=polite, out="~/out").rows.to_list() == expected
    assert (tmp_path/"out/README.md").exists()


def test_a_file_that_is_no_rows_is_not_to_be_deleted(tmp_path):
    (tmp_path/"mine.jsonl").write_text("7\n")
    with pytest.raises(DataError) as error:
        curate(tmp_path/"mine.jsonl", criterion=polite)
    assert "delete" not in str(error.value) and "mine.jsonl" in str(error.value)
    (tmp_path/"run").mkdir()
    (tmp_path/"run/rows.jsonl").write_text("7\n")            # but in a folder of `synthesize` it is a broken store
    with pytest.raises(DataError, match="restore it or delete it"):
        curate(tmp_path/"run", criterion=polite)


def test_a_run_of_synthesize_is_curated_from_its_folder(tmp_path):
    made = synthesize(polite, Replay(scripted, "scribe"), n=60, out=tmp_path/"run", seed=1, progress=False)
    from_folder, from_rows = curate(tmp_path/"run", criterion=polite), curate(made)
    assert from_folder.funnel.made >= 60 and from_rows.funnel.made == len(made)
    assert {row["id"] for row in from_rows.rows} <= {row["id"] for row in from_folder.rows}
    assert (from_folder.made["llm"], from_folder.made["seed"]) == ("scribe", 1)
    assert from_folder.made["used"]["calls"] > 0 and from_rows.made["llm"] == "scribe"
    assert curate(tmp_path/"run/rows.jsonl", criterion=polite).rows.to_list() == from_folder.rows.to_list()
    with open(tmp_path/"run/rows.jsonl", "ab") as file:      # the run goes on
        file.write(b'{"unit": "drafts 9 0", "rows": [{"id"')
    assert curate(tmp_path/"run", criterion=polite).rows.to_list() == from_folder.rows.to_list()
    with pytest.raises(DataError, match="made from another criterion 'polite'"):
        curate(tmp_path/"run", criterion=Criterion("polite", ["Be brief."]))
    with pytest.raises(DataError, match="pass criterion="):
        curate(tmp_path/"run")


def test_unparsed_rows_are_counted(tmp_path):
    asked = {column: ROW[column] for column in COLUMNS[:5]}
    lost = dict(asked, id="2", error="no line starts with 'Critique'", raw="Eight.")
    with Store(tmp_path/"run/rows.jsonl", dict(llm="scribe")) as store:
        store.append("topics 0", [dict(type="cooking", topics=["Eggs"])])
        store.append("drafts 0 0", [ROW, lost])
    curated = curate(tmp_path/"run", criterion=polite)
    assert repr(curated) == "Curated(made 2 → parsed 1 → unique 1 → kept 1; dropped: not_parsed 1)"
    assert curated.drop_reasons[0]["detail"] == "no line starts with 'Critique': Eight."
    assert curated.drop_reasons[0]["response"] is None


def test_the_first_filter_gives_the_reason():
    curated = curate(rows_about(["Why?", "How so?"], correction="EIGHT"), filters=[shouts, truncated], criterion=polite)
    assert curated.funnel.drops == dict(shouts=2) and set(curated.drop_reasons["detail"]) == {""}
    assert len(curate([dict(ROW, correction="Eight minutes and")], filters=truncated, criterion=polite)) == 0
    assert len(curate([dict(ROW, correction="Eight minutes and")], filters=(), criterion=polite)) == 1


def test_a_good_row_is_not_lost_to_its_duplicate():
    bad = dict(ROW, correction="Eight minutes and then some more and")
    good = dict(ROW, id="2", question="how long do I boil an egg")
    for rows in ([bad, good], [good, bad], [bad, good, dict(good, id="3")]):
        curated = curate(rows, criterion=polite)
        assert curated.rows["id"][:] == ["2"] and curated.funnel.drops == dict(duplicate=len(rows)-1)
    assert len(curate(INNS, criterion=polite)) == 2


def test_excluded_questions_are_dropped():
    keep_out = Criterion("polite", ["Never insult the reader."], exclude={INNS[0]["question"]}.__contains__)
    curated = curate([dict(error="?", raw="?"), *INNS, dict(INNS[0], id="9", correction="At")], criterion=keep_out)
    assert curated.rows["id"][:] == ["1"] and curated.funnel.drops == dict(not_parsed=1, excluded=2)
    assert (curated.funnel.parsed, curated.funnel.unique) == (3, 1)


def test_a_judge_of_lists_is_asked_in_batches():
    rows = []
    for i, asked in enumerate(town.questions(1100, 0, held_out=False)):
        rng, question = random.Random(i), town.read(asked["question"])
        parts = town.good_answer(rng, question, town.FACTS[question.subject])
        rude, critique = town.ethical_flaw(rng, parts) if i % 3 else (parts, NOTHING)
        correction = town.render(rude if i % 7 == 0 else parts)
        texts = dict(response=town.render(rude), critique=critique, correction=correction)
        rows.append(dict(ROW, id=str(i), criterion="ethical", question=asked["question"], **texts))
    sizes = []

    @Judge.of_lists
    def lists(questions, answers):
        sizes.append(len(answers))
        return [town.judge(*pair) for pair in zip(questions, answers)]

    one, many = (curate(rows, (), town.ethical, judge=judge) for judge in (town.judge, lists))
    assert one.rows.to_list() == many.rows.to_list() and one.drop_reasons.to_list() == many.drop_reasons.to_list()
    assert one.funnel.drops["still_misaligned"] > 50 and sizes[0] == 1000 and len(sizes) <= 4


def test_a_response_without_a_fault_is_no_example_of_one():
    def pleased(question, answer): return dict(polite=True)

    same = dict(INNS[0], response="At nine.", correction="At nine.", critique=NOTHING)
    curated = curate([ROW, same], judge=pleased, criterion=polite)
    assert curated.funnel.drops == dict(not_misaligned=1) and curated.rows.to_list() == [same]


def test_the_funnel_adds_up_and_shows_itself():
    rows = [*MANY, dict(MANY[0], id="again"), dict(ROW, id="x", correction="<b>Eight.</b>"), dict(error="?", raw="?")]
    curated = curate(rows, criterion=polite)
    funnel = curated.funnel
    assert funnel.made - sum(funnel.drops.values()) == funnel.kept == len(curated) == 40
    assert Counter(curated.drop_reasons["reason"]) == funnel.drops
    assert list(funnel.to_dict()) == ["made", "parsed", "unique", "kept", "drops"] and json.dumps(funnel.to_dict())
    page = curated._repr_html_()
    assert page.count("<tr>") == 1+len(funnel.drops) and "<b>Eight" not in page and "&lt;b&gt;Eight" in page
    assert Funnel(3, 3, 3, 3, dict(markup=0))._repr_html_().count("<tr>") == 0
    long = Funnel(1, 1, 1, 0, dict(dull=1), dict(dull=[dict(question="Q"*200, correction="C", detail=None)]))
    assert "Q"*90+"…" in long._repr_html_() and "Q"*91 not in long._repr_html_()
    assert [bar.get_width() for bar in funnel.plot().patches[:2]] == [43, 0]
    assert Reason("dull") == ("dull", "")


def test_curated_rows_are_split_before_use():
    curated = curate(MANY, criterion=polite)
    assert isinstance(curated, Curated) and len(curated) == 40
    for use in (list, iter, lambda rows: curate(rows)):
        with pytest.raises(TypeError, match=r"train, calib, test = curate\(rows\)\.split\(\)"):
            use(curated)


def test_a_split_deals_every_row_once():
    curated = curate(MANY, criterion=polite)
    with warnings.catch_warnings():
        warnings.simplefilter("error")                       # a split as wanted is silent
        parts = curated.split()
    assert sorted(row["id"] for part in parts for row in part) == sorted(curated.rows["id"])
    assert [len(part) for part in curated.split((1, 0, 0))] == [40, 0, 0]
    assert all(criterion_of(part) == polite for part in parts)
    for shares in ((.5, .1, .1), (.5, .5), .7, (1.2, -.1, -.1), None):
        with pytest.raises(DataError, match="add up to 1"):
            curated.split(shares)


def test_a_seed_may_come_from_numpy(tmp_path):
    curated = curate(MANY, criterion=polite)
    plain = [part.to_list() for part in curated.split(seed=3)]
    for seed in (np.int64(3), np.uint8(3), np.arange(4)[3]):
        assert [part.to_list() for part in curated.split(seed=seed)] == plain
    cards = [curated.save(tmp_path/str(i), seed=seed)/"README.md" for i, seed in enumerate((3, np.int64(3)))]
    assert cards[0].read_bytes() == cards[1].read_bytes()
    for seed in (None, "3", 3.5, True, np.float64(3)):
        with pytest.raises(TypeError, match="seed=.*a whole number"):
            curated.split(seed=seed)


class Letters:
    "An encoder for which texts are alike that have the same letters"
    def encode(self, texts):
        return np.array([self.count(text.lower()) for text in texts], float)

    def count(self, text): return [text.count(letter) for letter in string.ascii_lowercase]


def test_the_similarity_filter_goes_on_with_the_funnel():
    rows = [*MANY[:20], *(dict(row, response="Eight.") for row in MANY[20:])]
    curated = curate(rows, criterion=polite)
    fewer = curated.drop_similar(Letters(), cosine=.8)
    assert fewer.funnel.drops["too_similar"] == curated.funnel.made - len(fewer) > 0
    assert len(fewer) + len(fewer.drop_reasons) == curated.funnel.made
    twice = fewer.drop_similar(Letters(), cosine=.5)
    assert twice.funnel.made - sum(twice.funnel.drops.values()) == len(twice) < len(fewer)
    for cosine in (90, 0, None):
        with pytest.raises(DataError, match="cosine"):
            curated.drop_similar(Letters(), cosine=cosine)


def test_nothing_of_the_user_is_overwritten(tmp_path):
    curated = curate(MANY, criterion=polite)
    (tmp_path/"file").write_text("mine")
    (tmp_path/"full").mkdir()
    (tmp_path/"full/thesis.md").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(DataError, match="no curated data set: name a new folder"):
            curated.save(tmp_path/name)
    curated.save(tmp_path/"out/deep")
    (tmp_path/"out/deep/data/notes.txt").write_text("mine")
    curated.save(tmp_path/"out/deep", seed=1)
    assert len(list((tmp_path/"out/deep/data").glob("*.parquet"))) == 4
    assert [path.read_text() for path in sorted(tmp_path.rglob("*.txt"))] == ["mine"]


def test_what_a_killed_save_left_behind_goes_with_the_next(tmp_path):
    curated = curate(MANY, criterion=polite)
    folder = curated.save(tmp_path/"out")
    before = sorted(folder.rglob("*"))
    for leftover in (folder/".4711-140213.tmp", folder/"data/.4711-140213.tmp", folder/".4711.tmp"):
        leftover.write_text("half")
    curated.save(folder)
    assert sorted(folder.rglob("*")) == before


def test_a_card_says_what_is_not_known(tmp_path):
    card = (curate(MANY, criterion=polite).save(tmp_path/"out")/"README.md").read_text()
    assert "| LLM | not recorded |" in card and "| licence | unknown |" in card
    made = dict(llm="a|b", seed=0, used=None)
    rows = Dataset.from_list(MANY)
    rows.info.description = json.dumps(dict(criterion=polite.to_dict(), made=made))
    card = (curate(rows, out=tmp_path/"known").save(tmp_path/"known")/"README.md").read_text()
    assert "| LLM | a\\|b |" in card and "| seed of the run | 0 |" in card and "| spent | not recorded |" in card


@pytest.mark.parametrize("repo", [None, 7, "kind-town", "you/kind town", "a/b/c"])
def test_a_repository_has_an_owner(repo):
    with pytest.raises(DataError, match="you/its-name"):
        curate(MANY, criterion=polite).push_to_hub(repo)
