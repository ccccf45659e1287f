"A client among servers that misbehave"
import asyncio, json, time, warnings
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
import pytest
from aligners_nb.criterion import Criterion, LLMError
from aligners_nb.endpoint import Endpoint, _wait
from aligners_nb.llm import Cut, Refused, Replay
from aligners_nb.prompts import DRAFT_SCHEMA
from aligners_nb.store import read_units
from aligners_nb.synthesis import synthesize
from server import FAULTS, scripted, serving

polite = Criterion("polite", ["Never insult the reader."])

@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault):
    with serving(share=.3, faults=[fault], hang=1.5) as s:
        llm = Endpoint(s.url, concurrency=8, timeout=.5); qs = [f"question {i}" for i in range(12)]
        assert llm.chat(qs, seed=range(12)) == [scripted(q, i) for i, q in enumerate(qs)] and llm.usage.calls >= 12 and s.counts[fault] > 0   # a reply that can not be read has cost something, too

@pytest.mark.slow
def test_a_thousand_rows_through_a_storm(tmp_path):
    with serving() as calm: want = synthesize(polite, Endpoint(calm.url, concurrency=32), n=1000, progress=False).to_list()
    with serving(share=.3, hang=4.) as s: got = synthesize(polite, Endpoint(s.url, concurrency=32, timeout=2.), n=1000, out=tmp_path, progress=False).to_list()
    assert all(s.counts[f] > 10 for f in FAULTS)
    assert got == want and len({r["id"] for r in got}) == 1000

def test_a_fleet_shares_the_work_and_goes_on_when_one_is_gone():
    with serving() as a, serving() as b:
        llm = Endpoint([a.url, b.url]); llm.chat([f"q{i}" for i in range(40)])
        assert len(a.calls) == len(b.calls) == 20
    with serving() as a, serving(share=1., faults=["cut"]) as b:
        llm = Endpoint([a.url, b.url], max_retries=0); qs = [f"q{i}" for i in range(20)]
        assert llm.chat(qs, seed=range(20)) == [scripted(q, i) for i, q in enumerate(qs)]
    with serving() as a, warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always"); llm = Endpoint([a.url, "http://127.0.0.1:9/v1"])
        assert llm.chat("hi", seed=3) == scripted("hi", llm_seed(3)) and any("going on with the other 1" in str(x.message) for x in w)

def llm_seed(s):
    from aligners_nb.llm import _seeds
    return _seeds(s, 1)[0]

def test_what_will_not_pass_is_said_at_once():
    t = time.monotonic()
    with pytest.raises(LLMError, match="nothing answers"): Endpoint("http://127.0.0.1:9/v1").complete(["hi"]*100)
    assert time.monotonic()-t < 5
    with serving(share=1., faults=["empty"]) as s, pytest.raises(LLMError, match="no readable replies"): Endpoint(s.url, max_retries=2).chat("hi")
    with serving(share=1., faults=["hang"], hang=1.) as s, pytest.raises(LLMError, match="larger timeout"): Endpoint(s.url, timeout=.2, max_retries=1).chat("hi")
    with serving(share=1., faults=["busy"]) as s, pytest.raises(LLMError, match="requests_per_minute"): Endpoint(s.url, max_retries=1).chat("hi")

def test_retry_after_is_honoured():
    with serving(share=1., faults=["busy_until"]) as s:
        with pytest.raises(LLMError): Endpoint(s.url, max_retries=3).chat("hi")
        gaps = [b["at"]-a["at"] for a, b in zip(s.calls, s.calls[1:])]
        assert len(s.calls) == 4 and all(.2 <= g < .5 for g in gaps)     # unasked, the third wait would be a second and more

def test_no_more_at_a_time_than_asked():
    for n in (2, 5):
        with serving(delay=.02, slots=99) as s: Endpoint(s.url, concurrency=n).chat([f"q{i}" for i in range(20)]); assert s.most == n

def test_the_pace_holds_for_retries_too():
    with serving(share=1., faults=["busy"]) as s:
        with pytest.raises(LLMError): Endpoint(s.url, max_retries=4, requests_per_minute=300).chat("hi")
        assert len(s.calls) == 5 and all(b["at"]-a["at"] > .19 for a, b in zip(s.calls, s.calls[1:]))

def test_a_server_that_hangs_costs_one_timeout():
    with serving() as a, serving(share=1., faults=["hang"], hang=9.) as b:
        llm = Endpoint([b.url, a.url], timeout=.5); t = time.monotonic()
        assert llm.chat("hi", seed=[3]) == scripted("hi", 3) and time.monotonic()-t < 3 and len(b.calls) == 1

def test_seeds_and_schemas_arrive():
    with serving() as s:
        llm = Endpoint(s.url); assert llm.chat("hi", seed=[5]) != llm.chat("hi", seed=[6]); assert [c["seed"] for c in s.calls] == [5, 6]
        assert set(json.loads(llm.chat("hi", schema=DRAFT_SCHEMA))) == {"response", "critique", "correction"}
        rows = synthesize(polite, llm, n=12, calls="json", progress=False); assert len(rows) == 12 and rows[0]["critique"].startswith("critique")

def test_a_call_that_is_turned_down_costs_its_row_only(tmp_path):
    with serving(share=1., faults=["picky"]) as s:
        llm = Endpoint(s.url); rows = synthesize(polite, llm, n=80, out=tmp_path, progress=False)
        lost = [r for u in read_units(tmp_path/"rows.jsonl") for r in u.get("rows", []) if "error" in r]
        assert len(set(rows["question"])) == 80 and lost and all("bad call" in r["error"] for r in lost)
        assert len(synthesize(polite, llm, n=40, calls="json", progress=False)) == 40 and llm.structured      # it was not the schema that was turned down
    with serving(share=1., faults=["echo"]) as s, pytest.raises(LLMError, match="bad call"): synthesize(polite, Endpoint(s.url), n=8, progress=False)

def test_a_run_is_named_after_the_model_and_goes_on_under_that_name(tmp_path):
    with serving() as s:
        llm = Endpoint(s.url); rows, asked = synthesize(polite, llm, n=12, out=tmp_path, progress=False), len(s.calls)
        assert json.loads((tmp_path/"rows.jsonl").read_text().split("\n")[0])["meta"]["llm"] == "scribe"
        assert synthesize(polite, llm, n=12, out=tmp_path, progress=False).to_list() == rows.to_list() and len(s.calls) == asked

def test_an_endpoint_that_is_gone_has_closed_its_connections():
    with serving() as s:
        llm = Endpoint(s.url); llm.chat("hi"); client, = llm.clients.values(); assert not client.is_closed()
        del llm; _wait(asyncio.sleep(.5)); assert client.is_closed()

def test_the_key_stands_nowhere(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with serving(share=1., faults=["error"]) as s:
        llm = Endpoint(s.url, max_retries=0)
        with pytest.raises(LLMError) as e: llm.chat("hi")
        assert "secret" not in f"{e.value}{llm!r}{vars(llm)}" and e.value.__cause__ is None
    with serving(share=1., faults=["echo"]) as s:
        with pytest.raises(LLMError, match="bad call by Bearer …") as e: Endpoint(s.url).chat("hi")
        assert "secret" not in str(e.value)

def test_the_same_rows_through_a_server_and_in_this_process():
    with serving() as s: got = synthesize(polite, Endpoint(s.url), n=50, progress=False)
    class Here(Replay):
        def _complete(self, prompts, seeds, **kw): return [scripted(p, k) for p, k in zip(prompts, seeds)]
    assert got.to_list() == synthesize(polite, Here([]), n=50, progress=False).to_list()

def said(content="Yes.", end="stop", **message): return dict(choices=[dict(finish_reason=end, message=dict(content=content, **message))])

def quiet(f):
    "What `f` returns, and its warnings"
    with warnings.catch_warnings(record=True) as w: warnings.simplefilter("always"); return f(), [str(x.message) for x in w]

DEEP = "[" * 200_000
@pytest.mark.parametrize("body", [dict(choices={"0": 1}), dict(choices=[7]), dict(choices=[dict(message="hi")]), dict(choices=[dict(message=[1])]), dict(said([7])), [], "hello", None, 7, DEEP, "<html>", dict(error="out of memory"), dict(error=dict(message="out of memory"))], ids=lambda b: str(b)[:20])
def test_what_is_no_reply_is_said_to_be_none(body):
    with serving(script=lambda d, n: (200, body)) as s:
        with pytest.raises(LLMError, match="no readable replies") as e: Endpoint(s.url, "scribe", max_retries=1).chat("hi")
        assert len(s.calls) == 2 and ("error" not in str(body) or "out of memory" in str(e.value))
    with serving(script=lambda d, n: (200, body if n == 0 else said())) as s: assert Endpoint(s.url, "scribe").chat("hi") == "Yes."

@pytest.mark.parametrize("usage", [dict(prompt_tokens="12", completion_tokens="x"), dict(prompt_tokens=[1]), "much", None, 7, dict(prompt_tokens=-1.5, completion_tokens={})])
def test_odd_counts_of_tokens_do_no_harm(usage):
    with serving(script=lambda d, n: (200, said() | dict(usage=usage))) as s: assert Endpoint(s.url).chat("hi") == "Yes."

@pytest.mark.parametrize("body", ["<html>", DEEP, [], 7, None, dict(data=None), dict(data=[7]), dict(data=[dict(id=None)]), dict(error="no")], ids=lambda b: str(b)[:20])
def test_a_list_of_models_may_be_anything(body):
    with serving(models=(200, body)) as s:
        with pytest.raises(LLMError, match="lists no models"): Endpoint(s.url).chat("hi")
        assert Endpoint(s.url, "scribe").chat("hi", seed=[3]) == scripted("hi", 3)
    with serving(models=(404, {})) as s, pytest.raises(LLMError, match="end in /v1"): Endpoint(s.url).chat("hi")

def test_replies_that_are_readable():
    for body, want in ((said(), "Yes."), (said([dict(type="text", text="Ye"), dict(type="text", text="s.")]), "Yes."), (said(None), ""), (said(None, refusal="No."), "No.")):
        with serving(script=lambda d, n: (200, body)) as s: assert Endpoint(s.url).chat("hi") == want
    with serving(script=lambda d, n: (200, said(end="length"))) as s:
        assert isinstance(Endpoint(s.url).chat("hi"), Cut) and type(Endpoint(s.url).chat("hi", stop="s")) is str
    for content in (None, ""):
        with serving(script=lambda d, n: (200, said(content, "length"))) as s:
            with pytest.raises(Refused, match="used all 9 tokens.*raise max_tokens"): Endpoint(s.url).chat("hi", max_tokens=9)
            assert len(s.calls) == 1

@pytest.mark.parametrize("pace", [None, 60_000])
@pytest.mark.parametrize("code, headers, wait", [(429, {"Retry-After": "1"}, 1), (503, {"retry-after-ms": "900"}, .9), (408, {}, .5), (409, {}, .5), (200, {}, .5), (429, {"Retry-After": None}, 1)])
def test_waits_are_the_same_with_and_without_a_pace(pace, code, headers, wait):
    def script(d, n): return (200, said()) if n else (code, "" if code == 200 else {}, {k: v or formatdate(time.time()+2, usegmt=True) for k, v in headers.items()})
    with serving(script=script) as s:
        assert Endpoint(s.url, requests_per_minute=pace).chat("hi") == "Yes." and len(s.calls) == 2
        assert wait*.9 <= s.calls[1]["at"]-s.calls[0]["at"] < wait+1.2

def test_a_server_that_asks_for_an_hour_is_not_waited_for():
    with serving(script=lambda d, n: (429, {}, {"Retry-After": "3600"})) as s:
        with pytest.raises(LLMError, match="is busy"): Endpoint(s.url).chat("hi")
        assert len(s.calls) == 1

def test_each_server_of_a_fleet_has_its_own_wait():
    def busy(seconds): return lambda d, n: (200, said()) if n else (429, {}, {"Retry-After": seconds})
    with serving(script=busy("3")) as a, serving(script=busy("0.3")) as b:
        t = time.monotonic(); assert Endpoint([a.url, b.url]).chat("hi") == "Yes." and time.monotonic()-t < 2 and (len(a.calls), len(b.calls)) == (1, 2)

@pytest.mark.parametrize("code, message", [(404, "Not Found"), (405, "no"), (501, "no"), (400, "The completion operation does not work with the specified model, gpt-4o.")])
@pytest.mark.parametrize("models", [(200, dict(data=[dict(id="other")])), (404, {}), None])
def test_a_server_that_only_chats(code, message, models):
    with serving(script=lambda d, n: (200, said()) if "messages" in d else (code, dict(error=dict(message=message))), models=models) as s:
        llm = Endpoint(s.url, "scribe"); assert llm.complete("hi") == "Yes." and llm.complete("hi") == "Yes."
        assert ["messages" in c for c in s.calls] == [False, True, True]

@pytest.mark.parametrize("code", [400, 422])
@pytest.mark.parametrize("name", ["seed", "temperature", "stop", "response_format"])
def test_a_parameter_that_is_turned_down_is_left_out(code, name):
    with serving(script=lambda d, n: (code, dict(error=dict(message=f"Unsupported value: '{name}' does not support this"))) if name in d else (200, said('{"a": 1}'))) as s:
        llm = Endpoint(s.url, concurrency=1); ask = lambda: llm.chat(["hi", "ho"], seed=3, stop="}}", **(dict(schema=dict(type="object")) if llm.structured else {}))
        got, w = quiet(ask); assert got == ['{"a": 1}']*2 and len(w) == 1 and len(s.calls) == 3 and llm.structured == (name != "response_format")
        assert quiet(ask) == (got, []) and len(s.calls) == 5

def test_a_parameter_is_not_to_blame_for_a_prompt_that_is_turned_down():
    with serving(script=lambda d, n: (400, dict(error=dict(message="the prompt is too long, seed or not"))) if "long" in str(d["messages"]) else (200, said())) as s:
        llm = Endpoint(s.url); (a, b), w = quiet(lambda: llm.chat(["long", "hi"], keep_refused=True))
        assert isinstance(a, Refused) and b == "Yes." and not w and not llm.left_out

def test_a_query_is_sent_and_shown_nowhere():
    with serving(script=lambda d, n: (500, dict(error=dict(message=f"bad key {d['path']}")))) as s:
        url = f"{s.url}?api-key=secret"; llm = Endpoint(url, max_retries=0)
        with pytest.raises(LLMError, match="try later") as e: llm.chat("hi")
        assert s.calls[0]["path"] == "/v1/chat/completions?api-key=secret" and "secret" not in f"{e.value}{llm!r}{Endpoint(url).name}"

def test_a_server_that_hangs_is_set_aside():
    with serving() as a, serving(share=1., faults=["hang"], hang=9.) as b:
        llm = Endpoint([b.url, a.url], timeout=.5, concurrency=2); qs = [f"q{i}" for i in range(60)]; t = time.monotonic()
        assert llm.chat(qs, seed=range(60)) == [scripted(q, i) for i, q in enumerate(qs)] and time.monotonic()-t < 5 and len(b.calls) <= 4

def test_a_server_with_another_model_is_left_out():
    for models in ((200, dict(data=[dict(id="other")])), (404, {})):
        with serving() as a, serving(script=lambda d, n: (404, dict(error=dict(message="no such model"))), models=models) as b:
            got, w = quiet(lambda: Endpoint([b.url, a.url], "scribe").chat([f"q{i}" for i in range(9)], seed=range(9)))
            assert got == [scripted(f"q{i}", i) for i in range(9)] and [x for x in w if "has no model 'scribe'" in x] == w and len(w) == 1
    with serving(script=lambda d, n: (404, {})) as a, serving(script=lambda d, n: (404, {})) as b, pytest.raises(LLMError, match="has no model"):
        quiet(lambda: Endpoint([a.url, b.url]).chat(["hi"]*8))

def test_the_same_server_twice_is_one():
    with serving() as s: assert quiet(lambda: Endpoint([s.url, s.url]).chat("hi", seed=[3])) == (scripted("hi", 3), [])

def failing(code, which, **headers): return lambda d, n: (code, dict(error=dict(message="never this"))) if d["messages"][0]["content"] in which else (200, said())

@pytest.mark.parametrize("code", [500, 503, 200])
def test_a_prompt_that_fails_for_good_costs_itself(code):
    qs = [f"q{i}" for i in range(6)]
    with serving(script=failing(code, qs[:3])) as s:
        llm = Endpoint(s.url, max_retries=1); got = llm.chat(qs, keep_refused=True)
        assert [isinstance(g, Refused) for g in got] == [True]*3+[False]*3 and "never this" in str(got[0])
        with pytest.raises(LLMError, match="never this"): llm.chat(qs)
        assert isinstance(llm.chat(qs[:1], keep_refused=True)[0], Refused)
    with serving(script=failing(code, qs[:4])) as s, pytest.raises(LLMError, match="never this"): Endpoint(s.url, max_retries=1).chat(qs, keep_refused=True)

def test_a_403_is_about_the_key_until_something_was_answered():
    with serving(script=failing(403, ["bad"])) as s:
        llm = Endpoint(s.url, concurrency=1)
        with pytest.raises(LLMError, match="refuses the key"): llm.chat(["bad", "a"], keep_refused=True)
        a, b = llm.chat(["a", "bad"], keep_refused=True); assert a == "Yes." and "never this" in str(b) and "key" not in str(b)

def test_threads_share_an_endpoint():
    with serving(delay=.1, slots=99) as s:
        llm = Endpoint(s.url, concurrency=4)
        def ask(i):
            with llm.meter() as used: got = llm.chat([f"q{i} {j}" for j in range(i)], seed=range(i))
            return got == [scripted(f"q{i} {j}", j) for j in range(i)] and used.to_dict() | dict(seconds=0) == dict(calls=i, prompt_tokens=10*i, completion_tokens=5*i, seconds=0, cost=0)
        with ThreadPoolExecutor(12) as pool: assert all(pool.map(ask, range(1, 13)))
        assert s.most == 4 and llm.usage.calls == 78 and len(llm.clients) == 1
    with serving() as s:
        llm = Endpoint(s.url, requests_per_minute=1200); t = time.monotonic()
        with ThreadPoolExecutor(8) as pool: list(pool.map(llm.chat, "abcdefgh"))
        assert time.monotonic()-t > 7*.05
