"What a plan says is what the synthesis takes, within a quarter, for good and poor LLMs and for servers"
import json, random
import pytest
from aligners_nb import town
from aligners_nb.criterion import Criterion
from aligners_nb.endpoint import Endpoint
from aligners_nb.llm import Replay
from aligners_nb.plan import plan
from aligners_nb.synthesis import synthesize
from server import scripted

polite = Criterion("polite", ["Never insult the reader."])

def poor(parsed):
    "An LLM of whose drafts that share parses"
    def say(prompt):
        rng = random.Random("poor"+prompt)
        return " At 7." if prompt.endswith("Response:") and rng.random() > parsed else scripted(prompt, rng.random())
    return say

def townish(parsed):
    "One whose questions come again: each type is asked in a few ways only"
    def say(prompt):
        rng = random.Random(prompt)
        if "Questions:\n" not in prompt: return poor(parsed)(prompt)
        hints = [l.split(" | ") for l in prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines()]
        return "\n".join(f"{t} | {s} | {rng.choice(town.phrasings(t)).format(s='the '+s)}" for t,s in hints)
    return say

class Scripted(Endpoint):
    "A server that needs no network"
    def __init__(self, say): super().__init__("http://localhost/v1", "scripted"); self.say = say
    def _complete(self, prompts, **kwargs):
        out = [self.say(p) for p in prompts]
        self.usage.add(len(prompts), sum(len(p.split()) for p in prompts), sum(len(o.split()) for o in out)); return out

@pytest.mark.parametrize("kind", [Replay, Scripted])
@pytest.mark.parametrize("criterion, say, n", [(polite, poor(1.), 60), (polite, poor(.8), 300), (polite, poor(.4), 600), (polite, poor(.4), 1000),
                                               (town.ethical, townish(.9), 600), (town.ethical, townish(.5), 600)])
def test_within_a_quarter(kind, criterion, say, n):
    for seed in (0, 1, 42):
        p, rows = plan(criterion, kind(say), n=n, seed=seed), synthesize(criterion, kind(say), n=n, seed=seed, progress=False)
        used = json.loads(rows.info.description)["made"]["used"]
        for k in ("calls", "prompt_tokens", "completion_tokens"): assert .75 <= used[k]/getattr(p.expected, k) <= 1.25, (seed, k, p, used)
        assert p.sample.calls < max(60, p.expected.calls*.4)
