"The embedded LM behind `transformers serve`, on loopback: greedy, it writes what it writes in this process"
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
import pytest
from aligners_nb import town
from aligners_nb.base import model_path
from aligners_nb.endpoint import Endpoint
from aligners_nb.local import LocalLLM
from aligners_nb.prompts import draft_prompt
from aligners_nb.synthesis import drafts


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("serve")/"log"
    command = [Path(sys.executable).parent/"transformers", "serve", "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", "--dtype", "float32", model_path("town")]
    with log.open("w") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=subprocess.STDOUT)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(.5)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait()


def test_the_same_replies(url):
    there, here = Endpoint(url, model_path("town"), concurrency=2), LocalLLM("town")
    rows = [dict(row, part=0) for row in town.questions(6, 5, held_out=False)]
    for calls in ("one", "separate"):
        ours = drafts(town.factual, here, rows, temperature=0, calls=calls)
        assert drafts(town.factual, there, rows, temperature=0, calls=calls) == ours
    prompts = [draft_prompt(town.helpful, row["question"]) for row in rows]
    limits = [10, 20, 30, 40, 50, 60]
    settings = dict(temperature=0, max_tokens=limits, stop=("\nCritique:",))
    assert there.complete(prompts, **settings) == here.complete(prompts, **settings)
    assert there.usage.completion_tokens > 100 and there.usage.prompt_tokens > 1000


def test_a_server_without_log_probabilities(url):
    assert Endpoint(url, model_path("town")).first_token_logprobs(["Is it open?"], ["Yes", "No"]) is None
