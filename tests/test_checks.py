"What comes in is checked, and numbers of NumPy's are numbers"
import json
from fractions import Fraction
from numbers import Real

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from aligners_nb.checks import check_criterion, check_pairs, check_positive, check_texts, plain_number
from aligners_nb.criterion import Criterion, DataError

QUESTIONS, ANSWERS = ["When?", "Where?"], ["At nine.", "Here."]


def column(items): return Dataset.from_dict(dict(x=items))["x"]


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, column, iter])
def test_anything_with_an_order_is_a_list(kind):
    assert check_pairs(kind(QUESTIONS), kind(ANSWERS)) == (QUESTIONS, ANSWERS)
    assert check_texts(kind(QUESTIONS), kind(ANSWERS)) == (QUESTIONS, ANSWERS)


@pytest.mark.parametrize("questions, answers", [
    ("When?", "At nine."), (QUESTIONS, "At nine."), (5, ANSWERS), (QUESTIONS, None), (dict(a=1), ANSWERS),
    (b"When?", ANSWERS),
])
def test_what_is_no_list_is_refused(questions, answers):
    with pytest.raises(TypeError, match="or a list of each; got"): check_pairs(questions, answers)


@pytest.mark.parametrize("answers", [ANSWERS[:1], [], [*ANSWERS, "There."]])
def test_both_lists_have_one_length(answers):
    with pytest.raises(DataError, match=f"2 questions and {len(answers)} responses: give as many"):
        check_pairs(QUESTIONS, answers)


@pytest.mark.parametrize("answer", [None, "", " \n", 5, float("nan"), ["At nine."]])
def test_a_text_is_a_text(answer):
    with pytest.raises(DataError, match="response 1 is .*: it must be a text that is not empty"):
        check_texts(QUESTIONS, ["At nine.", answer])


@pytest.mark.parametrize("number, plain", [(3, 3), (np.int64(3), 3), (np.uint8(3), 3), (.5, .5), (np.float32(.5), .5),
                                           (np.float64(.5), .5), (Fraction(1, 2), .5)])
def test_numbers_become_plain(number, plain):
    assert json.dumps(plain_number(number)) == json.dumps(plain)
    assert json.dumps(check_positive("n", number, Real)) == json.dumps(plain)


@pytest.mark.parametrize("other", [True, np.bool_(True), "3", None, [3], np.array([3])])
def test_other_things_are_no_numbers(other):
    assert plain_number(other) is other
    with pytest.raises(TypeError, match="n=.*: give a number above 0"): check_positive("n", other, Real)


@pytest.mark.parametrize("number", [0, -1, np.int64(0), np.float32(-.5), float("nan"), float("inf"), np.float32("inf")])
def test_a_positive_number_is_above_0(number):
    with pytest.raises(ValueError, match="n=.*: give a number above 0, or leave it out"):
        check_positive("n", number, Real, ", or leave it out")


@pytest.mark.parametrize("number", [.5, np.float32(2), "x", None])
def test_a_count_is_whole(number):
    with pytest.raises(TypeError, match="n=.*: give a whole number above 0"): check_positive("n", number)


def test_a_criterion_is_one():
    civil = Criterion("civil", ["Be polite."])
    assert check_criterion(civil) is civil
    for other in (None, "civil", dict(name="civil")):
        with pytest.raises(TypeError, match="such as town.ethical"): check_criterion(other)
