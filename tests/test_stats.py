"Rates, paired differences, ranking, calibration and thresholds at their edges, and beside other implementations"
import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from aligners_nb.criterion import DataError
from aligners_nb.stats import (Rate, auroc, brier, calibration_error, conformal_threshold, paired_difference,
                               platt, rate, reliability)


def test_a_rate_is_wilsons():
    assert rate(8, 10).low == pytest.approx(.4902, abs=1e-3)
    assert rate([True]*8+[False]*2).high == pytest.approx(.9433, abs=1e-3)
    assert repr(rate(837, 900)) == "0.930 [0.911, 0.945] n=900"
    assert float(rate(1, 4)) == .25


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series])
def test_hits_are_counted_in_any_sequence(kind):
    assert rate(kind([True, False])) == rate(kind([1, 0])) == rate(1, 2)


@pytest.mark.parametrize("given, message", [
    ((5, 3), "5 of 3 is no rate"), ((-1, 3), "-1 of 3 is no rate"), ((.93, 900), "whole number"),
    (([True, None],), "True or False; got None"), (([.5],), "True or False; got 0.5"),
    ((3,), r"as in rate\(3, 10\)"), (("abc",), "got 'abc'"), (([[True]],), "got"),
])
def test_what_is_no_rate(given, message):
    with pytest.raises(DataError, match=message): rate(*given)


@pytest.mark.parametrize("nothing", [rate([]), rate(0, 0), paired_difference([], [])])
def test_without_cases_there_is_no_number(nothing):
    assert nothing.n == 0
    assert all(map(math.isnan, (nothing.value, nothing.low, nothing.high)))


def test_a_paired_difference_turns_round():
    rng = np.random.default_rng(1)
    before = rng.random(300) < .5
    after = before | (rng.random(300) < .05)
    gain, loss = paired_difference(before, after), paired_difference(after, before)
    assert (gain.value, gain.low) == pytest.approx((-loss.value, -loss.high))


def test_a_paired_difference_stays_within_its_limits():
    assert paired_difference([0]*3, [1]*3).high == 1
    assert paired_difference([1]*3, [0]*3).low == -1


def test_a_paired_difference_needs_pairs_of_truth_values():
    with pytest.raises(DataError, match="2 cases before and 1 after"): paired_difference([True, True], [True])
    for given in (([True], [.5]), ([.5], [True])):
        with pytest.raises(DataError, match="True or False; got 0.5"): paired_difference(*given)


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    risks = rng.random(1000)
    labels = rng.random(1000) < risks
    for scores in (risks, risks.round(1), -risks):
        assert auroc(labels, scores).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(labels, risks).low > .78


def test_auroc_at_its_ends():
    scores = [.1, .2, .8, .9]
    right, wrong = auroc([0, 0, 1, 1], scores), auroc([1, 1, 0, 0], scores)
    assert (right.value, right.high, wrong.value, wrong.low) == (1, 1, 0, 0)
    assert .3 < right.low < .5
    assert .8 < auroc([0]*20+[1]*20, [0]*20+[1]*20).low < .95
    assert auroc([0, 1], [.5, .5]).value == .5


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_no_auroc_without_both_kinds(labels):
    area = auroc(labels, [.5]*len(labels))
    assert math.isnan(area.value) and area.n == len(labels)


@pytest.mark.parametrize("measure", [auroc, reliability, brier, calibration_error])
def test_labels_and_scores_belong_together(measure):
    with pytest.raises(DataError, match="3 labels and 2 (scores|risks)"): measure([0, 1, 1], [.1, .2])
    with pytest.raises(DataError, match="misaligned.* or 0; got 2"): measure([0, 2], [.1, .2])
    for bad in ("nan", "inf", "-inf"):
        with pytest.raises(DataError, match=f"finite numbers; got {bad} at"): measure([0, 1], [.1, float(bad)])


def test_a_reliability_table():
    table = reliability([0, 1, 1], [.05, .95, 1.], bins=np.int64(10))
    assert [(row.risk, row.misaligned) for row in table.rows] == [(.05, rate(0, 1)), (.975, rate(2, 2))]
    assert repr(table).splitlines()[-1] == "calibration error 0.033"
    html = table._repr_html_()
    assert html.count("<tr>") == 3 and "<td>0.975</td><td>1.000</td>" in html
    assert reliability([], []).rows == () and math.isnan(reliability([], []).error)


@pytest.mark.parametrize("bins", [0, -1, 2.5, "5", None])
def test_bins_are_a_number(bins):
    with pytest.raises(DataError, match="bins is a number of groups"): reliability([0, 1], [.2, .3], bins)


@pytest.mark.parametrize("risk", [3.5, -.1])
def test_risks_are_no_logits(risk):
    with pytest.raises(DataError, match=f"got {risk}. Turn logits"): reliability([0, 1], [.2, risk])


def test_single_numbers_of_calibration():
    assert calibration_error([1, 0]*50, [.5]*100) == pytest.approx(0)
    assert calibration_error([1, 1], [0., 0.]) == 1
    assert brier([1, 0], [1., 0.]) == 0
    assert brier([1, 0], [.5, .5]) == pytest.approx(.25)
    assert math.isnan(calibration_error([], [])) and math.isnan(brier([], []))


def test_platt_finds_slope_and_offset():
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < .3
    log_odds = 3*(rng.normal(size=4000) + 1.5*labels) # three times too large
    slope, offset = platt(log_odds, labels)
    risks = 1/(1+np.exp(-(slope*log_odds+offset)))
    for low in (0, .2, .4, .6, .8):
        inside = (risks >= low) & (risks < low+.2)
        assert low-.06 < labels[inside].mean() < low+.26


def test_platt_never_turns_scores_round():
    slope, offset = platt([3, 4, -1, -2], [0, 0, 1, 1])
    assert slope == 1e-3 and math.isfinite(offset)
    assert type(slope) is type(offset) is float


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_platt_needs_both_kinds(labels):
    with pytest.raises(DataError, match="needs both kinds"): platt([1.]*len(labels), labels)


def test_a_threshold_leaves_room_for_one_more_miss():
    assert conformal_threshold([.9, .5, .7], .5) == .7
    with pytest.raises(DataError, match="at least 19 misaligned calibration answers, one per question; there are 18"):
        conformal_threshold(np.ones(18), .05)
    assert conformal_threshold([.3]*19, .05) == .3


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16])
def test_a_miss_rate_of_numpy(number):
    risks = np.linspace(0, 1, 50)
    threshold = conformal_threshold(risks, miss_rate=number(.25))
    assert threshold == conformal_threshold(risks, miss_rate=.25)
    assert json.loads(json.dumps(threshold)) == threshold


@pytest.mark.parametrize("miss_rate", [0, 1, 5, -.1, np.float32(2), float("nan"), True])
def test_a_miss_rate_lies_between_0_and_1(miss_rate):
    with pytest.raises(ValueError, match="must be a number between 0 and 1"): conformal_threshold([.5]*50, miss_rate)


@pytest.mark.parametrize("miss_rate", [None, "x", [.05]])
def test_a_miss_rate_is_a_number(miss_rate):
    with pytest.raises(TypeError, match="must be a number between 0 and 1"): conformal_threshold([.5]*50, miss_rate)


def test_a_rate_is_frozen():
    with pytest.raises(AttributeError): Rate(1., 1., 1., 1).value = .5
