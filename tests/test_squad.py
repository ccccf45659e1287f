"A squad does no harm: what its gate refuses, what it says, and how it is saved"
import json
import warnings

import pytest
from conftest import ROOT

from aligners_nb.aligner import Aligner
from aligners_nb.base import Base, small_model
from aligners_nb.criterion import Criterion, DataError, criteria
from aligners_nb.dialogue import CHATML
from aligners_nb.inspector import Inspector
from aligners_nb.scorers import Scorer
from aligners_nb.squad import POLICIES, Alignment, Squad, _save, compare_risk, risk_texts

SAVED = ROOT / "tests/fixtures/written_before_roles/squad"


class ScriptedInspector:
    version, calibration, threshold = 1, dict(miss_rate=.05), .8

    def __init__(self, criterion, risks):
        self.criterion, self.risks = criterion, risks

    def __call__(self, questions, answers):
        return [self.risks.get(answer, 0.) for answer in answers]

    def uncalibrated(self, risk):
        return risk

    def fits(self, question, answer):
        if question == "refused":
            raise DataError("the model's chat template refuses it")
        return True


class ScriptedAligner:
    calls = tokens = 0

    def __init__(self, criterion, proposals):
        self.criterion, self.proposals = criterion, proposals

    def __call__(self, questions, answers):
        return [self.proposals.get(answer, answer) for answer in answers]

    def fits(self, question, answer):
        return True


GIBBERISH = "Greatreingeming"


def squad(before, after, text=GIBBERISH):
    inspector = ScriptedInspector(criteria.ethical, {"answer": before, text: after})
    return Squad([(inspector, ScriptedAligner(criteria.ethical, {"answer": text}))])


@pytest.mark.parametrize("before, after", [(1., .999999), (.99, .81), (.9, .8), (.9, .95), (.9, .9)])
def test_a_proposal_that_its_inspector_still_flags_is_refused(before, after):
    alignment = squad(before, after)("question", "answer")
    assert alignment.aligned == "answer" and [step.decision for step in alignment.trace] == ["refused"]
    assert "still flagged" in alignment.trace[0].reason and "≥ threshold 0.8" in alignment.trace[0].reason


@pytest.mark.parametrize("after", [.7999999, .5, 0.])
def test_a_proposal_that_it_no_longer_flags_is_accepted(after):
    alignment = squad(.9, after)("question", "answer")
    assert alignment.aligned == GIBBERISH and "< threshold 0.8" in alignment.trace[0].reason


CLOSE = [(1., .999999), (.8, .7999999), (.1, .12), (.004, .0041), (1., 1-1e-15), (0., 1e-300)]


@pytest.mark.parametrize("risks", CLOSE)
def test_risks_that_differ_look_different(risks):
    first, second = risk_texts(*risks)
    assert first != second
    alignment = squad(1., .999999)("question", "answer")
    assert "1.000000 → 0.999999" in repr(alignment)


def test_risks_that_are_equal_are_told_as_such():
    assert risk_texts(.5, .5, None) == ["0.50", "0.50", "–"]
    for after, words in ((1., "stays 1.00"), (.9, "1.00 → 0.90")):
        step, = squad(1., after)("question", "answer").trace
        assert words in repr(step) and ("the risk does not fall" in step.reason) == (after == 1.)
    rising, = squad(.9, .95)("question", "answer").trace
    assert rising.reason == "still flagged, the risk does not fall: risk 0.95 ≥ threshold 0.80"
    assert compare_risk(.8, .8) == "risk 0.80 ≥ threshold 0.80"


def test_nothing_flagged_shows_the_risks_and_thresholds():
    alignment = squad(.77, 0.)("question", "answer")
    assert "nothing flagged: ethical risk 0.77 < threshold 0.80" in repr(alignment)
    assert "nothing flagged: ethical risk 0.77 &lt; threshold 0.80" in alignment._repr_html_()


def test_another_inspector_that_newly_objects_is_named_with_its_numbers():
    ethical = ScriptedInspector(criteria.ethical, {"answer": .9})
    factual = ScriptedInspector(criteria.factual, {"answer": .1, GIBBERISH: .85})
    pairs = [(ethical, ScriptedAligner(criteria.ethical, {"answer": GIBBERISH})),
             (factual, ScriptedAligner(criteria.factual, {}))]
    step, = Squad(pairs)("question", "answer").trace
    assert (step.decision, step.reason) == ("refused", "factual newly objects: risk 0.10 → 0.85, threshold 0.80")


def test_an_aligner_that_was_refused_tries_once_more_when_the_answer_has_changed():
    ethical = ScriptedInspector(criteria.ethical, {"rude, false": .9, "rude, true": .9, "ruder, false": .95})
    factual = ScriptedInspector(criteria.factual, {"rude, false": .85, "ruder, false": .85})
    polite = ScriptedAligner(criteria.ethical, {"rude, false": "ruder, false", "rude, true": "true"})
    true = ScriptedAligner(criteria.factual, {"rude, false": "rude, true"})
    alignment = Squad([(ethical, polite), (factual, true)])("question", "rude, false")
    decisions = [(step.criterion, step.decision) for step in alignment.trace]
    assert decisions == [("ethical", "refused"), ("factual", "accepted"), ("ethical", "accepted")]
    assert alignment.aligned == "true" and alignment.to_dict()["trace"][0]["proposal"] == "ruder, false"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_proposal_that_nobody_can_read_is_refused_under_all_policies(policy):
    step, = squad(.9, .1, text=" ")("question", "answer", policy=policy).trace
    assert (step.decision, step.reason) == ("refused", "of the proposal: the response is empty")


def test_an_empty_list_gives_an_empty_list():
    for policy in POLICIES:
        assert squad(.9, .1)([], [], policy=policy) == []


@pytest.mark.parametrize("question, answer", [([], "answer"), (5, "answer"), ("question", None), ("question", 5)])
def test_what_can_not_be_read_is_an_error_that_can_be_shown(question, answer):
    alignment = squad(.9, .1)([question], [answer])[0]
    assert alignment.error and alignment.error in repr(alignment)
    assert alignment.response is answer and "not aligned" in alignment._repr_html_()


def test_a_long_answer_is_shown_in_short():
    text = "On and on it goes. "*300
    alignment = Alignment([dict(role="user", content=text)], text, text + "At last it ends.", error="too long")
    for shown in (repr(alignment), alignment._repr_html_()):
        assert len(shown) < 2000 and "characters …]" in shown and "At last it ends." in shown
    assert "…" not in repr(Alignment("question", "short", "short"))


def test_a_question_that_a_template_refuses_costs_its_own_answer():
    alignments = squad(.9, .1)(["question", "refused", "question"], ["answer"]*3)
    assert [bool(alignment.error) for alignment in alignments] == [False, True, False]
    assert [alignment.aligned for alignment in alignments] == [GIBBERISH, "answer", GIBBERISH]
    assert "template refuses" in alignments[1].error


def test_an_uncalibrated_inspector_is_said_at_once_and_again():
    inspector = ScriptedInspector(criteria.ethical, {})
    inspector.calibration = None
    with pytest.warns(UserWarning, match="the ethical inspector is not calibrated"):
        made = Squad([(inspector, ScriptedAligner(criteria.ethical, {}))])
    assert "not calibrated: ethical" in repr(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squad(.9, .1)


def test_an_inspector_that_does_not_know_of_calibration_is_not_calibrated():
    class Threshold(ScriptedInspector):
        @property
        def calibration(self):
            raise AttributeError("an inspector written by hand")

    with pytest.warns(UserWarning, match="not calibrated"):
        made = Squad([(Threshold(criteria.ethical, {"answer": .9}),
                       ScriptedAligner(criteria.ethical, {"answer": "fine"}))])
    assert made.uncalibrated_criteria == ["ethical"] and made("question", "answer").aligned == "fine"


class Constant(Scorer):
    version = "constant"

    def __call__(self, questions, responses, batch_size=32):
        return [0.]*len(responses)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "llama", "llama", CHATML)


UNSAVABLE = [
    (ScriptedInspector(criteria.ethical, {}), None,
     "the ethical inspector is a ScriptedInspector, which can't be saved: give its scores to an Inspector"),
    (None, ScriptedAligner(criteria.ethical, {}),
     "the ethical aligner is a ScriptedAligner, which can't be saved: make it an aligner of an LLM"),
    (Inspector(criteria.ethical, scorer=Constant()), None, "its ethical inspector: a Constant can't be saved"),
    (None, Aligner.prompted(len, criteria.ethical), "its ethical aligner: a CallableLLM .*Use a server's address")]


@pytest.mark.filterwarnings("ignore:the ethical inspector is not calibrated")
@pytest.mark.parametrize("inspector, aligner, words", UNSAVABLE)
def test_a_part_that_can_not_be_saved_is_named_and_leaves_nothing(tmp_path, llama, inspector, aligner, words):
    pair = inspector or Inspector(criteria.ethical, llama), aligner or Aligner(criteria.ethical, llama)
    with pytest.raises(DataError, match=words):
        Squad([pair]).save_pretrained(tmp_path / "squad")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.md").write_text("Years of work.")
    with pytest.raises(DataError, match="holds thesis.md"):
        Squad.from_pretrained(SAVED).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.md"]


def test_formats_and_parts_are_checked(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(dict(format=3, criteria=["civil"])))
    with pytest.raises(DataError, match="update aligners-nb"):
        Squad.from_pretrained(tmp_path)
    (tmp_path / "squad.json").write_text(json.dumps(dict(format=2, criteria=["civil"])))
    with pytest.raises(DataError, match="copy the whole folder"):
        Squad.from_pretrained(tmp_path)


def test_a_squad_saves_over_its_earlier_self_and_says_what_its_parts_are(tmp_path):
    saved = Squad.from_pretrained(SAVED)
    for _ in range(2):
        saved.save_pretrained(tmp_path / "squad")
    meta = json.loads((tmp_path / "squad/squad.json").read_text())
    assert meta["parts"] == {"ethical": {"inspector": "trained", "aligner": "trained"}} and meta["format"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["squad"]
    again = Squad.from_pretrained(tmp_path / "squad")
    answer = "Use your own eyes for once. It opens at 9."
    question = "When does the Royal Library open?"
    assert again(question, answer).aligned == saved(question, answer).aligned
    assert Criterion.from_dict(saved.aligners["ethical"].criterion.to_dict()) == saved.aligners["ethical"].criterion


def test_the_card_says_what_the_squad_does(tmp_path):
    saved = Squad.from_pretrained(SAVED, policy="paper")
    card = (saved.save_pretrained(tmp_path / "my-squad") / "README.md").read_text()
    inspector = saved.inspectors["ethical"]
    for words in ("Policy `paper`", f"{inspector.threshold:.4f}", "% or less are missed", "trained, on town",
                  *inspector.criterion.principles, "Squad.from_pretrained('my-squad')"):
        assert words in card
    assert str(tmp_path) not in card
    _save(saved, tmp_path / "upload", "you/squad")
    assert "Squad.from_pretrained('you/squad')" in (tmp_path / "upload/README.md").read_text()
    inspector.calibration = None
    assert "not calibrated" in (saved.save_pretrained(tmp_path / "my-squad") / "README.md").read_text()


def test_a_squad_is_loaded_onto_a_base_or_a_device(monkeypatch):
    precise = Base.load("town", dtype="float64")
    saved = Squad.from_pretrained(SAVED, base=precise)
    assert saved.aligners["ethical"].base is precise is saved.inspectors["ethical"].scorer.base
    devices, load = [], Base.load

    def note(name, kind="causal", device=None, **settings):
        devices.append((name, kind, device))
        return load(name, kind, "cpu", **settings)

    monkeypatch.setattr(Base, "load", note)
    Squad.from_pretrained(SAVED, device="cuda:1")
    assert devices[:2] == [("town", "causal", "cuda:1")]*2
    devices.clear()
    Squad.from_pretrained(SAVED, base=precise, device="cuda:1")
    assert devices == []
