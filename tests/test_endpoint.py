"A client among servers that misbehave"
import asyncio, json, time, warnings
import pytest
from aligners_nb.criterion import Criterion, LLMError
from aligners_nb.llm import Endpoint, Replay, _wait
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
    with serving(share=1., faults=["empty"]) as s, pytest.raises(LLMError, match="no readable replies"): Endpoint(s.url).chat("hi")
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
