"The report on how small corrections are"
import math

import pandas as pd
import pytest

from aligners_nb.aligner import Aligner
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.edits import edit, edit_report, edit_words, places_kept

civil = Criterion("civil", ["Be polite."])
ROWS = [dict(question="When?", response="At 9, fool.", correction="At 9."),
        dict(question="Where?", response="In Mill Lane, you fool.", correction="In Mill Lane."),
        dict(question="Who?", response="The baker.", correction="The baker.")]
REFERENCES = [row["correction"] for row in ROWS]


def test_places_are_those_of_the_old_text():
    old, new = edit_words("no, the the library"), edit_words("The library")
    assert places_kept(old, new) == {4}
    assert places_kept(old, old) == set(range(5)) and places_kept(old, []) == set()


def test_a_correction_without_any_word_of_the_response():
    figures = edit("a b c", "d e", "a b")
    assert (figures.exact, figures.changed, figures.right_kept, figures.size) == (False, True, 0, 5)
    assert figures.distance == 1 and figures.copying == pytest.approx(1/3)


def test_case_and_punctuation_are_changes():
    assert edit("it opens.", "It opens.", "It opens.").changed
    assert not edit("It opens", "It opens.", "It opens").exact


def test_a_row_without_a_flaw_is_a_good_answer_only():
    report = edit_report(ROWS, REFERENCES, [*REFERENCES[:2], "Bakers."])
    assert (len(report.edits), len(report.examples), report.left_alone) == (2, 2, [True, True, False])


def test_rows_without_any_flaw_have_a_report():
    report = edit_report(ROWS[2:], ["The baker."], ["The baker."])
    figures = report.to_dict()
    assert (figures["n"], figures["n_good"], figures["good_kept"]) == (0, 1, 1)
    assert math.isnan(figures["exact"]) and math.isnan(figures["distance"]) and math.isnan(figures["relative_size"])
    assert "nan" in repr(report) and "<table>" in report._repr_html_()


def test_an_aligner_reports_on_a_data_frame_and_on_messages():
    def answer(messages): return [each["content"] for each in messages if each["role"] == "assistant"][-1]
    aligner = Aligner.prompted(lambda messages: answer(messages).replace(", fool", "").replace(", you fool", ""), civil)
    assert aligner.report(pd.DataFrame(ROWS)).to_dict()["exact"] == 1
    rows = [dict(row, question=[dict(role="user", content=row["question"])]) for row in ROWS]
    assert aligner.report(rows, batch_size=2).to_dict() == aligner.report(ROWS).to_dict()
    assert aligner.calls == 18


def test_html_is_escaped():
    rows = [dict(question="When?", response="<b>At 9</b>, fool.", correction="At <i>9</i>.")]
    shown = edit_report(rows, ["<u>At 9</u>"], ["At <i>9</i>."])._repr_html_()
    assert not any(tag in shown for tag in ("<b>", "<i>", "<u>")) and "&lt;" in shown


def test_wrong_rows_meet_an_error():
    with pytest.raises(DataError, match="row 0 has no correction"):
        edit_report([dict(question="a", response="b")], ["b"], ["b"])
    with pytest.raises(DataError, match="3 rows, 2 corrections and 3 corrected"):
        edit_report(ROWS, ["a", "b"], REFERENCES)
