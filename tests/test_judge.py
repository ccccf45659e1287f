"A judge owes a verdict on each answer: whatever else it returns is one error that names the answer"
import numpy as np
import pandas as pd
import pytest
from aligners_nb import town
from aligners_nb.criterion import DataError
from aligners_nb.judge import Judge, Verdict, as_judge, score

QS, YS = ["When?", "Where?", "Who?"], ["At nine.", "Here, fool.", "You."]


def polite(question, answer):
    return dict(polite=("fool" not in answer, "no insult" if "fool" not in answer else "fool"), short=len(answer) < 9)


@Judge.of_lists
def polite_lists(questions, answers):
    return [polite(*pair) for pair in zip(questions, answers)]


EXPECTED = [dict(polite=(True, "no insult"), short=(True, "")), dict(polite=(False, "fool"), short=(False, "")),
            dict(polite=(True, "no insult"), short=(True, ""))]


def test_a_function_and_a_judge_of_lists_say_the_same():
    assert as_judge(polite)(QS, YS) == polite_lists(QS, YS) == EXPECTED
    assert isinstance(polite_lists(QS, YS)[0]["polite"], Verdict)
    assert as_judge(polite_lists) is polite_lists
    assert (repr(as_judge(polite)), repr(polite_lists)) == ("Judge(polite)", "Judge(polite_lists)")


def test_a_list_is_judged_in_one_call_and_nothing_in_none():
    calls = []

    @Judge.of_lists
    def judge(questions, answers):
        calls.append((questions, answers))
        return [dict(kind=True)]*len(answers)

    assert judge([], []) == score([], [], judge) == score([], [], polite) == [] and calls == []
    score(QS, YS, judge)
    assert calls == [(QS, YS)]


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, iter])
def test_any_sequence_will_do(kind):
    expected = [dict(polite=True, short=True), dict(polite=False, short=False), dict(polite=True, short=True)]
    for judge in (polite, polite_lists):
        assert score(kind(QS), kind(YS), judge) == expected


def test_what_counts_as_met():
    for met in (True, np.True_, (True, None), [True, ""], (np.True_, 7)):
        (said,) = as_judge(lambda question, answer: dict(kind=met))(QS[:1], YS[:1])
        assert said["kind"].met is True and isinstance(said["kind"].reason, str)


NO_DICT, NO_BOOL = (TypeError, "a judge returns"), (TypeError, "met is True or False")
WRONG = [(None, *NO_DICT), (True, *NO_DICT), ({}, *NO_DICT), ("yes", *NO_DICT), ([True], *NO_DICT),
         (dict(kind="yes"), *NO_BOOL), (dict(kind=1), *NO_BOOL), (dict(kind=None), *NO_BOOL),
         (dict(kind=(True,)), *NO_BOOL), (dict(kind=(True, "a", "b")), *NO_BOOL), (dict(kind=("why", True)), *NO_BOOL),
         (dict(kind=.7), TypeError, "said 0.7 of 'kind'. A score needs a threshold"),
         ({"all": True}, DataError, "called 'all'"),
         (dict(short=True), DataError, r"spoke of \['kind'\] and now of \['short'\]")]


@pytest.mark.parametrize("returned, error, why", WRONG)
def test_a_wrong_return_names_the_answer(returned, error, why):
    asked = []

    def function(question, answer):
        asked.append(answer)
        return returned if answer == YS[1] else dict(kind=True)

    def lists(questions, answers):
        return [returned if answer == YS[1] else dict(kind=True) for answer in answers]

    for judge in (function, Judge.of_lists(lists)):
        with pytest.raises(error, match=why) as caught:
            score(QS, YS, judge)
        assert str(caught.value).startswith("answer 1 ('Here, fool.'): ")
    assert asked == YS[:2]                                   # no call is made for the answers after it


NO_LIST = TypeError, "returns a list with a dict"


@pytest.mark.parametrize("returned, error, why", [
    ([], DataError, "3 answers and returned 0"), ([dict(kind=True)]*2, DataError, "3 answers and returned 2"),
    ([dict(kind=True)]*4, DataError, "3 answers and returned more"),
    (dict(kind=True), *NO_LIST), ("yes", *NO_LIST), (None, *NO_LIST)])
def test_a_judge_of_lists_owes_a_verdict_on_each_answer(returned, error, why):
    with pytest.raises(error, match=why):
        Judge.of_lists(lambda questions, answers: returned)(QS, YS)


def test_what_the_judge_raises_comes_with_a_note():
    def hangs_up(question, answer):
        if answer == YS[2]: raise ConnectionError("the judge hung up")
        return dict(kind=True)

    with pytest.raises(ConnectionError, match="hung up") as caught:
        score(QS, YS, hangs_up)
    assert caught.value.__notes__ == ["while judging answer 2 ('You.')"]


@pytest.mark.parametrize("judge", [None, "gpt-4o", 7, dict(kind=True)])
def test_what_is_no_judge(judge):
    with pytest.raises(TypeError, match="a judge is a function of a question and an answer"):
        as_judge(judge)
    with pytest.raises(TypeError, match="a judge is a function"):
        score(QS, YS, judge)


def test_answers_are_lists_of_one_length():
    with pytest.raises(DataError, match="as many of one"):
        polite_lists(QS, YS[:2])
    with pytest.raises(TypeError, match="a list of each"):
        polite_lists("When?", "At nine.")


def test_the_criteria_may_be_asked_for_by_name():
    assert score(QS, YS, polite, ["short", "polite"]) == score(QS, YS, polite)
    with pytest.raises(DataError, match=r"answer 0 .*spoke of \['kind'\] and now of \['polite', 'short'\]"):
        score(QS, YS, polite, ["kind"])


def test_the_town_s_oracle_is_a_judge():
    question = town.questions(1, 0)[0]["question"]
    (said,) = as_judge(town.judge)([question], ["Use your own eyes for once."])
    assert set(said) == {"ethical", "factual", "helpful"} and not said["ethical"].met and said["ethical"].reason
