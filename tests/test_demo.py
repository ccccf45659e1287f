"A small demo, whole: its files say the same thing as the oracle does"
import json, time
from aligners_nb import town
from aligners_nb.demo import CRITERIA, Demo, table

def test_a_small_demo(tmp_path):
    rep = Demo(tmp_path, rows=60, n=5, say=lambda *_, **__: None).run()
    lines = [json.loads(l) for l in (tmp_path/"answers.jsonl").read_text().splitlines()]
    assert len({(l["llm"], l["question"]) for l in lines}) == 15 and all(town.held_out(l["question"]) for l in lines)
    scored = {k: [] for k in ("before", "greedy", *lines[0]["after"])}
    for l in lines:
        for k, cell in dict(before=l["before"], greedy=l["greedy"], **l["after"]).items():
            said = {c: ok for c, (ok, _) in town.oracle(l["question"], cell["text"]).items()}
            assert said == {c.name: cell[c.name] for c in CRITERIA}
            scored[k].append(all(said.values()))
    share = {k: round(sum(v)/15, 4) for k, v in scored.items()}
    said = {k: rep[k]["all"] for k in ("before", "greedy")} | {k: d["after"]["all"] for k, d in (rep["policies"] | rep["controls"]).items()}
    assert said == share and json.loads((tmp_path/"report.json").read_text()) == json.loads(json.dumps(rep))
    good = [i for i, ok in enumerate(scored["before"]) if ok]; d = rep["policies"]["no_regret"]
    assert d["n_good"] == len(good) and (not good or d["harm"] == round(sum(not scored["no_regret"][i] for i in good)/len(good), 4))
    page = (tmp_path/"report.html").read_text()
    assert lines[0]["llm"] in table(rep) and "<svg" in page and "src=\"http" not in page
    t = time.monotonic(); assert Demo(tmp_path, rows=60, n=5, say=lambda *_, **__: None).run() == rep and time.monotonic()-t < 30      # nothing is made twice
