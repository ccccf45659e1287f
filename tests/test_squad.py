"A squad does no harm: what its gate refuses, what it says, and how it is saved"
import json
import warnings

import pytest

from aligners_nb.criterion import Criterion, DataError, criteria
from aligners_nb.squad import Squad, risk_texts


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


def test_risks_that_differ_look_different():
    for risks in ((1., .999999), (.8, .7999999), (.1, .12), (.004, .0041)):
        first, second = risk_texts(*risks)
        assert first != second
    assert risk_texts(.5, .5, None) == ["0.50", "0.50", "–"]
    text = repr(squad(1., .999999)("question", "answer"))
    assert "1.00 → 1.00" not in text and "1.000000 → 0.999999" in text


def test_nothing_flagged_shows_the_risks_and_thresholds():
    assert "nothing flagged: ethical 0.77 < 0.80" in repr(squad(.77, 0.)("question", "answer"))
    assert "nothing flagged: ethical 0.77 &lt; 0.80" in squad(.77, 0.)("question", "answer")._repr_html_()


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
    assert "not calibrated: ethical" in repr(made) and "Not calibrated" in made._card()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squad(.9, .1)


def test_a_part_that_cant_be_saved_leaves_nothing(tmp_path):
    with pytest.raises(AttributeError):
        squad(.9, .1).save_pretrained(tmp_path / "squad")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.md").write_text("Years of work.")
    with pytest.raises(DataError, match="holds thesis.md"):
        squad(.9, .1).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.md"]


def test_formats_and_parts_are_checked(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(dict(format=3, criteria=["civil"])))
    with pytest.raises(DataError, match="update aligners-nb"):
        Squad.from_pretrained(tmp_path)
    (tmp_path / "squad.json").write_text(json.dumps(dict(format=2, criteria=["civil"])))
    with pytest.raises(DataError, match="copy the whole folder"):
        Squad.from_pretrained(tmp_path)


def test_a_squad_saves_over_its_earlier_self_and_says_what_its_parts_are(tmp_path):
    from conftest import ROOT
    saved = Squad.from_pretrained(ROOT / "tests/fixtures/written_before_roles/squad")
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
