"Help, harm and controls: what `evaluate` counts, what it refuses, and what a control sees"
import json

import pytest

from aligners_nb.criterion import DataError, criteria
from aligners_nb.evaluation import Results, answer_anew, best_of_n, evaluate, harm, met_rates, with_ci
from aligners_nb.llm import Replay
from aligners_nb.stats import rate

ROW = dict(question="When?", response="At nine, fool.")


class Aligned:
    def __init__(self, text):
        self.aligned = text


class ScriptedSquad:
    "Removes an insult, or everything"
    policy = "careful"

    def __init__(self):
        self.aligner_calls = self.tokens = 0

    def __call__(self, questions, responses, policy=None):
        if policy not in ("careful", "careless"):
            raise DataError(f"no policy {policy!r}")
        self.aligner_calls += len(responses)
        if policy == "careless":
            return [Aligned("Gladly.") for _ in responses]
        return [Aligned(response.replace(", fool", "")) for response in responses]


def judge(question, answer):
    return dict(kind="fool" not in answer, helpful="nine" in answer)


def never(question, answer):
    raise AssertionError("an answer was judged")


def test_harm_counts_good_answers_and_regressed_counts_all():
    before = [dict(x=True, y=True), dict(x=True, y=True), dict(x=False, y=True), dict(x=False, y=False)]
    after = [dict(x=True, y=True), dict(x=False, y=True), dict(x=False, y=False), dict(x=True, y=True)]
    assert harm(before, after) == dict(n_good=2, harm=rate(1, 2), regressed=rate(2, 4))
    assert met_rates(before)["all"] == rate(2, 4)
    assert met_rates(after)["y"] == rate(3, 4)


def test_harm_needs_the_same_answers_and_criteria():
    before = [dict(x=True, y=True)]*3
    with pytest.raises(DataError, match="3 answers before and 2 after"):
        harm(before, before[:2])
    with pytest.raises(DataError, match="only one side has y"):
        harm(before, [dict(x=True)]*3)


def test_without_answers_there_is_no_rate():
    figures = harm([], [])
    assert figures["n_good"] == 0
    assert with_ci(dict(harm=figures["harm"])) == dict(harm=None, harm_ci=None)
    assert list(met_rates([])) == ["all"]


def test_each_policy_has_its_figures_and_its_cost():
    rows = [ROW, dict(question="When?", response="At nine.")]*10
    results = evaluate(ScriptedSquad(), rows, judge, policies=["careful", "careless"])
    careful, careless = results.of("careful"), results.of("careless")
    assert (careful["after"]["all"].value, careful["harm"].value, careful["changed"].value) == (1, 0, .5)
    assert (careless["harm"].value, careless["n_good"], careless["gain"].value) == (1, 10, -.5)
    assert results.cost == dict.fromkeys(("careful", "careless"), dict(aligner_calls=20, tokens=0))
    figures = json.loads(json.dumps(results.to_dict()))
    assert figures["n"] == 20 and figures["before"]["all"] == .5
    assert figures["policies"]["careful"]["gain"] == .5 and figures["policies"]["careful"]["aligner_calls"] == 20


def test_answers_that_did_not_change_are_judged_once():
    judged = []

    def counting(question, answer):
        judged.append(answer)
        return judge(question, answer)

    evaluate(ScriptedSquad(), [ROW, dict(question="When?", response="At nine.")], counting)
    assert judged == ["At nine, fool.", "At nine.", "At nine."]


def test_one_policy_may_be_a_text_and_none_is_the_squads_own():
    assert evaluate(ScriptedSquad(), [ROW], judge, "careless").policies == ["careless"]
    assert evaluate(ScriptedSquad(), [ROW], judge).policies == ["careful"]


def test_results_show_themselves_with_n_and_intervals():
    met = [dict(kind=True)]
    results = Results(["q"], {"before": ["a"], "<b>": ["a"]}, {"before": met, "<b>": met}, cost={})
    assert "1 answers, 95 % intervals" in repr(results) and "1.000 [0.207, 1.000]" in repr(results)
    assert "harm, of 1 good" in repr(results) and "calls" not in repr(results)
    assert "&lt;b&gt;" in results._repr_html_() and "<b>" not in results._repr_html_()


def test_without_a_good_answer_harm_is_a_dash():
    bad = [dict(kind=False)]
    results = Results(["q"], dict(before=["a"], x=["b"]), dict(before=bad, x=bad), cost={})
    line = next(line for line in repr(results).splitlines() if line.startswith("harm"))
    assert line.split() == ["harm,", "of", "0", "good", "–"]
    assert results.to_dict()["policies"]["x"]["harm"] is None


@pytest.mark.parametrize("rows, why", [
    ([], "no rows to evaluate"),
    ([dict(q=1)], 'row 0 has no question, only q: type columns=dict.question="q"'),
    ([ROW, dict(question="When?", response=None)], "row 1 has response=None"),
    ([dict(question=3, response="At nine.")], "row 0: ")])
def test_rows_are_checked_before_anything_is_judged(rows, why):
    with pytest.raises(DataError, match=why):
        evaluate(ScriptedSquad(), rows, never)


def test_a_squad_and_its_policies_are_checked_before_anything_is_judged():
    with pytest.raises(DataError, match="no policy 'bold'"):
        evaluate(ScriptedSquad(), [ROW], never, ["careful", "bold"])
    for no_squad in (lambda questions, responses, policy: responses, ScriptedSquad, None):
        with pytest.raises(TypeError, match="a squad is called with"):
            evaluate(no_squad, [ROW], never)


def test_an_inspector_that_gated_is_no_judge():
    squad = ScriptedSquad()
    squad.inspectors = dict(kind=judge)
    with pytest.raises(DataError, match="Give another judge"):
        evaluate(squad, [ROW], judge)


def test_a_judge_names_the_same_criteria_before_and_after():
    verdicts = iter([dict(kind=True), dict(short=True)])
    with pytest.raises(DataError, match=r"spoke of \['kind'\] and now of \['short'\]"):
        evaluate(ScriptedSquad(), [ROW], lambda question, answer: next(verdicts))
    with pytest.raises(TypeError, match="a judge returns"):
        evaluate(ScriptedSquad(), [ROW], lambda question, answer: True)


class Threshold:
    def __init__(self, threshold):
        self.threshold = threshold


class TwoInspectors:
    "Two risks, read from the answer"
    inspectors = dict(kind=Threshold(.5), true=Threshold(.1))

    def inspect(self, questions, answers):
        assert all(answers)
        risks = {"a": (.4, .2), "as good as a": (.4, .2), "b": (.55, .1), "c": (.3, .3), "…": (.9, .9)}
        return [dict(zip(("kind", "true"), risks[answer])) for answer in answers]


def test_the_best_answer_is_farthest_below_its_thresholds():
    replies = iter(["a", "b", "c"])
    best = best_of_n(Replay(lambda messages: next(replies)), TwoInspectors(), ["q"], n=3)
    assert best.answers == ["b"]  # its highest excess is .05; those of a and c are .1 and .2


def test_the_first_of_equals_is_kept_and_empty_answers_lose():
    replies = iter(["", "a", "as good as a"])
    best, tokens = best_of_n(Replay(lambda messages: next(replies)), TwoInspectors(), ["q"], n=4, given=[" "])
    assert best == ["a"] and tokens > 0
    assert best_of_n(Replay(lambda messages: "c"), TwoInspectors(), ["q"], n=1, given=["a"]) == (["a"], 0)
    assert best_of_n(Replay(lambda messages: ""), TwoInspectors(), ["q"], n=1).answers == [""]


@pytest.mark.parametrize("n, kind", [(0, ValueError), (1.5, TypeError), ("x", TypeError)])
def test_n_is_a_number_of_answers(n, kind):
    with pytest.raises(kind, match="n="):
        best_of_n(Replay(lambda messages: "a"), TwoInspectors(), ["q"], n)


def test_controls_take_lists_of_questions():
    llm = Replay(lambda messages: "At nine.")
    with pytest.raises(TypeError, match=r"of one too: \['When\?'\]"):
        best_of_n(llm, TwoInspectors(), "When?", 2)
    with pytest.raises(TypeError, match=r"of one too: \['When\?'\]"):
        answer_anew(llm, [criteria.ethical], "When?")


def test_answering_anew_shows_the_principles_and_the_question_and_counts_tokens():
    seen = []

    class Recording(Replay):
        def _chat(self, conversations, *args, **settings):
            seen.extend(conversations)
            return super()._chat(conversations, *args, **settings)

    answers, tokens = answer_anew(Recording(lambda messages: "At nine."), [criteria.ethical], ["When?"])
    assert answers == ["At nine."] and tokens > 0
    text = json.dumps(seen)
    assert "When?" in text and all(principle in text for principle in criteria.ethical.principles)
