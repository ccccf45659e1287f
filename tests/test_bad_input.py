"What may be given by mistake: each gets one error of ours, in words, before any work is done and before anything is lost"
import json, random, shutil
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from aligners_nb import aligner as aligner_module, inspector as inspector_module, town
from aligners_nb.aligner import Aligner
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.curation import curate
from aligners_nb.evaluation import answer_anew, best_of_n, evaluate
from aligners_nb.inspector import Inspector
from aligners_nb.judge import score
from aligners_nb.llm import Replay
from aligners_nb.squad import Squad

OURS = (TypeError, ValueError)      # DataError is a ValueError
civil = Criterion("civil", ["Be polite."])
ROW = dict(id="0", criterion="civil", topic="t", question_type="u", question="When?", response="At nine, fool.", critique="It insults.", correction="At nine.")
ROWS = [dict(ROW, question=f"When, number {i}?") for i in range(6)]
QS, YS = ["When?", "Where?"], ["At nine.", "Here."]

@pytest.fixture(scope="module")
def base(tmp_path_factory):
    d = tmp_path_factory.mktemp("models")/"gpt2"; torch.manual_seed(0)
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False); t.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|endoftext|>").save_pretrained(d)
    GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=16, n_layer=1, n_head=2, n_positions=512, eos_token_id=0, bos_token_id=0)).save_pretrained(d)
    return str(d)

@pytest.fixture(scope="module")
def squad(base): return Squad([(Inspector(civil, base), Aligner(civil, base))])

@pytest.fixture
def untrained(monkeypatch):
    "Training is an error: what is refused must be refused before it"
    def train(*args, **kwargs): raise AssertionError("training has begun")
    for m in (aligner_module, inspector_module): monkeypatch.setattr(m, "train", train)

FIT = [(None, {}, "rows are"), ([1, 2], {}, "rows are"), ("When?", {}, "rows are"), (dict(train=ROWS), {}, "rows are"),
       ("curated", {}, r"\.split\(\)"), (ROWS, dict(criterion="civil"), "got 'civil'"), (ROWS, dict(criterion=town.factual), "about 'civil'"),
       *(([ROWS[0], dict(ROWS[1], **{k: v})], {}, "row 1") for k in ("response", "correction") for v in (None, float("nan"), 5, "", " ")),
       ([ROWS[0], dict(ROWS[1], question=5)], {}, "row 1"), ([{}], {}, "row 0 has no question"),
       *((ROWS, {k: v}, f"{k}=") for k, v in dict(epochs="a", rank="x", lr="x", batch_size=1.5, seed="x").items()),
       *((ROWS, {k: v}, f"{k}=") for k, v in (("epochs", float("nan")), ("epochs", None), ("seed", None), ("seed", -1), ("seed", 2**32)))]

@pytest.mark.parametrize("rows, kwargs, why", FIT)
@pytest.mark.parametrize("cls", [Aligner, Inspector])
def test_fit_refuses(cls, rows, kwargs, why, base, untrained):
    if isinstance(rows, str) and rows=="curated": rows = curate(ROWS, criterion=civil)
    with pytest.raises(OURS, match=why): cls.fit(rows, **{**dict(base=base, criterion=civil, progress=False), **kwargs})

@pytest.mark.parametrize("cls", [Aligner, Inspector])
def test_a_criterion_is_one(cls, base):
    for c in (None, "civil"):
        with pytest.raises(TypeError, match="such as town.ethical"): cls(c, base)

@pytest.mark.parametrize("cls, other", [(Aligner, Inspector), (Inspector, Aligner)])
def test_a_place_that_can_not_be_written_to_is_found_before_training(cls, other, base, untrained, tmp_path):
    (tmp_path/"file").write_text("x"); (tmp_path/"full").mkdir(); (tmp_path/"full/thesis.md").write_text("x")
    other(civil, base).save_pretrained(tmp_path/"other"); (tmp_path/"other/notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for out in ("file", "full", "other", "file/below", "n"*300):
        with pytest.raises(DataError, match="name a|Name a"): cls.fit(ROWS, base=base, criterion=civil, out=tmp_path/out)
    with pytest.raises(TypeError, match="no folder"): cls.fit(ROWS, base=base, criterion=civil, out=5)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

@pytest.mark.parametrize("cls", [Aligner, Inspector])
def test_a_finished_run_is_found_beside_other_files(cls, base, tmp_path):
    fit = lambda **kw: cls.fit(ROWS, base=base, criterion=civil, out=tmp_path/"a", epochs=1, progress=False, **kw)
    first = fit(); (tmp_path/"a/notes.txt").write_text("mine"); assert fit().fingerprint == first.fingerprint
    with pytest.raises(DataError, match="holds notes.txt"): fit(seed=1)
    assert (tmp_path/"a/notes.txt").read_text() == "mine"

def test_questions_that_are_messages_are_learned_from(base):
    rows = [dict(r, question=[dict(role="user", content=r["question"])]) for r in ROWS]
    for rs in (rows, Dataset.from_list(rows), pd.DataFrame(rows)):
        for cls in (Aligner, Inspector): assert cls.fit(rs, base=base, criterion=civil, epochs=1, progress=False).log

AS = [list, tuple, np.array, pd.Series, lambda x: Dataset.from_dict(dict(x=x))["x"], iter]

@pytest.mark.parametrize("kind", AS)
def test_any_sequence_will_do(squad, kind):
    i, a = next(iter(squad.inspectors.values())), next(iter(squad.aligners.values()))
    for f in (i, a, squad.inspect): np.testing.assert_array_equal(f(kind(QS), kind(YS)), f(QS, YS))
    assert [x.aligned for x in squad(kind(QS), kind(YS))] == [x.aligned for x in squad(QS, YS)]
    judge = lambda q, a: dict(kind=True); assert score(kind(QS), kind(YS), judge) == score(QS, YS, judge)

@pytest.mark.parametrize("qs, ys", [(QS, None), ("When?", None), ("When?", YS), (QS, YS[:1]), (QS[:1], []), (5, YS), (QS, dict(a=1))])
def test_what_is_no_pair_of_lists_is_refused(squad, qs, ys):
    fs = [*squad.inspectors.values(), *squad.aligners.values(), squad, squad.inspect, lambda q, y: score(q, y, town.judge)]
    for f in fs:
        with pytest.raises(OURS, match="a list of each|as many of one"): f(qs, ys)

def test_batches_are_above_0(squad):
    for f in (*squad.inspectors.values(), *squad.aligners.values()):
        for n in (0, -1, "x"):
            with pytest.raises(OURS, match="batch_size="): f(QS, YS, batch_size=n)

def test_both_lengths_are_told(squad):
    assert "(1,200 and 8 characters)" in squad("Q"*1200, "At nine.").error
    for f in (*squad.inspectors.values(), *squad.aligners.values()):
        with pytest.raises(DataError, match="answer 0 is too long with its question"): f("Q"*1200, "At nine.")

def test_a_squad_is_made_from_pairs(squad):
    i, a = next(iter(squad.inspectors.values())), next(iter(squad.aligners.values()))
    for bad in (None, [], (i, a), [(None, None)], [(i, None)], [(i,)], 5):
        with pytest.raises(DataError, match="made from pairs"): Squad(bad)
    with pytest.raises(DataError, match="inspector comes first"): Squad([(a, i)])

def edit(name, **kw):
    def f(d): p = d/name; m = json.loads(p.read_text()); m |= {k: v for k, v in kw.items() if v is not ...}; [m.pop(k) for k, v in kw.items() if v is ...]; p.write_text(json.dumps(m))
    return f
def cut(name): return lambda d: (d/name).write_bytes((d/name).read_bytes()[:300])
def gone(name): return lambda d: (d/name).unlink()
def text(name, s): return lambda d: (d/name).write_text(s)

A, I = "civil/aligner/", "civil/inspector/"
BROKEN = [("squad.json", edit("squad.json", criteria=5)), ("squad.json", edit("squad.json", criteria=[5])), ("squad.json", edit("squad.json", criteria=[])),
          *((x+f, cut(x+f)) for x in (A, I) for f in ("adapter_model.safetensors", "adapter_config.json")),
          *((f, gone(x+f)) for x in (A, I) for f in ("adapter_model.safetensors", "adapter_config.json")),
          *((x+"adapter_config.json", text(x+"adapter_config.json", s)) for x in (A, I) for s in ("[]", "{}", '"x"', "")),
          *((x+"adapter_config.json", edit(x+"adapter_config.json", r=3)) for x in (A, I)),
          (A+"aligner.json", edit(A+"aligner.json", criterion=...)), (A+"aligner.json", edit(A+"aligner.json", criterion=dict(name=5))),
          (A+"aligner.json", edit(A+"aligner.json", log=None)), (A+"aligner.json", text(A+"aligner.json", "[1]")),
          (I+"inspector.json", edit(I+"inspector.json", threshold=...)),
          *((I+"inspector.json", edit(I+"inspector.json", **{k: v})) for k in ("threshold", "slope") for v in ("high", float("nan"), None))]

@pytest.mark.parametrize("name, break_it", BROKEN)
def test_a_broken_folder_is_named(squad, tmp_path, name, break_it):
    folder = squad.save_pretrained(tmp_path/"squad"); break_it(folder)
    with pytest.raises(DataError) as e: Squad.from_pretrained(folder)
    assert name in str(e.value)
    next(iter(squad.aligners.values()))(QS, YS)                                # the shared base is as good as before

def test_where_nothing_lies(squad, tmp_path):
    for cls in (Squad, Aligner, Inspector):
        with pytest.raises(DataError, match="neither a folder nor a repository of the Hub called 'runs/dem'"): cls.from_pretrained("runs/dem")
        with pytest.raises(TypeError, match="give a folder"): cls.from_pretrained(None)
    (tmp_path/"file").write_text("x")
    with pytest.raises(DataError, match="is a file"): squad.save_pretrained(tmp_path/"file")
    for repo in (None, "x"):
        with pytest.raises(DataError, match="you/its-name"): squad.push_to_hub(repo)

def test_a_report_needs_answers(squad):
    with pytest.raises(DataError, match="row 0 has no question"): next(iter(squad.inspectors.values())).report([{}], labels=[1])

def never(q, a): raise AssertionError("an answer was judged")
ONE = [dict(question="When?", response="At nine.")]

@pytest.mark.parametrize("rows, judge, policies, why", [
    (ONE, None, None, "a judge is"), (ONE, lambda q, a: {"all": True}, None, "called 'all'"), (ONE, never, "bold", "got 'bold'"),
    (ONE, never, ["paper", "bold"], "got 'bold'"), ("curated", never, None, r"\.split\(\)"), (None, never, None, "rows are"),
    *((([*ONE, dict(question="When?", response=v)]), never, None, "row 1") for v in (None, float("nan"), 5))])
def test_evaluate_refuses_before_it_judges(squad, rows, judge, policies, why):
    if isinstance(rows, str): rows = curate(ROWS, criterion=civil)
    with pytest.raises(OURS, match=why): evaluate(squad, rows, judge, policies)

def test_evaluate_takes_one_policy_and_squads_only(squad):
    assert evaluate(squad, ONE, lambda q, a: dict(kind=True), "paper").policies == ["paper"]
    with pytest.raises(TypeError, match="a squad is called with"): evaluate(lambda qs, ys, policy: ys, ONE, never)

def test_the_controls_take_names_and_lists(squad):
    llm = Replay(lambda p: "At nine.")
    with pytest.raises(TypeError, match="a list of questions"): best_of_n(llm, squad, "When?", 1)
    with pytest.raises(TypeError, match="a list of questions"): answer_anew(llm, [civil], "When?")
    for n in (0, "x", 1.5):
        with pytest.raises(OURS, match="n="): best_of_n(llm, squad, QS, n)
    assert len(answer_anew("town", [civil], QS, max_tokens=2)[0]) == len(best_of_n("town", squad, QS, 1, max_tokens=2)[0]) == 2
