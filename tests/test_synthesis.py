"Synthesis: what becomes of odd replies, units and their order, failures that are explained, and runs that are resumed"
import json
import random
import shutil
import time
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from server import scripted

from aligners_nb import town
from aligners_nb.criterion import COLUMNS, Criterion, DataError, LLMError, NOTHING
from aligners_nb.llm import LLM, Cut, Refused, Replay
from aligners_nb.prompts import correction_request, draft_prompt
from aligners_nb.store import Memory
from aligners_nb.synthesis import (
    CALLS, _make_units, check_arguments, describe_usage, drafts, hints_to_ask, questions, seed_of, synthesize, topics,
    topics_per_type, total_usage, units_together, write_drafts)

WRITTEN_BEFORE = ROOT/"tests/fixtures/synthesis_written_before"
polite = Criterion("polite", ["Never insult the reader."], question_types=["cooking", "travel", "health"])


class Scribe(Replay):
    "A scripted LLM; some of its drafts can't be read"
    def __init__(self):
        super().__init__([], "scribe")

    def _complete(self, prompts, seeds, **kwargs):
        return [self.write(prompt, seed) for prompt, seed in zip(prompts, seeds)]

    def write(self, prompt, seed):
        self.usage.add(1, len(prompt.split()), 10)
        return " At 7." if prompt.endswith("Response:") and seed % 5 < 3 else scripted(prompt, seed)

    def _chat(self, conversations, seeds, **kwargs):
        self.usage.add(len(conversations))
        return ["" if seed % 5 == 0 else scripted(messages[-1]["content"], seed)
                for messages, seed in zip(conversations, seeds)]


def units_in(path):
    "unit → rows, in the order of the file"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["unit"]: line["rows"] for line in lines[1:]}


# --- the same rows as ever

def test_seeds_stay_what_they_were():
    assert seed_of(42, "topics", 0) == 1187510629 and seed_of(42, "draft", "When?") == 1015193593
    assert seed_of(42, "topics", 1) != seed_of(42, "topics", 0)


@pytest.mark.parametrize("calls", ["one", "separate"])
def test_a_run_makes_the_units_that_it_made_before(calls, tmp_path):
    synthesize(polite, Scribe(), n=12, out=tmp_path, calls=calls, progress=False)
    before, now = units_in(WRITTEN_BEFORE/f"{calls}.jsonl"), units_in(tmp_path/"rows.jsonl")
    assert list(now) == list(before) and now == before


@pytest.mark.parametrize("calls", ["one", "separate"])
def test_a_folder_that_was_written_before_is_resumed_without_a_call(calls, tmp_path):
    shutil.copy(WRITTEN_BEFORE/f"{calls}.jsonl", tmp_path/"rows.jsonl")
    scribe = Scribe()
    rows = synthesize(polite, scribe, n=12, out=tmp_path, calls=calls, progress=False)
    assert scribe.usage.calls == 0 and len(rows) == 12
    assert (tmp_path/"rows.jsonl").read_text() == (WRITTEN_BEFORE/f"{calls}.jsonl").read_text()


def test_sizes_stay_what_they_were():
    assert (hints_to_ask(400, 0, 0), hints_to_ask(400, 300, 500), topics_per_type(400)) == (543, 232, 20)
    assert (topics_per_type(1), topics_per_type(10**6)) == (4, 40)
    assert hints_to_ask(400, 0, 543) == int(400/.15)+10


# --- replies

FIRST_TURNS = {"When?": "You fool, it opens at 7.", "Where?": "On Castle Street.", "Why?": "",
               "Who?": Cut("The one who"), "How?": Refused("the prompt has 2000 tokens")}


class Turns(LLM):
    "An LLM that corrects only what is rude"
    def __init__(self):
        super().__init__()
        self.asked = []

    def _chat(self, conversations, **kwargs):
        return [self.reply(messages[-1]["content"], messages[-2]["content"]) for messages in conversations]

    def reply(self, request, response):
        self.asked.append(request)
        if request in FIRST_TURNS: return FIRST_TURNS[request]
        if request != correction_request(town.ethical): return "It is rude."
        return "  It opens at 7.\n" if "fool" in response else response


def test_three_turns():
    llm = Turns()
    rude, good, empty, cut, refused = write_drafts(town.ethical, llm, list(FIRST_TURNS), calls="separate", max_tokens=9)
    assert (rude["correction"], rude["critique"]) == ("It opens at 7.", "It is rude.")
    assert (good["correction"], good["critique"]) == ("On Castle Street.", NOTHING)
    assert "empty" in empty["error"] and "2000" in refused["error"] and refused["raw"] == ""
    assert (cut["error"], cut["raw"]) == ("cut off at 9 tokens: raise max_tokens", "The one who")
    assert len(llm.asked) == 5+2+1      # the three that are lost are not asked about again


def test_a_lost_turn_costs_its_row_alone():
    class Forgetful(Turns):
        def reply(self, request, response):
            reply = super().reply(request, response)
            return "" if request == correction_request(town.ethical) and "fool" in response else reply
    rude, good = write_drafts(town.ethical, Forgetful(), ["When?", "Where?"], calls="separate")
    assert rude["raw"] == "You fool, it opens at 7.\n---\n" and "empty" in rude["error"]
    assert good["correction"] == "On Castle Street."


def test_odd_json():
    whole = '{"response": "A\\ud800", "critique": "It is rude.", "correction": "B"}'
    replies = [Cut(whole[:40]), Cut(whole), "["*100_000, "1"*5000, whole]
    rows = write_drafts(town.ethical, Replay(replies), [f"{i}?" for i in range(5)], calls="json")
    assert [row.get("error", "")[:7] for row in rows] == ["cut off", "cut off", "not JSO", "not JSO", ""]
    assert rows[4]["response"] == "A?" and json.dumps(rows).encode()


PIECES = ["Response:", "Critique:", "Correction:", "\n", "\n\n", " It opens at 7.", "Nothing is wrong.", "<think>",
          "</think>", '{"response": "A"', "}", '", "critique": null', "\ud800", "```", "|", "[[", "\\", "**", '"']


@pytest.mark.parametrize("calls", ["one", "separate", "json"])
def test_whatever_is_replied_becomes_a_row(calls):
    rng = random.Random(calls)
    replies = ["".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(1500)]
    llm = Replay(lambda prompt: rng.choice(replies))
    rows = write_drafts(polite, llm, [f"{i}?" for i in range(500)], calls=calls)
    assert all(list(row) == COLUMNS or {"raw", "error"} <= set(row) for row in rows)
    assert any("error" in row for row in rows) and all(row.get("error", "x") for row in rows)


def test_a_mistake_of_ours_is_not_taken_for_a_bad_reply(monkeypatch):
    def mistaken(reply): return reply/0
    monkeypatch.setitem(CALLS, "one", CALLS["one"]._replace(parse=mistaken))
    with pytest.raises(TypeError): write_drafts(polite, Replay(scripted), ["When?"])


# --- a user's own questions

def test_questions_are_texts_or_dicts():
    llm = Replay(lambda prompt: scripted(prompt))
    asked = ["When?", dict(question="Where?"), dict(question="Why?", topic="t", question_type="u")]
    text, plain, full = drafts(polite, llm, asked)
    assert (text["topic"], plain["question_type"], full["topic"], full["question_type"]) == ("", "", "t", "u")
    assert list(text) == COLUMNS


@pytest.mark.parametrize("row", [5, None, {}, dict(topic="t"), dict(question=""), dict(question=5), " "])
def test_a_question_is_there(row):
    for write in (drafts, write_drafts):
        with pytest.raises(DataError, match="row 1 has no question: give texts, or dicts"):
            write(polite, Replay([]), ["When?", row])


def test_calls_are_named():
    for write in (drafts, write_drafts):
        with pytest.raises(DataError, match="one or separate or json"):
            write(polite, Replay([]), ["When?"], calls="two")


# --- topics and questions

def sorry(prompt): return "I'm sorry, I can't think of any."


def test_no_topics():
    store = Memory()
    with pytest.warns(UserWarning, match="no topics beyond the 20 seeds.*(.|\n)*I'm sorry"):
        found = topics(town.ethical, Replay(sorry, "sorry"), per_type=5, store=store)
    assert list(store.units) == ["topics 0"] and all("sorry" in row["raw"] for row in store)
    assert set(map(len, found.values())) == {1}
    without_seeds = replace(town.ethical, seeds=[("other", "Egg", "When?"), ("other", "Jam", "Why?")])
    with pytest.raises(LLMError, match="no topics that can be read"): topics(without_seeds, Replay(sorry, "sorry"))


def test_enough_topics_are_not_asked_for():
    seeds = [("cooking", topic, "When?") for topic in ("Jam", "Eggs", "Bread")]
    found = topics(Criterion("polite", ["Be kind."], question_types=["cooking"], seeds=seeds), Replay([]), per_type=2)
    assert found == {"cooking": ["Jam", "Eggs"]}


def test_known_topics_come_once():
    def shouting(prompt): return " BOILED EGGS\n- Jam\n- jam"
    found = topics(polite, Replay(shouting), per_type=5)
    assert found["cooking"] == ["Boiled eggs", "Jam"]


def test_one_refusal_is_kept_and_nothing_but_refusals_is_raised():
    class Picky(LLM):
        def __init__(self, refuses):
            super().__init__()
            self.refuses = refuses

        def _complete(self, prompts, seeds, **kwargs):
            replies = [scripted(prompt, seed) for prompt, seed in zip(prompts, seeds)]
            return [Refused("too long") if self.refuses(prompt) else reply for prompt, reply in zip(prompts, replies)]

    store = Memory()
    topics(polite, Picky(lambda prompt: "Type: travel" in prompt), per_type=4, store=store)
    assert [row["error"] for row in store if "error" in row][0] == "too long"
    for step in (partial(topics, per_type=4), partial(questions, topics_by_type={"cooking": ["Jam"]}, n=40)):
        with pytest.raises(Refused): step(polite, Picky(lambda prompt: True))


def test_excluded_questions_are_dropped():
    found = {"cooking": ["Jam", "Eggs", "Bread"]}
    every = questions(polite, Replay(lambda prompt: scripted(prompt)), found, 60)
    shut = replace(polite, exclude=lambda question: "jam" in question)
    some = questions(shut, Replay(lambda prompt: scripted(prompt)), found, 60)
    assert some == [row for row in every if "jam" not in row["question"]] and 0 < len(some) < len(every)
    assert len({row["question"] for row in every}) == len(every)


def test_hopeless_questions_end_early():
    numbered = Replay(lambda prompt: "".join(f"{i}. When does it open?\n" for i in range(10)), "numbered")
    with pytest.raises(LLMError, match="numbered wrote no question(.|\n)*When does it open"):
        questions(town.ethical, numbered, {"price": ["Old Inn"]}, 20_000)
    assert numbered.usage.calls == 64


# --- units

def shout(llm, prompts): return [[dict(text=text)] for text in llm.complete(prompts)]


def test_units_are_made_once():
    llm, store = Replay(str.upper), Memory()
    rows = _make_units(llm, store, dict(one=["a", "b"], two=["c"]), partial(shout, llm))
    assert [row["text"] for row in rows] == ["A", "B", "C"] and llm.usage.calls == 3
    assert store.used[0]["calls"] == 3 and len(store.used) == 1        # both units came of one call
    again = _make_units(llm, store, dict(one=["a", "b"]), None)
    assert [row["text"] for row in again] == ["A", "B"] and llm.usage.calls == 3
    with pytest.raises(DataError, match="unit 'one' lacks 'other'"):
        _make_units(llm, store, dict(one=["a", "b"]), None, ["other"])
    assert _make_units(llm, store, {}, None) == []


class Server(LLM):
    "Replies to the first unit last, and breaks down at one"
    concurrency, in_flight = 16, 128

    def __init__(self, broken=""):
        super().__init__()
        self.broken, self.asked = broken, []

    def _complete(self, prompts, **kwargs):
        self.asked += prompts
        time.sleep(.2 if "a" in prompts else .01)
        if self.broken in prompts: raise LLMError("the server is gone")
        self.usage.add(len(prompts))
        return [prompt.upper() for prompt in prompts]


LETTERS = {letter: [letter]*64 for letter in "abcde"}


def test_what_is_under_way_is_written_when_a_unit_fails():
    store, broken = Memory(), Server("c")
    with pytest.raises(LLMError, match="gone"): _make_units(broken, store, LETTERS, partial(shout, broken))
    assert list(store.units) == ["b", "a", "d"]
    server = Server()
    rows = _make_units(server, store, LETTERS, partial(shout, server))
    assert "".join(row["text"] for row in rows)[::64] == "ABCDE" and set(server.asked) == {"c", "e"}
    assert total_usage(store.used)["calls"] == 5*64


def test_enough_goes_by_the_order_of_units_not_by_the_clock():
    store, server = Memory(), Server()
    def has_a(rows): return dict(text="A") in rows
    rows = _make_units(server, store, LETTERS, partial(shout, server), watch=has_a)
    assert {row["text"] for row in rows} == {"A"} and set(store.units) == {"a", "b"}


def test_calls_side_by_side():
    class One(Server): concurrency = 1
    assert [units_together(Server(), size) for size in (64, 500, 0)] == [2, 1, 128]
    llm, sizes = One(), []
    def make(items):
        sizes.append(len(items))
        return shout(llm, items)
    _make_units(llm, Memory(), LETTERS, make)
    assert sizes == [128, 128, 64]      # an LLM that batches its prompts gets two units in one call


def test_a_meter_counts_what_threads_spend():
    server = Server()
    with server.meter() as used: _make_units(server, Memory(), LETTERS, partial(shout, server))
    assert used.calls == 5*64


# --- arguments

@pytest.mark.parametrize("change, message", [
    (dict(criterion="ethical"), "criterion must be a Criterion"),
    (dict(n=0), "n=0: give a whole number above 0"), (dict(n="9"), "n='9'"), (dict(n=True), "n=True"),
    (dict(seed="x"), "seed='x': give a whole number"), (dict(seed=None), "seed=None"),
    (dict(calls="two"), "one or separate or json; got 'two'"), (dict(temperature=-1), r"from 0 \(greedy\) up"),
    (dict(max_tokens=0), "max_tokens=0: give a whole number above 0"), (dict(max_tokens=1.5), "max_tokens=1.5"),
    (dict(criterion=Criterion("polite", ["Be kind."], seeds=[])), "needs at least 2 seeds"),
])
def test_arguments_are_checked_before_a_folder_is_made(change, message, tmp_path):
    arguments = dict(criterion=polite, n=9, seed=42, temperature=1., calls="one", max_tokens=512) | change
    with pytest.raises((TypeError, ValueError), match=message): check_arguments(**arguments)
    with pytest.raises((TypeError, ValueError), match=message):
        synthesize(llm=Replay([]), out=tmp_path/"rows", progress=False, **arguments)
    assert not (tmp_path/"rows").exists()


def test_numbers_of_numpy(tmp_path):
    plain = synthesize(polite, Scribe(), n=12, out=tmp_path, progress=False)
    numpy = synthesize(polite, Scribe(), n=np.int64(12), seed=np.int64(42), max_tokens=np.int32(512),
                       temperature=np.float64(1), out=tmp_path, progress=False)
    assert numpy.to_list() == plain.to_list() and numpy.info.description == plain.info.description


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path/"home"))
    (tmp_path/"here").mkdir()
    monkeypatch.chdir(tmp_path/"here")
    synthesize(polite, Scribe(), n=3, out="~/rows", progress=False)
    assert (tmp_path/"home/rows/rows.jsonl").exists() and not any((tmp_path/"here").iterdir())


def test_usage_in_words():
    unit = dict(calls=2, prompt_tokens=900, completion_tokens=50, seconds=30, cost=.5)
    assert describe_usage(total_usage([unit, None])) == "2 calls, 900 tokens read, 50 written, 0.5 minutes, $0.50"
    assert "$" not in describe_usage(total_usage([]))


# --- failures

def only_one(prompt):
    "The same question for each hint"
    if "New topics" in prompt or prompt.endswith("Response:"): return scripted(prompt)
    return prompt.split("Hints:\n")[1].split("\n")[0] + " | When?"


def mute(prompt): return scripted(prompt) if "New topics" in prompt else "?"
def unreadable(prompt): return " I'd rather not say." if prompt.endswith("Response:") else scripted(prompt)


@pytest.mark.parametrize("criterion, write, message", [
    (polite, only_one, "wrote 1 different questions that may be used, 40 rows were wanted: .*ask for fewer rows"),
    (polite, mute, "wrote no question that begins with one of its hints"),
    (replace(polite, exclude=lambda question: True), scripted, "exclude keeps out every question"),
    (polite, unreadable, r"0 of \d+ drafts of replay could be read, 40 rows were wanted.(.|\n)*rather not say"),
])
def test_failures_are_explained(criterion, write, message):
    with pytest.raises(LLMError, match=message): synthesize(criterion, Replay(write), n=40, progress=False)


def test_a_large_order_fails_early():
    llm = Replay(unreadable)
    with pytest.warns(UserWarning, match="2,000 rows, and a crash would lose them all"):
        with pytest.raises(LLMError, match="^0 of "):
            synthesize(Criterion("polite", ["Be kind."]), llm, n=2000, progress=False)
    assert llm.usage.calls < 700


def test_a_weak_llm_does_not_loop_for_two_rows():
    llm = Replay(unreadable)
    with pytest.raises(LLMError, match="^0 of "): synthesize(polite, llm, n=2, progress=False)
    assert llm.usage.calls < 80


def test_as_advised_a_smaller_run_takes_what_is_there(tmp_path):
    with pytest.raises(LLMError, match="ask for fewer rows"):
        synthesize(polite, Replay(only_one), n=40, out=tmp_path, progress=False)
    assert len(synthesize(polite, Replay([]), n=1, out=tmp_path, progress=False)) == 1


# --- killed and resumed

class Mortal(Scribe):
    "Dies after some calls"
    def write(self, prompt, seed):
        if self.usage.calls >= 70: raise KeyboardInterrupt
        return super().write(prompt, seed)


class Once(Scribe):
    "Is never asked the same thing twice"
    asked = set()

    def _complete(self, prompts, seeds, **kwargs):
        now = set(zip(prompts, seeds))
        assert not now & self.asked
        self.asked |= now
        return super()._complete(prompts, seeds, **kwargs)


def until_finished(out, n):
    "The rows of a run that dies again and again, and the number of its processes"
    for attempt in range(1, 40):
        try: return synthesize(polite, Mortal(), n=n, out=out, progress=False), attempt
        except KeyboardInterrupt: pass
    raise AssertionError("it never ends")


def used_by(rows): return json.loads(rows.info.description)["made"]["used"]


def test_a_run_that_dies_again_and_again(tmp_path):
    undisturbed = synthesize(polite, Scribe(), n=80, out=tmp_path/"undisturbed", progress=False)
    killed, n_processes = until_finished(tmp_path/"killed", 80)
    assert n_processes > 2 and killed.to_list() == undisturbed.to_list()
    assert units_in(tmp_path/"killed/rows.jsonl") == units_in(tmp_path/"undisturbed/rows.jsonl")
    assert used_by(killed)["calls"] == used_by(undisturbed)["calls"]     # what was spent is kept with what it bought


def test_one_folder_serves_runs_of_any_size(tmp_path):
    def made(n):
        llm = Once()
        return synthesize(polite, llm, n=n, out=tmp_path, progress=False).to_list(), llm.usage.calls
    Once.asked = set()
    first, _ = made(60)
    assert made(20) == (first[:20], 0)
    more, n_calls = made(100)
    assert more[:60] == first and n_calls > 0
    assert made(100) == (more, 0) and made(60) == (first, 0)


def test_another_run_needs_another_folder(tmp_path):
    synthesize(polite, Scribe(), n=3, out=tmp_path, progress=False)
    message = "was made with seed=42, now it is 7; with max_tokens=512, now it is 256: use another"
    with pytest.raises(DataError, match=message):
        synthesize(polite, Scribe(), n=3, out=tmp_path, seed=7, max_tokens=256, progress=False)


def test_structured_output_is_asked_for_where_it_can_be_had():
    class Structured(Scribe):
        structured, schemas = True, []

        def _chat(self, conversations, schema=None, **kwargs):
            self.schemas.append(schema)
            reply = json.dumps(dict(response="At 7, fool.", critique="It is rude.", correction="At 7."))
            return [reply]*len(conversations)

    llm = Structured()
    rows = synthesize(polite, llm, n=20, calls="json", progress=False)
    assert rows["critique"] == ["It is rude."]*20
    assert llm.schemas[0]["required"] == ["response", "critique", "correction"]


def test_the_same_prompt_whatever_is_asked_beside_it():
    prompts = []
    llm = Replay(lambda prompt: prompts.append(prompt) or scripted(prompt))
    write_drafts(town.ethical, llm, ["When?", "Where?"])
    assert prompts == [draft_prompt(town.ethical, "When?"), draft_prompt(town.ethical, "Where?")]


def test_no_warning_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        synthesize(polite, Scribe(), n=12, progress=False)
