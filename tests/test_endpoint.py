"A client among servers that misbehave"
import asyncio
import json
import math
import multiprocessing
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
import numpy as np
import pytest
from aligners_nb.criterion import Criterion, DataError, LLMError
from aligners_nb.endpoint import Endpoint, _run_on_loop
from aligners_nb.llm import Cut, Refused, Replay, _seeds
from aligners_nb.prompts import DRAFT_SCHEMA
from aligners_nb.store import read_units
from aligners_nb.synthesis import synthesize
from server import FAULTS, scripted, serving

polite = Criterion("polite", ["Never insult the reader."])
NOWHERE = "http://127.0.0.1:9/v1"
PROXY_VARIABLES = "http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY".split()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def numbered(n):
    return [f"q{i}" for i in range(n)]


def expected(questions):
    "The scripted replies with seeds 0, 1, 2, …"
    return [scripted(question, seed) for seed, question in enumerate(questions)]


def body(content="Yes.", finish_reason="stop", **message):
    "What a chat server sends"
    return dict(choices=[dict(finish_reason=finish_reason, message=dict(content=content, **message))])


def complaint(message):
    return dict(error=dict(message=message))


def always(answer, code=200):
    "A server's script that sends the same each time"
    return lambda call, number: (code, answer)


def with_warnings(function):
    "What `function` returns, and its warnings"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = function()
    return value, [str(each.message) for each in caught]


# Passing failures

@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault):
    questions = [f"question {i}" for i in range(12)]
    with serving(share=.3, faults=[fault], hang=1.5) as server:
        llm = Endpoint(server.url, concurrency=8, timeout=.5)
        assert llm.chat(questions, seed=range(12)) == expected(questions)
        assert llm.usage.calls >= 12  # a reply that can't be read costs, too
        assert server.counts[fault] > 0


@pytest.mark.slow
def test_a_thousand_rows_through_a_storm(tmp_path):
    with serving() as calm:
        undisturbed = synthesize(polite, Endpoint(calm.url, concurrency=32), n=1000, progress=False).to_list()
    with serving(share=.3, hang=4.) as storm:
        llm = Endpoint(storm.url, concurrency=32, timeout=2.)
        rows = synthesize(polite, llm, n=1000, out=tmp_path, progress=False).to_list()
    assert all(storm.counts[fault] > 10 for fault in FAULTS)
    assert rows == undisturbed
    assert len({row["id"] for row in rows}) == 1000


def test_retry_after_is_honoured():
    with serving(share=1., faults=["busy_until"]) as server:
        with pytest.raises(LLMError):
            Endpoint(server.url, max_retries=3).chat("hi")
    pauses = [after["at"] - before["at"] for before, after in zip(server.calls, server.calls[1:])]
    assert len(server.calls) == 4
    assert all(.2 <= pause < .5 for pause in pauses)  # unasked, the third would be a second and more


@pytest.mark.parametrize("pace", [None, 60_000])
@pytest.mark.parametrize("code, headers, pause", [
    (429, {"Retry-After": "1"}, 1),
    (503, {"retry-after-ms": "900"}, .9),
    (408, {}, .5),
    (409, {}, .5),
    (200, {}, .5),
    (429, {"Retry-After": None}, 1),
])
def test_pauses_are_the_same_with_and_without_a_pace(pace, code, headers, pause):
    def script(call, number):
        if number:
            return 200, body()
        in_two_seconds = formatdate(time.time() + 2, usegmt=True)
        return code, "" if code == 200 else {}, {name: value or in_two_seconds for name, value in headers.items()}

    with serving(script=script) as server:
        assert Endpoint(server.url, requests_per_minute=pace).chat("hi") == "Yes."
    assert len(server.calls) == 2
    assert pause*.9 <= server.calls[1]["at"] - server.calls[0]["at"] < pause + 1.2


def test_a_server_that_asks_for_an_hour_is_not_waited_for():
    with serving(script=lambda call, number: (429, {}, {"Retry-After": "3600"})) as server:
        with pytest.raises(LLMError, match="is busy"):
            Endpoint(server.url).chat("hi")
    assert len(server.calls) == 1


def test_no_more_calls_at_a_time_than_asked():
    for concurrency in (2, 5):
        with serving(delay=.02, slots=99) as server:
            Endpoint(server.url, concurrency=concurrency).chat(numbered(20))
        assert server.most == concurrency


def test_the_pace_holds_for_retries_too():
    with serving(share=1., faults=["busy"]) as server:
        with pytest.raises(LLMError):
            Endpoint(server.url, max_retries=4, requests_per_minute=300).chat("hi")
    assert len(server.calls) == 5
    assert all(after["at"] - before["at"] > .19 for before, after in zip(server.calls, server.calls[1:]))


# Fleets

def test_a_fleet_shares_the_work():
    with serving() as first, serving() as second:
        Endpoint([first.url, second.url]).chat(numbered(40))
    assert len(first.calls) == len(second.calls) == 20


def test_a_fleet_goes_on_when_a_server_fails_or_is_gone():
    questions = numbered(20)
    with serving() as good, serving(share=1., faults=["cut"]) as bad:
        assert Endpoint([good.url, bad.url], max_retries=0).chat(questions, seed=range(20)) == expected(questions)
    with serving() as good:
        reply, notes = with_warnings(lambda: Endpoint([good.url, NOWHERE]).chat("hi", seed=3))
    assert reply == scripted("hi", _seeds(3, 1)[0])
    assert any("going on with the other 1" in warning for warning in notes)


def test_a_server_that_hangs_costs_one_timeout():
    with serving() as good, serving(share=1., faults=["hang"], hang=9.) as bad:
        start = time.monotonic()
        assert Endpoint([bad.url, good.url], timeout=.5).chat("hi", seed=[3]) == scripted("hi", 3)
        assert time.monotonic() - start < 3
        assert len(bad.calls) == 1


def test_a_server_that_hangs_is_set_aside():
    questions = numbered(60)
    with serving() as good, serving(share=1., faults=["hang"], hang=9.) as bad:
        start = time.monotonic()
        llm = Endpoint([bad.url, good.url], timeout=.5, concurrency=2)
        assert llm.chat(questions, seed=range(60)) == expected(questions)
        assert time.monotonic() - start < 5
        assert len(bad.calls) <= 4


def test_each_server_of_a_fleet_has_its_own_pause():
    def busy_for(seconds):
        return lambda call, number: (200, body()) if number else (429, {}, {"Retry-After": seconds})

    with serving(script=busy_for("3")) as slow, serving(script=busy_for("0.3")) as quick:
        start = time.monotonic()
        assert Endpoint([slow.url, quick.url]).chat("hi") == "Yes."
        assert time.monotonic() - start < 2
        assert (len(slow.calls), len(quick.calls)) == (1, 2)


def test_a_server_with_another_model_is_left_out():
    questions = numbered(9)
    no_model = always(complaint("no such model"), 404)
    for models in ((200, dict(data=[dict(id="other")])), (404, {})):
        with serving() as good, serving(script=no_model, models=models) as other:
            llm = Endpoint([other.url, good.url], "scribe")
            replies, notes = with_warnings(lambda: llm.chat(questions, seed=range(9)))
        assert replies == expected(questions)
        assert len(notes) == 1 and "has no model 'scribe'" in notes[0]
    with serving(script=no_model) as first, serving(script=no_model) as second:
        with pytest.raises(LLMError, match="has no model"):
            with_warnings(lambda: Endpoint([first.url, second.url]).chat(["hi"]*8))


def test_the_same_server_twice_is_one():
    with serving() as server:
        llm = Endpoint([server.url, server.url])
        assert with_warnings(lambda: llm.chat("hi", seed=[3])) == (scripted("hi", 3), [])


# Failures of all prompts, and of one

def test_a_failure_of_all_calls_is_raised_at_once():
    start = time.monotonic()
    with pytest.raises(LLMError, match="nothing answers.*is the server running"):
        Endpoint(NOWHERE).complete(["hi"]*100)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("fault, settings, message", [
    ("empty", dict(max_retries=2), "no readable replies"),
    ("hang", dict(timeout=.2, max_retries=1), "larger timeout"),
    ("busy", dict(max_retries=1), "requests_per_minute"),
])
def test_a_failure_that_stays_says_what_to_do(fault, settings, message):
    with serving(share=1., faults=[fault], hang=1.) as server:
        with pytest.raises(LLMError, match=message):
            Endpoint(server.url, **settings).chat("hi")


def failing(code, questions):
    "A server's script that fails on these questions"
    def script(call, number):
        is_bad = call["messages"][0]["content"] in questions
        return (code, complaint("never this")) if is_bad else (200, body())
    return script


@pytest.mark.parametrize("code", [500, 503, 200])
def test_a_prompt_that_fails_for_good_costs_itself(code):
    questions = numbered(6)
    with serving(script=failing(code, questions[:3])) as server:
        llm = Endpoint(server.url, max_retries=1)
        replies = llm.chat(questions, keep_refused=True)
        assert [isinstance(reply, Refused) for reply in replies] == [True]*3 + [False]*3
        assert "never this" in str(replies[0])
        with pytest.raises(LLMError, match="never this"):
            llm.chat(questions)
        assert isinstance(llm.chat(questions[:1], keep_refused=True)[0], Refused)
    with serving(script=failing(code, questions[:4])) as server:
        with pytest.raises(LLMError, match="never this"):
            Endpoint(server.url, max_retries=1).chat(questions, keep_refused=True)


def test_a_403_is_about_the_key_until_something_was_answered():
    with serving(script=failing(403, ["bad"])) as server:
        llm = Endpoint(server.url, concurrency=1)
        with pytest.raises(LLMError, match="refuses the key"):
            llm.chat(["bad", "a"], keep_refused=True)
        good, bad = llm.chat(["a", "bad"], keep_refused=True)
    assert good == "Yes."
    assert "never this" in str(bad) and "key" not in str(bad)


def test_a_call_that_is_turned_down_costs_its_row_only(tmp_path):
    with serving(share=1., faults=["picky"]) as server:
        llm = Endpoint(server.url)
        rows = synthesize(polite, llm, n=80, out=tmp_path, progress=False)
        units = read_units(tmp_path/"rows.jsonl")
        errors = [row["error"] for unit in units for row in unit.get("rows", []) if "error" in row]
        assert len(set(rows["question"])) == 80
        assert errors and all("bad call" in error for error in errors)
        assert len(synthesize(polite, llm, n=40, calls="json", progress=False)) == 40
        assert llm.structured  # it was not the schema that was turned down
    with serving(share=1., faults=["echo"]) as server:
        with pytest.raises(LLMError, match="bad call"):
            synthesize(polite, Endpoint(server.url), n=8, progress=False)


# What is sent

def test_seeds_limits_and_schemas_arrive():
    with serving() as server:
        llm = Endpoint(server.url)
        assert llm.chat("hi", seed=[5]) != llm.chat("hi", seed=[6])
        assert [call["seed"] for call in server.calls] == [5, 6]
        assert set(json.loads(llm.chat("hi", schema=DRAFT_SCHEMA))) == {"response", "critique", "correction"}
        rows = synthesize(polite, llm, n=12, calls="json", progress=False)
        assert len(rows) == 12 and rows[0]["critique"].startswith("critique")


def test_each_prompt_has_its_own_limit():
    def limits(calls, key):
        return {json.dumps(call[key]): call["max_tokens"] for call in calls}

    with serving() as server:
        llm = Endpoint(server.url, "scribe")
        llm.chat(["a", "b", "c"], max_tokens=[3, 5, 7])
        llm.complete(["a", "b", "c"], max_tokens=[4, 6, 8])
    assert sorted(limits(server.calls[:3], "messages").values()) == [3, 5, 7]
    assert limits(server.calls[3:], "prompt") == {'"a"': 4, '"b"': 6, '"c"': 8}
    with serving(script=always(body("", "length"))) as server:
        replies = Endpoint(server.url).chat(["a", "b"], max_tokens=[3, 5], keep_refused=True)
    assert "all 3 tokens" in str(replies[0]) and "all 5 tokens" in str(replies[1])


@pytest.mark.parametrize("code, message", [
    (404, "Not Found"),
    (405, "no"),
    (501, "no"),
    (400, "The completion operation does not work with the specified model, gpt-4o."),
])
@pytest.mark.parametrize("models", [(200, dict(data=[dict(id="other")])), (404, {}), None])
def test_a_server_that_only_chats(code, message, models):
    def script(call, number):
        return (200, body()) if "messages" in call else (code, complaint(message))

    with serving(script=script, models=models) as server:
        llm = Endpoint(server.url, "scribe")
        assert llm.complete("hi") == "Yes."
        assert llm.complete("hi") == "Yes."
    assert ["messages" in call for call in server.calls] == [False, True, True]


@pytest.mark.parametrize("code", [400, 422])
@pytest.mark.parametrize("name", ["seed", "temperature", "stop", "response_format"])
def test_a_parameter_that_is_turned_down_is_left_out(code, name):
    def script(call, number):
        if name in call:
            return code, complaint(f"Unsupported value: '{name}' does not support this")
        return 200, body('{"a": 1}')

    with serving(script=script) as server:
        llm = Endpoint(server.url, concurrency=1)

        def ask():
            schema = dict(type="object") if llm.structured else None
            return llm.chat(["hi", "ho"], seed=3, stop="}}", schema=schema)

        replies, notes = with_warnings(ask)
        assert replies == ['{"a": 1}']*2
        assert len(notes) == 1 and len(server.calls) == 3
        assert llm.structured == (name != "response_format")
        assert with_warnings(ask) == (replies, []) and len(server.calls) == 5


def test_a_newer_name_of_the_limit_is_learned():
    def script(call, number):
        if "max_tokens" in call:
            return 400, complaint("Unsupported parameter: use 'max_completion_tokens' instead")
        return 200, body()

    with serving(script=script) as server:
        llm = Endpoint(server.url)
        assert [llm.chat("hi", max_tokens=7), llm.chat("hi", max_tokens=8)] == ["Yes.", "Yes."]
    assert [call.get("max_completion_tokens") for call in server.calls] == [None, 7, 8]


def test_a_parameter_is_not_to_blame_for_a_prompt_that_is_turned_down():
    def script(call, number):
        is_long = "long" in str(call["messages"])
        return (400, complaint("the prompt is too long, seed or not")) if is_long else (200, body())

    with serving(script=script) as server:
        llm = Endpoint(server.url)
        (refused, reply), notes = with_warnings(lambda: llm.chat(["long", "hi"], keep_refused=True))
    assert isinstance(refused, Refused) and reply == "Yes."
    assert not notes and not llm.left_out


# What is read

DEEP = "[" * 200_000
NO_REPLIES = [
    dict(choices={"0": 1}), dict(choices=[7]), dict(choices=[dict(message="hi")]), dict(choices=[dict(message=[1])]),
    dict(body([7])), [], "hello", None, 7, DEEP, "<html>", dict(error="out of memory"),
    dict(error=dict(message="out of memory")),
]


@pytest.mark.parametrize("sent", NO_REPLIES, ids=lambda sent: str(sent)[:20])
def test_an_unreadable_reply_is_asked_for_again(sent):
    with serving(script=always(sent)) as server:
        with pytest.raises(LLMError, match="no readable replies") as raised:
            Endpoint(server.url, "scribe", max_retries=1).chat("hi")
    assert len(server.calls) == 2
    assert "error" not in str(sent) or "out of memory" in str(raised.value)
    with serving(script=lambda call, number: (200, body() if number else sent)) as server:
        assert Endpoint(server.url, "scribe").chat("hi") == "Yes."


ODD_USAGES = [dict(prompt_tokens="12", completion_tokens="x"), dict(prompt_tokens=[1]), "much", None, 7,
              dict(prompt_tokens=-1.5, completion_tokens={})]


@pytest.mark.parametrize("usage", ODD_USAGES)
def test_odd_counts_of_tokens_do_no_harm(usage):
    with serving(script=always(body() | dict(usage=usage))) as server:
        assert Endpoint(server.url).chat("hi") == "Yes."


ODD_LISTS = ["<html>", DEEP, [], 7, None, dict(data=None), dict(data=[7]), dict(data=[dict(id=None)]), dict(error="no")]


@pytest.mark.parametrize("models", ODD_LISTS, ids=lambda models: str(models)[:20])
def test_a_list_of_models_may_be_anything(models):
    with serving(models=(200, models)) as server:
        with pytest.raises(LLMError, match="lists no models"):
            Endpoint(server.url).chat("hi")
        assert Endpoint(server.url, "scribe").chat("hi", seed=[3]) == scripted("hi", 3)


def test_a_server_without_a_list_of_models():
    with serving(models=(404, {})) as server:
        with pytest.raises(LLMError, match="end in /v1"):
            Endpoint(server.url).chat("hi")


@pytest.mark.parametrize("sent, text", [
    (body(), "Yes."),
    (body([dict(type="text", text="Ye"), dict(type="text", text="s.")]), "Yes."),
    (body(None), ""),
    (body(None, refusal="No."), "No."),
])
def test_readable_replies(sent, text):
    with serving(script=always(sent)) as server:
        assert Endpoint(server.url).chat("hi") == text


@pytest.mark.parametrize("reason", ["stop", "STOP", "end_turn", "eos_token", "", None])
def test_a_reply_that_came_to_its_end_is_whole(reason):
    with serving(script=always(body(finish_reason=reason))) as server:
        assert type(Endpoint(server.url).chat("hi")) is str


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "max_output_tokens"])
def test_a_reply_that_used_up_its_tokens_is_cut(reason):
    with serving(script=always(body(finish_reason=reason))) as server:
        llm = Endpoint(server.url)
        assert isinstance(llm.chat("hi"), Cut)
        assert type(llm.chat("hi", stop="s")) is str  # it had come to its end before
    for content in (None, ""):
        with serving(script=always(body(content, reason))) as server:
            with pytest.raises(Refused, match="used all 9 tokens.*raise max_tokens"):
                Endpoint(server.url).chat("hi", max_tokens=9)
        assert len(server.calls) == 1


@pytest.mark.parametrize("content", ["The library opens at", None])
@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "tool_calls", "never_heard_of", 7])
def test_a_reply_that_the_server_stopped_is_refused(reason, content):
    with serving(script=always(body(content, reason))) as server:
        reply, = Endpoint(server.url).chat(["hi"], keep_refused=True)
    assert isinstance(reply, Refused) and str(reason).lower() in str(reply)
    assert len(server.calls) == 1


def test_completions_have_reasons_too():
    def script(call, number):
        return 200, dict(choices=[dict(text="The library", finish_reason=["content_filter", "max_tokens"][number])])

    with serving(script=script) as server:
        llm = Endpoint(server.url, concurrency=1)
        refused, cut = llm.complete(["a", "b"], keep_refused=True)
    assert isinstance(refused, Refused) and isinstance(cut, Cut)


def test_a_reply_that_broke_off_is_asked_for_again():
    with serving(script=lambda call, number: (200, body() if number else body("Ye", "error"))) as server:
        assert Endpoint(server.url).chat("hi") == "Yes."
    assert len(server.calls) == 2


# Keys and proxies

def test_a_key_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-very-secret\n")
    with serving(share=1., faults=["error"]) as server:
        llm = Endpoint(server.url, max_retries=0)
        with pytest.raises(LLMError) as raised:
            llm.chat("hi")
    assert "secret" not in f"{raised.value}{llm!r}{vars(llm)}{llm.to_dict()}"
    assert raised.value.__cause__ is None and raised.value.__context__ is None
    with serving(share=1., faults=["echo"]) as server:
        with pytest.raises(LLMError, match="bad call by Bearer …") as raised:
            Endpoint(server.url).chat("hi")
    assert "secret" not in str(raised.value)


def test_a_query_is_sent_and_shown_nowhere():
    def script(call, number):
        return 500, complaint(f"bad key {call['path']}")

    with serving(script=script) as server:
        url = f"{server.url}?api-key=secret"
        llm = Endpoint(url, max_retries=0)
        with pytest.raises(LLMError, match="try later") as raised:
            llm.chat("hi")
    assert server.calls[0]["path"] == "/v1/chat/completions?api-key=secret"
    assert "secret" not in f"{raised.value}{llm!r}{Endpoint(url).name}"


@pytest.mark.parametrize("key", ["sk-abc\n", "sk-abc\r\n", "  sk-abc\t", "\u00a0sk-abc", "", " \n"])
def test_white_space_around_a_key_is_left_out(monkeypatch, key):
    monkeypatch.setenv("CARD", key)
    with serving() as server:
        Endpoint(server.url, key_env="CARD").chat("hi")
    assert server.calls[0]["key"] == f"Bearer {key.strip() or 'none'}"


@pytest.mark.parametrize("key, fault", [
    ('"sk-abc"', "quotes"), ("'sk-abc'", "quotes"), ('sk-abc"', "quotes"), ("sk-abc\nsk-abc", "line end"),
    ("Bearer sk-abc", "a space"), ("sk\x1babc", "line end"), ("sk-äbc", "not ASCII"), ("“sk-abc”", "not ASCII"),
    ("sk-\u200babc", "not ASCII"),
])
@pytest.mark.parametrize("variable", ["CARD", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_a_key_that_can_not_be_one_is_named_and_not_shown(monkeypatch, variable, key, fault):
    monkeypatch.setenv(variable, key)
    with serving() as server:
        with pytest.raises(LLMError, match=f"{variable} in the environment has .*{fault}") as raised:
            Endpoint(server.url, key_env="CARD").chat("hi")
    assert "abc" not in str(raised.value) and not server.calls


def test_a_key_that_is_turned_down(monkeypatch):
    with serving(models=(401, {})) as server:
        with pytest.raises(LLMError, match=r"set CARD in the environment \(CARD is not set\)"):
            Endpoint(server.url, key_env="CARD").chat("hi")
        monkeypatch.setenv("CARD", "sk-abc")
        with pytest.raises(LLMError, match="set CARD in the environment$"):
            Endpoint(server.url, key_env="CARD").chat("hi")


@pytest.mark.parametrize("variable, proxy", [
    ("http_proxy", "http://127.0.0.1:9"), ("HTTP_PROXY", "127.0.0.1:9"), ("all_proxy", "http://127.0.0.1:9"),
    ("ALL_PROXY", "socks://me:secret@127.0.0.1:9/"), ("all_proxy", "socks5://127.0.0.1:9"),
    ("http_proxy", "http://127.0.0.1:port"), ("http_proxy", "http://ghost.invalid:3128"),
])
def test_a_proxy_that_does_not_work_is_named(monkeypatch, capfd, variable, proxy):
    monkeypatch.setenv(variable, proxy)
    with serving() as server:
        start = time.monotonic()
        with pytest.raises(LLMError, match=f"the proxy in {variable}") as raised:
            Endpoint(server.url).chat("hi")
        assert time.monotonic() - start < 5
        assert "running" not in str(raised.value) and "secret" not in str(raised.value)
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
        assert Endpoint(server.url).chat("hi", seed=[3]) == scripted("hi", 3)
    _run_on_loop(asyncio.sleep(.1))
    assert "never retrieved" not in capfd.readouterr().err


def test_a_proxy_for_other_addresses_is_no_trouble(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with serving() as server:
        assert Endpoint(server.url).chat("hi", seed=[3]) == scripted("hi", 3)
        monkeypatch.setenv("https_proxy", "socks://127.0.0.1:9")
        assert Endpoint(server.url).chat("hi", seed=[3]) == scripted("hi", 3)
    with pytest.raises(LLMError, match="nothing answers.*is the server running"):
        Endpoint(NOWHERE).chat("hi")


@pytest.mark.parametrize("code", [403, 407, 502, 503])
def test_a_proxy_that_answers_itself_is_named(monkeypatch, code):
    with serving(script=always("<html>no way</html>", code), models=(code, "<html>no way</html>")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        with pytest.raises(LLMError, match="the proxy in http_proxy"):
            Endpoint("http://library.invalid/v1", "scribe", max_retries=1).chat("hi")


def test_a_proxy_that_works_is_used_and_not_blamed(monkeypatch):
    def script(call, number):
        return (200, body()) if number == 0 else (500, complaint("out of memory"))

    with serving(script=script) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        llm = Endpoint("http://library.invalid/v1", max_retries=0)
        assert llm.chat("hi") == "Yes."
        with pytest.raises(LLMError, match="out of memory") as raised:
            llm.chat("hi")
    assert "proxy" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "ftp://a.org", "http://a.org:port/v1",
                                 "http://a.org:99999999/v1", "http://[::1/v1", "", []])
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(DataError, match="looks like http://localhost:8000/v1"):
        Endpoint(url)


# Log-probabilities of first tokens

def showing(chances):
    "A server's script that shows these first tokens"
    top = [dict(token=token, logprob=math.log(p)) for token, p in chances.items()]
    sent = body("Yes", "length")
    sent["choices"][0]["logprobs"] = dict(content=[dict(top[0], top_logprobs=top)] if top else [])
    return lambda call, number: (200, sent)


def test_first_tokens_and_bounds():
    chances = {"Yes": .6, " yes": .1, "No": .2, "N": .05, "\n": .01}
    with serving(script=showing(chances)) as server:
        llm = Endpoint(server.url)
        logprobs = llm.first_token_logprobs(["Is it?", "Was it?"], ["Yes", " No", "Nobody", "yes", "Maybe"])
        assert llm.first_token_logprobs([], ["Yes"]).shape == (0, 1)
    assert [call["max_tokens"] for call in server.calls] == [1, 1]
    assert np.allclose(np.exp(logprobs), [[.6, .2, .2, .1, .01]]*2)
    with serving(script=showing({"Yes": .9999})) as server:  # the only token shown is no bound, what is left of 1 is
        yes, no = np.exp(Endpoint(server.url).first_token_logprobs(["Is it?"], ["Yes", "No"])[0])
    assert np.isclose(yes, .9999) and np.isclose(no, .0001)


def test_a_server_that_shows_no_tokens():
    with serving(script=always(body())) as server:
        assert Endpoint(server.url).first_token_logprobs(["Is it?"], ["Yes"]) is None
    with serving(script=showing({"Yes": .9})) as server:
        assert Endpoint(server.url).first_token_logprobs(["Is it?"], ["Yes"], prefix="Well, ") is None
    assert not server.calls


def test_a_reply_without_a_token_is_not_known():
    none, some = showing({})({}, 0), showing({"Yes": .5})({}, 0)
    with serving(script=lambda call, number: none if "?" in str(call["messages"]) else some) as server:
        logprobs = Endpoint(server.url).first_token_logprobs(["Is it?", "It is."], ["Yes"])
    assert np.isnan(logprobs[0, 0]) and np.isclose(np.exp(logprobs[1, 0]), .5)


@pytest.mark.parametrize("most", [20, 5, 0])
@pytest.mark.parametrize("message", ["top_logprobs is too large", "no more than {most} tokens can be shown"])
def test_a_server_that_shows_fewer_tokens(most, message):
    shown = showing({"Yes": .5})

    def script(call, number):
        if call.get("top_logprobs", 0) > most:
            return 422, complaint(message.format(most=most))
        return shown(call, number)

    with serving(script=script) as server:
        llm = Endpoint(server.url, concurrency=1)
        logprobs, _ = with_warnings(lambda: llm.first_token_logprobs(["Is it?", "Was it?"], ["Yes"]))
    assert np.allclose(np.exp(logprobs), .5)
    accepted = [call.get("top_logprobs") for call in server.calls][-2:]
    assert accepted == ([None]*2 if most == 0 else [most]*2)


def test_a_server_that_turns_log_probabilities_down():
    def script(call, number):
        if "logprobs" in call or "top_logprobs" in call:
            return 400, complaint("logprobs is not supported")
        return 200, body()

    with serving(script=script) as server:
        llm = Endpoint(server.url)
        logprobs, notes = with_warnings(lambda: llm.first_token_logprobs(["Is it?"], ["Yes"]))
        n_calls = len(server.calls)
        assert logprobs is None and any("takes no logprobs" in warning for warning in notes)
        assert llm.first_token_logprobs(["Is it?"], ["Yes"]) is None and len(server.calls) == n_calls


def test_a_prompt_without_first_tokens_is_raised():
    with serving(script=always(complaint("the prompt is too long"), 400)) as server:
        llm = Endpoint(server.url)
        with pytest.raises(Refused, match="^conversation 0: .*too long"):
            llm.first_token_logprobs(["Is it?"], ["Yes"])
    assert not llm.left_out and llm.top_logprobs == 20


# Endpoints come, go, and are saved

def test_settings_make_the_same_endpoint():
    llm = Endpoint(["http://a.org/v1", "http://b.org/v1"], "scribe", concurrency=3, timeout=9., max_retries=2,
                   requests_per_minute=60., prices=(1., 2.), key_env="CARD")
    settings, notes = with_warnings(llm.to_dict)
    assert json.loads(json.dumps(settings)) == settings and not notes
    assert settings.pop("type") == "Endpoint"
    same = Endpoint(**settings)
    assert same.to_dict() == llm.to_dict()
    assert (same.usage.prices, same.in_flight, same.urls) == ((1., 2.), 24, llm.urls)


def test_secrets_in_an_address_are_not_saved():
    settings, notes = with_warnings(Endpoint("http://me:secret@a.org/v1?key=hush").to_dict)
    assert settings["base_url"] == ["http://a.org/v1"]
    assert len(notes) == 1 and "is not saved" in notes[0] and "secret" not in notes[0] and "hush" not in notes[0]


def test_a_run_is_named_after_the_model_and_goes_on_under_that_name(tmp_path):
    with serving() as server:
        llm = Endpoint(server.url)
        rows = synthesize(polite, llm, n=12, out=tmp_path, progress=False).to_list()
        n_calls = len(server.calls)
        header = json.loads((tmp_path/"rows.jsonl").read_text().split("\n")[0])
        assert header["meta"]["llm"] == llm.name == "scribe"
        assert synthesize(polite, llm, n=12, out=tmp_path, progress=False).to_list() == rows
        assert len(server.calls) == n_calls


def test_the_same_rows_through_a_server_and_in_this_process():
    class Here(Replay):
        def _complete(self, prompts, seeds, **settings):
            return list(map(scripted, prompts, seeds))

    with serving() as server:
        rows = synthesize(polite, Endpoint(server.url), n=50, progress=False)
    assert rows.to_list() == synthesize(polite, Here([]), n=50, progress=False).to_list()


def test_an_endpoint_that_is_gone_has_closed_its_connections():
    with serving() as server:
        llm = Endpoint(server.url)
        llm.chat("hi")
        client = llm.servers[0].client
        assert not client.is_closed()
        del llm
        _run_on_loop(asyncio.sleep(.5))
        assert client.is_closed()


def _ask_in_child(llm, results):
    results.put(llm.chat("hi", seed=[3]))


def test_a_forked_process_asks_with_connections_of_its_own():
    context = multiprocessing.get_context("fork")
    with serving() as server:
        llm, results = Endpoint(server.url), context.Queue()
        assert llm.chat("hi", seed=[3]) == scripted("hi", 3)
        child = context.Process(target=_ask_in_child, args=(llm, results))
        child.start()
        assert results.get(timeout=20) == scripted("hi", 3)
        child.join(20)
        assert child.exitcode == 0
        assert llm.chat("ho", seed=[4]) == scripted("ho", 4)


def test_threads_share_an_endpoint_and_count_their_own_calls():
    with serving(delay=.1, slots=99) as server:
        llm = Endpoint(server.url, concurrency=4)

        def ask(n):
            questions = [f"q{n} {i}" for i in range(n)]
            with llm.meter() as used:
                replies = llm.chat(questions, seed=range(n))
            counts = (used.calls, used.prompt_tokens, used.completion_tokens, used.cost)
            return replies == expected(questions) and counts == (n, 10*n, 5*n, 0)

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(ask, range(1, 13)))
        assert server.most == 4
        assert llm.usage.calls == 78 and len(llm.servers) == 1


def test_threads_share_a_pace():
    with serving() as server:
        llm, start = Endpoint(server.url, requests_per_minute=1200), time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(llm.chat, "abcdefgh"))
        assert time.monotonic() - start > 7*.05
