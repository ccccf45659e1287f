"Rows from a user's own questions and answers, and runs whose first replies bring nothing"
import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from server import scripted, serving

from aligners_nb import town
from aligners_nb.criterion import COLUMNS, NOTHING, Criterion, DataError, LLMError
from aligners_nb.curation import curate
from aligners_nb.endpoint import Endpoint
from aligners_nb.llm import LLM, Cut, Refused, Replay
from aligners_nb.plan import plan
from aligners_nb.prompts import correction_request
from aligners_nb.synthesis import PATIENCE, Trial, correct, synthesize, write_corrections, write_drafts

polite = Criterion("polite", ["Never insult the reader."], question_types=["cooking", "travel", "health"])
QUESTIONS = [f"How long does train {i} take to town {i*7}?" for i in range(150)]


class Scribe(Replay):
    "A scripted LLM; some of its drafts and corrections can't be read"
    def __init__(self, broken=5):
        super().__init__([], "scribe")
        self.broken, self.asked = broken, []

    def _complete(self, prompts, seeds, **kwargs):
        self.usage.add(len(prompts), 10*len(prompts), 5*len(prompts))
        self.asked += prompts
        is_broken = [prompt.endswith("Response:") and seed % self.broken == 0 for prompt, seed in zip(prompts, seeds)]
        return [" At 7." if broken else scripted(prompt, seed)
                for prompt, seed, broken in zip(prompts, seeds, is_broken)]

    def _chat(self, conversations, **kwargs):
        self.usage.add(len(conversations), 10*len(conversations), 5*len(conversations))
        self.asked += [messages[-1]["content"] for messages in conversations]
        return [self.reply(messages) for messages in conversations]

    def reply(self, messages):
        "Corrections leave out the fool, and a few are empty"
        if messages[-1]["content"] != correction_request(polite): return "It insults the reader."
        response = messages[-2]["content"]
        return "" if "Train 7 " in response else response.replace(", fool", "")


def answers(n=150):
    "Every second one is rude"
    return [dict(question=question, response=f"Train {i} is quick{', fool' if i % 2 else ''}.")
            for i, question in enumerate(QUESTIONS[:n])]


def synthesized(questions=QUESTIONS, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return synthesize(polite, Scribe(), questions=questions, progress=False, **settings)


def units_in(folder):
    "unit → rows, in the order of the file"
    lines = [json.loads(line) for line in (folder/"rows.jsonl").read_text().splitlines()]
    return {line["unit"]: line["rows"] for line in lines[1:]}


# --- questions

def test_each_question_gets_its_draft_and_nothing_else_is_asked_for(tmp_path):
    llm = Scribe()
    with pytest.warns(UserWarning, match=r"\d+ of 150 replies of scribe could not be read, so .*they are in out="):
        rows = synthesize(polite, llm, questions=QUESTIONS, out=tmp_path, progress=False)
    written = write_drafts(polite, Scribe(), QUESTIONS)
    assert rows.to_list() == [row for row in written if "error" not in row] and 100 < len(rows) < 150
    assert rows.column_names == COLUMNS and set(rows["topic"]) == {""}
    assert len(llm.asked) == 150 and all(prompt.endswith("Response:") for prompt in llm.asked)
    stored = [row for drafts in units_in(tmp_path).values() for row in drafts]
    assert stored == written                  # unreadable ones with their text and the reason
    assert synthesized(out=tmp_path).to_list() == rows.to_list()


@pytest.mark.parametrize("calls", ["one", "separate", "json"])
def test_the_drafts_are_those_of_write_drafts(calls):
    llm = Replay(lambda prompt: json.dumps(dict(response=f"A {prompt[:9]}", critique="Rude.", correction="B"))
                 if calls == "json" else scripted(prompt))
    rows = synthesize(polite, llm, questions=QUESTIONS[:9], calls=calls, progress=False)
    assert rows.to_list() == write_drafts(polite, llm, QUESTIONS[:9], calls=calls)


def forms_of(folder):
    frame = pd.DataFrame(dict(question=QUESTIONS[:8]))
    frame.to_csv(folder/"questions.csv", index=False)
    frame.to_json(folder/"questions.jsonl.gz", orient="records", lines=True)
    yield from (QUESTIONS[:8], tuple(QUESTIONS[:8]), iter(QUESTIONS[:8]), np.array(QUESTIONS[:8]), frame,
                frame["question"], Dataset.from_pandas(frame), Dataset.from_pandas(frame)["question"],
                frame.to_dict("records"), folder/"questions.csv", str(folder/"questions.jsonl.gz"))


def test_any_form(tmp_path):
    rows = synthesized(QUESTIONS[:8]).to_list()
    for form in forms_of(tmp_path): assert synthesized(form).to_list() == rows, type(form)


def test_what_is_given_is_kept():
    full = dict(id="mine", question="When?", topic="Inn", question_type="hours", response="old", correction="older")
    also = dict(question="Where?", topic=None, number=3)
    first, second = synthesize(polite, Scribe(10**9), questions=[full, also, "Why?"], progress=False).to_list()[:2]
    assert (first["id"], first["topic"], first["question_type"]) == ("mine", "Inn", "hours")
    assert first["response"] != "old" and second["topic"] == "" and len(second["id"]) == 12
    renamed = pd.DataFrame([dict(prompt="When?", kind=4)])
    row = synthesized(renamed, columns=dict(question="prompt", topic="kind"))[0]
    assert (row["question"], row["topic"]) == ("When?", "4")


def test_the_same_question_is_asked_once():
    llm = Scribe(10**9)
    questions = ["When?", "Why?", "When?", dict(question="Why?", topic="x")]
    rows = synthesize(polite, llm, questions=questions, progress=False)
    assert rows["question"] == ["When?", "Why?"] and len(llm.asked) == 2


def test_n_takes_the_first_and_the_folder_serves_every_n(tmp_path):
    every = synthesized().to_list()
    few = synthesized(n=20, out=tmp_path)
    assert few.to_list() == every[:20] and len(units_in(tmp_path)) == 1
    llm = Replay([], "scribe")
    assert synthesize(polite, llm, n=9, questions=QUESTIONS, out=tmp_path, progress=False).to_list() == every[:9]
    assert synthesized(out=tmp_path).to_list() == every
    message = r"\d+ of 150 drafts of scribe could be read, 150 rows were wanted.(.|\n)*smaller n"
    with pytest.raises(LLMError, match=message): synthesized(n=150)


def test_conversations():
    chat = [[dict(role="user", content="Hi"), dict(role="assistant", content="Ho"), dict(role="user", content=text)]
            for text in ("When?", "Why?")]
    rows = synthesize(polite, Scribe(), questions=[dict(question=messages) for messages in chat], calls="separate",
                      progress=False)
    assert rows["question"] == chat and rows["response"] == ["It insults the reader."]*2
    with pytest.raises(DataError, match="conversations with calls='separate'"):
        synthesize(polite, Scribe(), questions=[dict(question=chat[0])], progress=False)
    with pytest.raises(DataError, match="all texts or all lists"):
        synthesize(polite, Scribe(), questions=["When?", dict(question=chat[0])], calls="separate", progress=False)


@pytest.mark.parametrize("arguments, message", [
    (dict(questions=[]), "there are no rows: give at least one with question"),
    (dict(questions=pd.DataFrame(dict(question=[]))), "there are no rows"),
    (dict(questions="When does it open?"), r"no file 'When does it open\?'.*goes in brackets"),
    (dict(questions=["When?", " "]), "row 1 has "), (dict(questions=[dict(text="When?")]), "row 0 has no question"),
    (dict(questions=[dict(prompt="When?")]), r'type columns=dict\(question="prompt"\)'),
    (dict(questions=["When?", None]), "got list with None in it"), (dict(questions=5), "rows are a list of dicts"),
    (dict(questions=dict(question="When?")), r"a single row goes in brackets: \[row\]"),
    (dict(questions=["When?"], columns=dict(prompt="question")), "'prompt' is none of ours"),
    (dict(questions=["When?", "When?", "Why?"], n=3), "n=3 rows of 2 different questions: leave n out"),
    (dict(columns=dict(question="prompt")), "columns= names the columns of questions="),
    (dict(questions=["When?"], n=0), "n=0: give a whole number above 0"),
    (dict(questions=["When?"], calls="two"), "one or separate or json"),
])
def test_errors_about_questions_come_before_a_folder_is_made(arguments, message, tmp_path):
    with pytest.raises((DataError, TypeError, ValueError), match=message):
        synthesize(polite, Replay([]), out=tmp_path/"rows", progress=False, **arguments)
    assert not (tmp_path/"rows").exists()


def test_another_run_needs_another_folder(tmp_path):
    synthesized(QUESTIONS[:9], out=tmp_path)
    for other in (dict(questions=QUESTIONS[:8]), dict(questions=QUESTIONS[:9], seed=3), dict(n=9, questions=None)):
        with pytest.raises(DataError, match="was made with (given|seed)=.*use another folder"):
            synthesized(out=tmp_path, **other)
    with pytest.raises(DataError, match="was made with .*given='9 questions"):
        correct(polite, answers(9), Scribe(), out=tmp_path, progress=False)


def test_excluded_questions_are_warned_of():
    shut = replace(polite, exclude=lambda question: "train 1 " in question)
    with pytest.warns(UserWarning, match="exclude is true for 1 of 5 questions, such as 'How long does train 1 "):
        rows = synthesize(shut, Scribe(10**9), questions=QUESTIONS[:5], progress=False)
    assert len(rows) == 5


def test_seeds_are_not_needed_for_questions_at_hand():
    bare = Criterion("polite", ["Be kind."], seeds=[])
    assert len(synthesize(bare, Scribe(10**9), questions=["When?"], progress=False)) == 1
    assert plan(bare, Scribe(10**9), questions=["When?"]).expected.calls == 1


# --- answers

def test_answers_are_corrected(tmp_path):
    llm = Scribe()
    with pytest.warns(UserWarning, match="1 of 150 replies of scribe could not be read, so there are 149 rows"):
        rows = correct(polite, answers(), llm, out=tmp_path, progress=False)
    given = [row for i, row in enumerate(answers()) if i != 7]
    assert rows.column_names == COLUMNS and rows["response"] == [row["response"] for row in given]
    for i, row in zip([i for i in range(150) if i != 7], rows):
        expected = ("It insults the reader.", f"Train {i} is quick.") if i % 2 else (NOTHING, row["response"])
        assert (row["critique"], row["correction"]) == expected
    assert llm.usage.calls == 150+74        # a critique only where something was changed
    [lost] = [row for drafts in units_in(tmp_path).values() for row in drafts if "error" in row]
    assert lost["response"] == "Train 7 is quick, fool." and "empty" in lost["error"]


def test_answers_stay_word_for_word():
    odd = ["  Ten minutes.\n", "```\nTen.\n```", "Question: When?\nTen.", "<think>Hm.</think>Ten."]
    plain = ["Ten minutes.", "Ten.", "Ten.", "Ten."]
    def repeat(messages): return messages[-2]["content"]
    rows = correct(polite, [dict(question="When?", response=text) for text in odd], repeat, progress=False)
    assert rows["response"] == odd == rows["correction"] and set(rows["critique"]) == {NOTHING}
    assert len(set(rows["id"])) == 4
    rows = correct(polite, [dict(question="When?", response=text) for text in odd], Replay(lambda last: plain[0]),
                   progress=False)
    assert rows["response"] == odd and rows["correction"] == [odd[0], *plain[:1]*3]


@pytest.mark.parametrize("replies, correction, critique", [
    (["Unchanged.", NOTHING], "At 7.", NOTHING),
    (["Here is the corrected answer: At 7."], "At 7.", NOTHING),
    (["At 8.", "It is wrong."], "At 8.", "It is wrong."),
    (["No changes needed.", "I see no errors."], "At 7.", NOTHING),
])
def test_ways_to_leave_an_answer_as_it_is(replies, correction, critique):
    llm = Replay([*replies, critique])
    [row] = write_corrections(polite, llm, [dict(question="When?", response="At 7.")])
    assert (row["correction"], row["critique"], row["response"]) == (correction, critique, "At 7.")


def test_lost_replies_cost_their_row_alone():
    replies = [Cut("At"), Refused("too long"), "At 9.", "", "Rude."]
    given = [dict(question=f"{i}?", response="At 7.") for i in range(4)]
    rows = write_corrections(polite, Replay(replies), given, max_tokens=9)
    assert [row.get("error", "")[:7] for row in rows] == ["cut off", "too lon", "", "the rep"]
    assert {row["response"] for row in rows} == {"At 7."}


def test_a_conversation_is_answered_too():
    chat = [dict(role="user", content="Hi"), dict(role="assistant", content="Ho"), dict(role="user", content="When?")]
    [row] = correct(polite, [dict(question=chat, response="At 7, fool.")], Scribe(), progress=False)
    assert row["question"] == chat and row["correction"] == "At 7."


def test_the_same_pair_is_corrected_once_and_rows_of_another_criterion_are_taken():
    llm = Scribe()
    pair = dict(question="When?", response="At 7.", criterion="ethical", correction="At 8.", critique="No.")
    rows = correct(polite, [pair, pair, dict(pair, response="At 9.")], llm, progress=False)
    assert rows["response"] == ["At 7.", "At 9."] == rows["correction"] and llm.usage.calls == 2
    assert rows["criterion"] == ["polite"]*2 and len(set(rows["id"])) == 2


@pytest.mark.parametrize("rows, message", [
    ([], "there are no rows: give at least one with question and response"),
    ([dict(question="When?")], "row 0 has no response"),
    ([dict(question="When?", output="At 7.")], r'type columns=dict\(response="output"\)'),
    ([dict(question="When?", response="At 7."), dict(question="", response="At 7.")], "row 1 has "),
    (["When?"], "got list with 'When.' in it"), ("answers.csv", "there is no file answers.csv"),
])
def test_errors_about_answers_come_before_a_folder_is_made(rows, message, tmp_path):
    with pytest.raises((DataError, TypeError), match=message): correct(polite, rows, Replay([]), out=tmp_path/"rows")
    with pytest.raises((DataError, TypeError), match=message): plan(polite, Replay([]), rows=rows)
    with pytest.raises(TypeError, match="such as town.ethical"): correct("polite", answers(2), Replay([]))
    with pytest.raises(ValueError, match="max_tokens=0"): correct(polite, answers(2), Replay([]), max_tokens=0)
    assert not (tmp_path/"rows").exists()


def test_both_are_curated_with_the_same_card(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = correct(polite, answers(), Scribe(), out=tmp_path/"run", progress=False)
        asked = synthesize(polite, Scribe(), questions=QUESTIONS, progress=False)
    for made, n in ((rows, 149), (asked, len(asked)), (tmp_path/"run", 150)):
        curated = curate(made, filters=[], threshold=1., criterion=polite, out=tmp_path/str(n))
        assert curated.funnel.made == n and curated.funnel.parsed in (149, len(asked))
        card = (tmp_path/str(n)/"README.md").read_text()
        assert "scribe" in card and "calls, " in card and "given:" in card


def test_a_function_is_an_llm():
    def pupil(messages): return "At 7." if "polite" in messages[-1]["content"] else "At 7, fool."
    rows = correct(polite, [dict(question="When?", response="At 7, fool.")], pupil, progress=False)
    assert rows["correction"] == ["At 7."] and json.loads(rows.info.description)["made"]["llm"] == "pupil"
    rows = synthesize(polite, pupil, questions=["When?"], calls="separate", progress=False)
    assert rows["response"] == ["At 7, fool."] and rows["correction"] == ["At 7."]


def test_through_a_server(tmp_path):
    with serving() as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llm = Endpoint(server.url)
        rows = synthesize(polite, llm, questions=QUESTIONS, out=tmp_path/"q", progress=False)
        assert rows["question"] == QUESTIONS and sorted(map(len, units_in(tmp_path/"q").values())) == [22, 64, 64]
        rows = correct(polite, answers(), llm, out=tmp_path/"a", progress=False)
        assert rows["response"] == [row["response"] for row in answers()]
        assert len(server.calls) == 150+300


# --- plans

@pytest.mark.parametrize("llm", [Scribe, lambda: Scribe(2)])
def test_a_plan_is_within_a_quarter(llm):
    for settings in (dict(questions=QUESTIONS), dict(questions=QUESTIONS, n=60)):
        planned = plan(polite, llm(), **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used = used_by(synthesize(polite, llm(), progress=False, **settings))
        assert .75 <= used["calls"]/planned.expected.calls <= 1.25 and planned.sample.calls <= 48
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = correct(polite, answers(), llm(), progress=False)
    planned = plan(polite, llm(), rows=answers())
    assert .75 <= used_by(rows)["calls"]/planned.expected.calls <= 1.25 and planned.sample.calls <= 75
    assert "completion_tokens" in planned.compare(rows)


def used_by(rows): return json.loads(rows.info.description)["made"]["used"]


def test_plans_that_are_warned_of_or_refused():
    with pytest.warns(UserWarning, match="scribe would bring about .* of 150 rows.*leave n out"):
        plan(polite, Scribe(2), n=150, questions=QUESTIONS)
    with pytest.raises(LLMError, match=r"0 of \d+ drafts of replay could be read"):
        plan(polite, Replay(lambda prompt: "?"), questions=QUESTIONS)
    with pytest.raises(LLMError, match="0 of .* corrections of replay could be read"):
        plan(polite, Replay(lambda prompt: ""), rows=answers())
    with pytest.raises(TypeError, match="leave out n and questions"): plan(polite, Scribe(), n=9, rows=answers())
    for n in range(1, 6): assert plan(polite, Scribe(10**9), questions=QUESTIONS[:n]).expected.calls == n


# --- found out while it costs little

class Server(Replay):
    "Works on sixteen calls side by side"
    concurrency, in_flight = 16, 128


def rubbish(prompt): return "I'm sorry."
def mute(prompt): return scripted(prompt) if "New topics" in prompt else "?"
def unreadable(prompt): return " At 7." if prompt.endswith("Response:") else scripted(prompt)
def is_draft(prompt): return prompt.endswith("Response:")


class Counting:
    "A function of a prompt that counts the prompts of each stage"
    def __init__(self, write): self.write, self.asked = write, []

    def __call__(self, prompt):
        stage = "topics" if "New topics:" in prompt else "questions" if "Questions:\n" in prompt else "drafts"
        self.asked.append(stage)
        return self.write(prompt)


@pytest.mark.parametrize("kind", [Replay, Server])
@pytest.mark.parametrize("n", [1, 2, 40, 400, 1500])
@pytest.mark.parametrize("write, in_vain, message", [
    (rubbish, dict(topics=20, questions=5), "wrote no question that begins with one of its hints"),
    (mute, dict(questions=15), "wrote no question that begins with one of its hints"),
    (unreadable, dict(drafts=30), "^0 of 30 drafts of replay could be read, .* rows were wanted"),
])
def test_thirty_replies_in_vain_are_enough(kind, n, write, in_vain, message):
    counting = Counting(write)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")        # that no topics were named
        with pytest.raises(LLMError, match=message): synthesize(town.ethical, kind(counting), n=n, progress=False)
    assert {stage: counting.asked.count(stage) for stage in in_vain} == in_vain


@pytest.mark.parametrize("n", [2, 400])
def test_a_criterion_that_excludes_every_question(n):
    counting = Counting(scripted)
    shut = replace(polite, exclude=lambda question: True)
    with pytest.raises(LLMError, match="exclude keeps out every question"):
        synthesize(shut, Replay(counting), n=n, progress=False)
    assert counting.asked.count("questions") == PATIENCE//2 and "drafts" not in counting.asked


def test_many_types_without_a_topic():
    many = Criterion("polite", ["Be kind."], question_types=[f"type {i}" for i in range(100)])
    llm = Replay(rubbish)
    with pytest.raises(LLMError, match="wrote no topics that can be read"): synthesize(many, llm, n=9, progress=False)
    assert llm.usage.calls == PATIENCE


@pytest.mark.parametrize("kind", [Replay, Server])
def test_questions_and_answers_at_hand_stop_too(kind, tmp_path):
    llm = kind(lambda prompt: "")
    with pytest.raises(LLMError, match="^0 of 30 drafts of replay could be read, 150 rows were wanted"):
        synthesize(polite, llm, questions=QUESTIONS, progress=False)
    with pytest.raises(LLMError, match="^0 of 30 corrections of replay could be read, 150 rows were wanted"):
        correct(polite, answers(), llm, out=tmp_path, progress=False)
    assert llm.usage.calls == 2*PATIENCE


@pytest.mark.parametrize("write, kind, n_tried", [(unreadable, "drafts", 30), (mute, "questions", 15)])
def test_what_was_tried_is_kept_and_not_asked_for_again(write, kind, n_tried, tmp_path):
    messages = []
    for llm in (Replay(write), Replay([])):
        with pytest.raises(LLMError) as error: synthesize(polite, llm, n=400, out=tmp_path, progress=False)
        messages.append(str(error.value))
    assert messages[0] == messages[1] and llm.usage.calls == 0
    [tried] = [rows for unit, rows in units_in(tmp_path).items() if unit.startswith(f"tried {kind}")]
    assert len(tried) == n_tried and all("error" in row for row in tried)
    with pytest.raises(DataError, match="there are no rows"): curate(tmp_path, criterion=polite)


def test_one_good_reply_is_enough_to_go_on():
    class Late(Replay):
        "The thirtieth draft is its first that can be read"
        n_drafts = 0

        def _complete(self, prompts, **kwargs):
            replies = []
            for prompt in prompts:
                self.n_drafts += is_draft(prompt)
                replies.append(unreadable(prompt) if self.n_drafts < PATIENCE else scripted(prompt))
            return replies

    assert len(synthesize(polite, Late([]), n=40, progress=False)) == 40


def test_a_trial_begins_anew_where_something_is_brought():
    trial = Trial(fail=None)
    for stage, n, brings in [("topics", 20, False), ("questions", 1, True), ("drafts", 29, False)]:
        trial.note(stage, n, brings)
    assert not trial.is_hopeless("drafts") and trial.n_left("drafts") == 1 and trial.n_left("questions") == 0
    trial.note("questions", 16, False)          # this stage has passed
    assert trial.n_barren == 29


def test_refusals_after_a_good_start_cost_their_rows_only():
    class Picky(LLM):
        "Refuses all but the first calls for questions"
        n_questions = 0

        def _complete(self, prompts, seeds, **kwargs):
            replies = []
            for prompt, seed in zip(prompts, seeds):
                self.n_questions += "Questions:\n" in prompt
                is_late = "Questions:\n" in prompt and self.n_questions > PATIENCE//2
                replies.append(Refused("too long") if is_late else scripted(prompt, seed))
            return replies

    assert len(synthesize(polite, Picky(), n=108, progress=False)) == 108


def test_the_bar_says_how_it_goes(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    with pytest.raises(LLMError): synthesize(polite, Replay(unreadable), n=40)
    shown = capsys.readouterr().err
    assert "asking for topics" in shown and "asking for 63 questions" in shown
    assert "first drafts: 0 of 30 readable; last error: no line starts with 'Critique'" in shown
    with pytest.warns(UserWarning): synthesize(polite, Scribe(), questions=QUESTIONS)
    assert "of 150 drafts readable; last error: no line starts with 'Critique'" in capsys.readouterr().err
