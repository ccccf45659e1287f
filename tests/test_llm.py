"The interface to all LLMs: arguments, replies that are cut or refused, counting, recordings"
import json
import threading
import numpy as np
import pytest
from aligners_nb.criterion import DataError, LLMError
from aligners_nb.llm import LLM, CallableLLM, Cut, Refused, Replay, Usage, _finish_all, _seeds, cut_at
from aligners_nb.prompts import user


class Echo(LLM):
    "Answers in capitals, continues backwards, and remembers what it was asked with"
    drafted = True

    def _complete(self, prompts, **settings):
        self.settings = settings
        return [prompt[::-1] if len(prompt) < 9 else Refused("it takes 8 letters") for prompt in prompts]

    def _chat(self, conversations, **settings):
        self.settings = settings
        return [messages[-1]["content"].upper() for messages in conversations]


@pytest.fixture
def echo():
    return Echo()


def test_one_gives_one_and_a_list_gives_a_list(echo):
    messages = [user("ho")]
    assert echo.chat("hi") == echo.chat([user("hi")]) == "HI"
    assert echo.chat(["hi", messages]) == echo.chat(("hi", messages)) == ["HI", "HO"]
    assert echo.complete("abc") == "cba"
    assert echo.complete(["ab", "cd"]) == echo.complete(iter(["ab", "cd"])) == ["ba", "dc"]
    assert echo.chat([]) == echo.complete([]) == []


def test_wrong_arguments_are_refused(echo):
    with pytest.raises(TypeError, match="a list of either"):
        echo.chat(None)
    with pytest.raises(TypeError, match="use chat"):
        echo.complete([[user("hi")]])
    for temperature in (-1, float("nan"), float("inf"), "hot", None):
        with pytest.raises(DataError, match="from 0"):
            echo.chat("hi", temperature=temperature)
    with pytest.raises(LLMError, match="read its text"):
        echo.chat("hi", schema={"type": "object"})
    with pytest.raises(DataError, match="one for each prompt"):
        echo.complete(["a", "b"], seed=[1])
    with pytest.raises(DataError, match="no whole number"):
        echo.complete("a", seed=.5)
    with pytest.raises(DataError, match="no whole number"):
        echo.complete(["a"], seed=["b"])


@pytest.mark.parametrize("method", ["chat", "complete"])
def test_each_prompt_has_a_limit(echo, method):
    ask = getattr(echo, method)
    ask(["ab", "cd"], max_tokens=7)
    assert echo.settings["max_tokens"] == [7, 7]
    for limits in ([3, 4], (3, 4), range(3, 5), np.array([3, 4])):
        ask(["ab", "cd"], max_tokens=limits)
        assert echo.settings["max_tokens"] == [3, 4]
    ask("ab", max_tokens=[5])
    assert echo.settings["max_tokens"] == [5]
    wrong_limits = [
        ([3], DataError), ([], DataError), ([3, 0], ValueError), ([3, -1], ValueError), (0, ValueError),
        (2.5, TypeError), (True, TypeError), (None, TypeError), ([3, 2.5], TypeError), ("33", TypeError),
    ]
    for limits, error in wrong_limits:
        with pytest.raises(error, match="max_tokens"):
            ask(["ab", "cd"], max_tokens=limits)


def test_numbers_of_numpy_are_numbers(tmp_path, echo):
    settings = dict(max_tokens=np.int64(9), temperature=np.float32(.5), seed=np.array([3, 4]))
    assert Replay(tmp_path/"tape", record=echo).chat(["hi", "ho"], **settings) == ["HI", "HO"]
    assert Replay(tmp_path/"tape").chat(["hi", "ho"], max_tokens=9, temperature=.5, seed=[3, 4]) == ["HI", "HO"]


def test_seeds_are_the_same_in_every_process():
    assert _seeds(7, 3) == [318162123, 2085039140, 1605093622]
    assert _seeds(range(3), 3) == [0, 1, 2] and _seeds(None, 2) == _seeds(0, 2) == _seeds(np.int64(0), 2)


def test_drafts_reach_only_an_llm_that_uses_them(echo):
    assert echo.chat("hi", drafts=["HO"]) == "HI" and echo.settings["drafts"] == ["HO"]
    echo.drafted = False
    assert echo.chat("hi", drafts=["HO"]) == "HI" and "drafts" not in echo.settings


def test_replies_end_at_stop_texts():
    assert cut_at("Yes.\n\nQuestion: why?", ["\n\nQuestion:"]) == "Yes."
    assert cut_at("Yes. No.", ["No", "Yes"]) == "" and cut_at("Yes.", ()) == "Yes."
    finished = _finish_all([Cut("It opens at"), Cut("At nine. When"), "At nine.", "\ud83d"], (" When",), False)
    assert finished == ["It opens at", "At nine.", "At nine.", "?"]
    assert [type(reply) for reply in finished] == [Cut, str, str, str]


def test_refusals_are_raised_unless_they_are_kept(echo):
    with pytest.raises(Refused, match="8 letters"):
        echo.complete(["ab", "a long prompt"])
    reply, refused = echo.complete(["ab", "a long prompt"], keep_refused=True)
    assert reply == "ba" and isinstance(refused, Refused)


def test_what_an_llm_does_not_know_about_itself(echo):
    assert (echo.concurrency, echo.in_flight, echo.structured) == (1, 64, False)
    assert echo.context_left([user("hi")]) == 10**6
    assert echo.first_token_logprobs(["hi"], ["Yes", "No"]) is None
    assert echo.count_tokens("") >= 0 and echo.count_tokens("Größe 🥚 \ud83d") >= len("Größe 🥚 \ud83d") / 2
    for llm in (echo, Replay([]), CallableLLM(str)):
        with pytest.raises(DataError, match=f"a {type(llm).__name__} can't be saved"):
            llm.to_dict()


def test_usage():
    usage = Usage(prices=(.5, 2.))
    usage.add(calls=2, prompt_tokens=30_000, completion_tokens=12_000, seconds=.5)
    before = Usage(**{**vars(usage)})
    usage.add(calls=1, completion_tokens=5)
    assert str(before) == "2 calls, 30,000 tokens read, 12,000 written, $0.04"
    assert (usage - before).to_dict() == dict(calls=1, prompt_tokens=0, completion_tokens=5, seconds=0., cost=1e-5)


def test_meters_count_their_own_thread_only(echo):
    with echo.meter() as outer:
        echo.usage.add(calls=1, completion_tokens=5)
        with echo.meter() as inner, Echo().meter() as of_another:
            echo.usage.add(calls=1)
        thread = threading.Thread(target=echo.usage.add, args=(1,))
        thread.start()
        thread.join()
    echo.usage.add(calls=1)
    assert (outer.calls, inner.calls, of_another.calls, echo.usage.calls) == (2, 1, 0, 4)


def test_functions_as_llms():
    def shout(messages):
        return messages[-1]["content"].upper()

    llm = CallableLLM(shout)
    assert llm.name == "shout" and CallableLLM(shout, "loud").name == "loud"
    assert llm.chat(["hi", [user("ho")]]) == ["HI", "HO"] and llm.complete("abc", stop="C") == "AB"
    assert llm.usage.calls == 3 and llm.usage.prompt_tokens > 0 < llm.usage.completion_tokens
    assert type(CallableLLM(lambda messages: Cut("At")).chat("hi")) is Cut
    with pytest.raises(Refused, match="no time"):
        CallableLLM(lambda messages: Refused("no time")).chat("hi")
    for wrong in (None, 7, b"hi", ["hi"]):
        with pytest.raises(LLMError, match="wrong must return a text"):
            CallableLLM(lambda messages: wrong, "wrong").chat("hi")


def test_replay_plays_lists_dicts_and_functions():
    llm = Replay(["one", "two"])
    assert llm.complete(["a", "b"]) == ["one", "two"]
    with pytest.raises(LLMError, match="record more"):
        llm.complete("c")
    assert Replay({"hi": "hello"}).chat("hi") == "hello" and Replay(str.upper).complete(["x"]) == ["X"]
    with pytest.raises(LLMError, match="no reply was recorded for 'ho'"):
        Replay({"hi": "hello"}).chat("ho")
    reply, refused = Replay({"hi": "hello", "ho": Refused("no")}).chat(["hi", "ho"], keep_refused=True)
    assert reply == "hello" and isinstance(refused, Refused)
    with pytest.raises(DataError, match="a recording goes to a file"):
        Replay({"hi": "hello"}, record=llm)


def test_a_recording_is_played_and_added_to(tmp_path, echo):
    tape = tmp_path/"new"/"tape.jsonl"
    recorder = Replay(tape, record=echo)
    assert recorder.chat(["hi", "ho"]) == ["HI", "HO"] and recorder.complete("abc", temperature=0) == "cba"
    player = Replay(str(tape))
    assert player.chat(["hi", "ho"]) == ["HI", "HO"] and player.name == "llm" and Replay(tape, "mine").name == "mine"
    for settings in (dict(temperature=.5), dict(seed=[5]), dict(max_tokens=9), dict(stop="c")):
        with pytest.raises(LLMError, match="give record=llm"):
            player.complete("abc", **settings)
    assert Replay(tape, record=echo).complete(["abc", "xyz"], temperature=0) == ["cba", "zyx"]
    assert echo.settings["max_tokens"] == [256]  # only the new one was asked for
    assert Replay(tape).complete(["xyz"], temperature=0, seed=_seeds(0, 2)[1:]) == ["zyx"]


def test_each_reply_of_a_recording_has_its_own_limit(tmp_path, echo):
    tape = tmp_path/"tape.jsonl"
    Replay(tape, record=echo).chat(["hi", "ho"], max_tokens=[3, 4], seed=[1, 2])
    assert Replay(tape).chat("ho", max_tokens=4, seed=[2]) == "HO"
    with pytest.raises(LLMError, match="give record=llm"):
        Replay(tape).chat("ho", max_tokens=3, seed=[2])


def test_recordings_of_before_are_still_read(tmp_path):
    tape = tmp_path/"tape.jsonl"
    tape.write_text('{"name": "llm"}\n["6c8d1762ebc530b785037e6e", "cba"]\n')
    assert Replay(tape).complete("abc", temperature=0, seed=[3], stop=["x"]) == "cba"


def test_torn_empty_and_foreign_recordings(tmp_path, echo):
    tape = tmp_path/"tape.jsonl"
    Replay(tape, record=echo).chat("hi")
    whole = tape.read_bytes()
    tape.write_bytes(whole + b'["torn')
    assert Replay(tape).chat("hi") == "HI" and tape.read_bytes() == whole
    with pytest.raises(DataError, match="is a recording of llm, not of loud: name another file"):
        Replay(tape, record=CallableLLM(str, "loud"))
    with pytest.raises(DataError, match="give record=llm to make one"):
        Replay(tmp_path/"none.jsonl")
    (tmp_path/"empty.jsonl").touch()
    with pytest.raises(DataError, match="is empty: give record=llm to make it"):
        Replay(tmp_path/"empty.jsonl")


def test_a_recording_remembers_cuts_and_forgets_refusals(tmp_path):
    tape = tmp_path/"tape.jsonl"
    llm = Replay({"hi": Cut("hello, my"), "ho": Refused("no")})
    replies = Replay(tape, record=llm).chat(["hi", "ho"], seed=[0, 1], keep_refused=True)
    assert [type(reply) for reply in replies] == [Cut, Refused]
    assert [json.loads(line)[1] for line in tape.read_text().splitlines()[1:]] == [dict(cut="hello, my")]
    assert isinstance(Replay(tape).chat("hi", seed=[0]), Cut)
    with pytest.raises(LLMError, match="give record=llm"):
        Replay(tape).chat("ho", seed=[1])
