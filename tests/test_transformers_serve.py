"The embedded LM behind `transformers serve`, on loopback: greedy, it writes what it writes in this process"
import json, random, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
from aligners_nb import town
from aligners_nb.endpoint import Endpoint
from aligners_nb.base import model_path
from aligners_nb.local import LocalLLM
from aligners_nb.prompts import correct_messages, draft_prompt
from aligners_nb.synthesis import drafts
from conftest import ROOT

@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    log = tmp_path_factory.mktemp("serve")/"log"
    p = subprocess.Popen([Path(sys.executable).parent/"transformers", "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32", model_path("town")], stdout=log.open("w"), stderr=subprocess.STDOUT)
    for _ in range(240):
        try: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1); break
        except OSError: assert p.poll() is None, log.read_text(); time.sleep(.5)
    yield f"http://127.0.0.1:{port}/v1"
    p.terminate(); p.wait()

def test_the_same_replies(url):
    there, here = Endpoint(url, model_path("town"), concurrency=2), LocalLLM("town")
    rows = [dict(r, part=0) for r in town.questions(6, 5, held_out=False)]
    for calls in ("one", "separate"): assert drafts(town.factual, there, rows, temperature=0, calls=calls) == drafts(town.factual, here, rows, temperature=0, calls=calls)
    prompts = [draft_prompt(town.helpful, r["question"]) for r in rows]
    assert there.complete(prompts, temperature=0, max_tokens=40, stop=("\nCritique:",)) == here.complete(prompts, temperature=0, max_tokens=40, stop=("\nCritique:",))
    assert there.usage.completion_tokens > 100 and there.usage.prompt_tokens > 1000
