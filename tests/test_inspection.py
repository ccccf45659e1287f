"Reports on inspectors: their figures beside other implementations, and shortcuts that are named where they explain one"
import json
import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from aligners_nb import town
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.inspection import (FEWEST, NO_QUESTION, Answers, Report, answer_groups, audit_shortcuts,
                                    compare_generators, shortcut_scores)
from aligners_nb.inspector import Inspector
from aligners_nb.scorers import Scorer
from aligners_nb.stats import (auroc, auroc_difference, average_precision, calibration_error,
                               mean_rate, pair_accuracy, perfect_reliability, right_where_wrong)
from aligners_nb.town_corpus import ask, pair

civil = Criterion("civil", ["Be polite."])


def noisy(seed, n=400, lift=1.5):
    "Labels, and risks that are true to them"
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < .4
    odds = lift*rng.normal(size=n) + lift**2*(labels-.5) - .4
    return labels.astype(int), 1/(1+np.exp(-odds))


def test_the_figures_are_those_of_scikit_learn():
    labels, risks = noisy(0)
    report = Report("civil", labels.tolist(), risks.tolist(), .5, .05)
    assert report.auroc.value == pytest.approx(roc_auc_score(labels, risks))
    assert report.average_precision.value == pytest.approx(average_precision_score(labels, risks))
    assert report.brier.value == pytest.approx(brier_score_loss(labels, risks))
    assert report.miss.n == labels.sum() and report.false_alarms.n == (1-labels).sum()
    for figure in (report.auroc, report.average_precision, report.brier, report.miss, report.false_alarms):
        assert figure.low < figure.value < figure.high


def test_a_report_shows_itself_and_is_json():
    labels, risks = noisy(0)
    report = Report("<civil>", labels.tolist(), risks.tolist(), .5, None, pairs=pair_accuracy([.9, .2], [.1, .2]))
    text, html = repr(report), report._repr_html_()
    assert "not calibrated" in text and "pairs in the right order   0.750" in text and "at most" in text
    assert "<caption>&lt;civil&gt; inspector</caption>" in html and "<civil>" not in html
    figures = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert figures["pairs"]["n"] == 2 and figures["audit"] is None
    assert figures["auroc"]["value"] == report.auroc.value
    curve, calibration, histogram = report.plot()
    assert len(calibration.collections) == 1 and len(curve.lines) == 3    # the band; curve, diagonal and point
    assert sum(patch.get_height() for patch in histogram.containers[0]) == (1-labels).sum()
    plt.close("all")


def test_the_calibration_error_of_true_risks_lies_within_chance():
    inside, errors, expected = 0, [], []
    for seed in range(100):
        risks = np.random.default_rng(seed).beta(.6, 1, size=150)
        labels = np.random.default_rng(1000+seed).random(150) < risks
        perfect = perfect_reliability(risks, n_draws=200, seed=seed)
        errors.append(calibration_error(labels, risks))
        expected.append(perfect.error)
        inside += errors[-1] <= perfect.error_high
    assert 88 <= inside <= 100    # 95 expected, with a standard error of 2.2
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=.05)


def test_a_perfect_predictor_at_the_ends():
    certain = perfect_reliability([0., 0., 1., 1.])
    assert certain.error == certain.error_high == 0
    assert [(row.risk, row.low, row.high) for row in certain.rows] == [(0, 0, 0), (1, 1, 1)]
    assert perfect_reliability([]).rows == ()
    few, many = perfect_reliability([.3]*20), perfect_reliability([.3]*2000)
    assert few.error > 5*many.error
    assert many.error == pytest.approx(np.sqrt(2/np.pi*.3*.7/2000), rel=.1)    # the mean of |normal|
    with pytest.raises(DataError, match="risks lie between 0 and 1"): perfect_reliability([1.2])


def test_average_precision_has_a_width_at_its_ends():
    best = average_precision([0]*20+[1]*20, [0]*20+[1]*20)
    assert best.value == best.high == 1 and .8 < best.low < .9 and best.n == 40
    assert np.isnan(average_precision([1, 1], [.1, .2]).value)


def test_means_and_pairs():
    assert mean_rate([.2]).low == .2 and mean_rate([]).n == 0
    assert mean_rate([0, 1]*50).value == .5
    best = pair_accuracy([.9]*30, [.1]*30)
    assert best.value == best.high == 1 and .85 < best.low < .92
    assert pair_accuracy([], []).n == 0


@pytest.mark.parametrize("n, lifts, shared", [(40, (1, 1.5), .5), (150, (1, 1.1), .8), (40, (2, 3), .3)])
def test_the_interval_of_a_difference_contains_it(n, lifts, shared):
    true = norm.cdf(lifts[1]/np.sqrt(2)) - norm.cdf(lifts[0]/np.sqrt(2))
    rng, labels = np.random.default_rng(n), np.repeat([0, 1], n)
    n_inside = 0
    for _ in range(100):
        common, *own = rng.normal(size=(3, 2*n))
        first, second = [np.sqrt(shared)*common + np.sqrt(1-shared)*noise + lift*labels
                         for noise, lift in zip(own, lifts)]
        interval = auroc_difference(labels, first, second)
        assert interval.value == pytest.approx(roc_auc_score(labels, second)-roc_auc_score(labels, first))
        n_inside += interval.low <= true <= interval.high
    assert n_inside >= 90    # 95 expected, with a standard error of 2.2


def test_answers_to_one_question_are_one_observation():
    labels, risks = noisy(3)
    other = risks + np.random.default_rng(4).normal(size=400)*.3
    copies = [np.repeat(column, 4) for column in (labels, risks, other)]
    groups = np.repeat(np.arange(400), 4)
    single, grouped = auroc_difference(labels, risks, other), auroc_difference(*copies, groups)
    ungrouped = auroc_difference(*copies)
    assert grouped.high-grouped.low == pytest.approx(single.high-single.low, rel=.1)
    assert ungrouped.high-ungrouped.low < .6*(grouped.high-grouped.low)
    where, where_copied = right_where_wrong(labels, risks, other), right_where_wrong(*copies, groups)
    assert where_copied.value == pytest.approx(where.value) and where_copied.n == 16*where.n
    assert where_copied.high-where_copied.low == pytest.approx(where.high-where.low, rel=.1)


def test_differences_at_their_ends():
    perfect = [0]*30 + [1]*30
    same = auroc_difference(perfect, perfect, perfect)
    assert same.value == 0 and -.08 < same.low < -.03 and same.high == -same.low
    assert right_where_wrong(perfect, perfect, perfect).n == 0
    inverted = right_where_wrong(perfect, [-label for label in perfect], perfect)
    assert inverted.value == inverted.high == 1 and .85 < inverted.low < .92 and inverted.n == 900
    assert np.isnan(auroc_difference([1, 1], [0, 1], [0, 1]).value)
    with pytest.raises(DataError, match="2 labels and 1 baseline scores"): auroc_difference([0, 1], [1], [1, 2])


# ---- shortcuts, on the town ----
TOPICS = ["As I said.", "By the way, it is a fine day.", "Do come and see us.", "The square is worth a visit as well.",
          "We are glad to help.", "Many people have asked this week."]


def town_answers(n, seed, longer):
    "Held-out questions with right and wrong answers; the wrong ones have `longer` sentences more"
    rng = random.Random(seed)
    questions, responses, labels = [], [], []
    for row in town.questions(n, seed, held_out=True):
        question = town.read(row["question"])
        good = town.good_answer(rng, question, town.FACTS[question.subject])
        label = rng.randrange(2)
        answer = town.render(town.factual_flaw(rng, good)[0] if label else good)
        more = rng.sample(TOPICS, min(len(TOPICS), max(0, rng.randrange(3) + label*longer)))
        questions.append(row["question"])
        responses.append(" ".join([answer, *more]))
        labels.append(label)
    return Answers(questions, responses, labels)


def knows_the_facts(answers, seed, skill=2.2):
    "Risks of an inspector that sees, with some noise, whether the values are right"
    rng = np.random.default_rng(seed)
    return 1/(1+np.exp(-(rng.normal(size=len(answers.labels)) + skill*(np.asarray(answers.labels)-.5))))


def counts_words(answers, seed):
    "Risks of an inspector that counts, with some noise"
    n_words = np.array([len(response.split()) for response in answers.responses])
    noise = np.random.default_rng(seed).normal(size=len(n_words))
    return 1/(1+np.exp(-(n_words-n_words.mean()+noise)/4))


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_shortcut_is_named(seed):
    answers = town_answers(240, seed, longer=2)
    audit = audit_shortcuts(answers, counts_words(answers, seed))
    length = audit.shortcuts[0]
    assert length.auroc.value > .75 and length.verdict == "suspected"
    assert audit.sentences[0].startswith("Length alone reaches AUROC .")
    assert audit.sentences[0].endswith("it may have learned little more than the length of the answer.")
    assert "suspected" in repr(audit) and "little more" in audit._repr_html_()
    assert audit.to_dict()["shortcuts"]["length alone"]["verdict"] == "suspected"


@pytest.mark.parametrize("longer", [0, 2])    # without and with a shortcut that it might have taken
@pytest.mark.parametrize("seed", range(3))
def test_an_inspector_that_knows_is_not_accused(seed, longer):
    answers = town_answers(240, seed, longer)
    audit = audit_shortcuts(answers, knows_the_facts(answers, seed))
    assert [shortcut.verdict for shortcut in audit.shortcuts] == ["cleared"]*3
    assert audit.sentences[0].startswith("No shortcut that was tried explains the inspector")


def test_an_inspector_that_guesses_has_nothing_to_explain():
    answers = town_answers(200, 0, longer=2)
    audit = audit_shortcuts(answers, np.random.default_rng(0).random(200))
    assert audit.sentences == ["The inspector does not tell good answers from bad ones, "
                               "so there is nothing to explain."]


def test_a_shortcut_without_errors_leaves_the_question_open():
    answers = town_answers(120, 0, longer=0)
    marked = [response + "!"*400*label for response, label in zip(answers.responses, answers.labels)]
    answers = answers._replace(responses=marked)
    audit = audit_shortcuts(answers, knows_the_facts(answers, 0))
    assert audit.shortcuts[0].right_where_wrong.n == 0 and audit.shortcuts[0].verdict == "unclear"
    assert "these answers can't show" in audit.sentences[0]


def test_too_few_answers_are_said_to_be_too_few():
    answers = town_answers(2*FEWEST-2, 0, longer=2)
    audit = audit_shortcuts(answers, counts_words(answers, 0))
    assert audit.shortcuts == () and "are too few to look for shortcuts" in audit.sentences[0]
    assert audit.to_dict() == dict(shortcuts={}, sentences=audit.sentences)
    few_questions = Answers(["When?"]*100, ["At nine."]*100, [0, 1]*50)
    assert audit_shortcuts(few_questions, [.5]*100, groups=[0]*50+[1]*50).too_few


def test_groups_are_questions_unless_there_are_hardly_any():
    assert answer_groups([f"When {i}?" for i in range(10)])[3] == "When 3?"
    assert answer_groups(["Correct this."]*12, rows=[*range(6)]*2) == [*range(6)]*2
    assert answer_groups([[dict(role="user", content="When?")]]*2) == [0, 1]


def test_shortcuts_learn_from_the_training_answers_if_these_are_given():
    train, test = town_answers(200, 0, longer=2), town_answers(200, 1, longer=-2)    # good ones are longer there
    by_rows = shortcut_scores(test, answer_groups(test.questions))["length alone"]
    by_train = shortcut_scores(test, answer_groups(test.questions), train)["length alone"]
    assert auroc(test.labels, by_rows).value > .45    # it turned round
    assert auroc(test.labels, by_train).value < .6
    once_more = shortcut_scores(test, answer_groups(test.questions), train)["length alone"]
    assert (once_more == by_train).all()


def test_another_generator():
    labels, risks = noisy(0)
    report = Report("civil", labels.tolist(), risks.tolist(), .5, .05)
    same, shifted = noisy(1)[1], noisy(1)[1]**.3
    assert "No shift" in compare_generators(report, same).sentence
    other = compare_generators(report, shifted)
    assert "have another distribution" in other.sentence and "Only labels can say" in other.sentence
    assert other.report is None and other.to_dict()["report"] is None
    labelled = compare_generators(report, shifted, 1-noisy(1)[0])
    assert labelled.report.auroc.value < .3 and "There the AUROC is .1" in labelled.sentence
    assert compare_generators(report, shifted, [1]*len(shifted)).report is None    # one kind only
    assert "Answers of another generator" in repr(Report("c", [0, 1], [0, 1], .5, None, others=other))
    with pytest.raises(DataError, match="others= has no answers"): compare_generators(report, [])


# ---- Inspector.report ----
class Polite(Scorer):
    "Hears insults, and needs no question"
    version = "1"

    def __init__(self): self.seen = []

    def __call__(self, questions, responses, batch_size=32):
        self.seen += questions
        return np.array([6.*("fool" in response) - 3 for response in responses])


def pair_rows(n, both=False):
    "Rows with a rude response; if `both`, every second one is polite already"
    rows = []
    for i in range(n):
        polite = f"It opens at {i}. " + "Do come in. "*(i % 4)
        response = polite if both and i % 2 else f"It opens at {i}, fool." + " Now go."*(i % 3)
        rows.append(dict(question=f"When does shop {i} open?", response=response, correction=polite))
    return rows


def test_pairs_alone_are_enough():
    inspector = Inspector(civil, scorer=Polite())
    report = inspector.report(pair_rows(30))
    assert report.pairs.value == 1 and report.pairs.n == 30
    assert report.labels == [1]*30 + [0]*30 and report.auroc.n == 60
    assert report.audit.blind.auroc.value == 1 and inspector.scorer.seen.count(NO_QUESTION) == 60


def test_with_both_kinds_the_responses_are_measured_and_the_pairs_beside_them():
    inspector = Inspector(civil, scorer=Polite())
    report = inspector.report(pair_rows(60, both=True), audit=False)
    assert len(report.labels) == 60 and sum(report.labels) == 30 and report.pairs.n == 30
    assert report.audit is None and NO_QUESTION not in inspector.scorer.seen


def test_labels_in_a_column_or_beside_the_rows():
    rows = []
    for row in pair_rows(60, both=True):
        label = int(row["response"] != row["correction"])
        rows.append(dict(question=row["question"], response=row["response"], label=label))
    inspector = Inspector(civil, scorer=Polite())
    by_column = inspector.report(rows)
    bare = [{name: row[name] for name in ("question", "response")} for row in rows]
    assert repr(by_column) == repr(inspector.report(bare, labels=[row["label"] for row in rows]))
    assert by_column.pairs is None
    with pytest.raises(DataError, match="60 rows and 1 labels"): inspector.report(bare, labels=[1])
    with pytest.raises(DataError, match="row 0 has"): inspector.report(bare)


def test_training_rows_and_other_answers_in_a_report():
    inspector = Inspector(civil, scorer=Polite())
    others = [dict(question="When?", response="At ten, fool.")]*20
    report = inspector.report(pair_rows(60, both=True), train=pair_rows(40, both=True), others=others)
    assert len(report.audit.shortcuts) == 3 and report.others.flagged.value == 1
    labelled = [dict(row, label=i % 2) for i, row in enumerate(others)]
    assert inspector.report(pair_rows(60, both=True), others=labelled).others.report.auroc.value == .5


# ---- the promise ----
@pytest.fixture(scope="module")
def town_scores():
    "Rows about the town that an inspector which was trained there has not seen, and its log-odds by question"
    rng, rows = random.Random(0), {}
    while len(rows) < 460:
        question, facts, known = ask(rng)
        response, critique, correction = pair(rng, "ethical", question, facts, known)
        rows[question.text] = dict(question=question.text, response=response, correction=correction)
    train, rest = list(rows.values())[:60], list(rows.values())[60:]
    inspector = Inspector.fit(train, criterion=town.ethical, epochs=1, progress=False)
    scores = inspector.scores([row["question"] for row in rest], [row["response"] for row in rest])
    return rest, dict(zip([row["question"] for row in rest], scores))


class Remembered(Scorer):
    "Gives the scores that another one gave"
    version = "1"

    def __init__(self, scores): self.by_question = scores

    def __call__(self, questions, responses, batch_size=32):
        return np.array([self.by_question[question] for question in questions])


@pytest.mark.parametrize("miss_rate", [.05, .2])
def test_over_random_calibration_splits_the_miss_rate_keeps_its_promise(town_scores, miss_rate):
    "Half of the answers calibrate, and the misses are counted among the other half, 200 times"
    rows, scores = town_scores
    missed = []
    for seed in range(200):
        calib, test = np.array_split(np.random.default_rng(seed).permutation(len(rows)), 2)
        inspector = Inspector(town.ethical, scorer=Remembered(scores))
        inspector.calibrate([rows[i] for i in calib], miss_rate)
        bad = [rows[i] for i in test if rows[i]["response"] != rows[i]["correction"]]
        risks = inspector([row["question"] for row in bad], [row["response"] for row in bad])
        missed.append(np.mean(np.array(risks) < inspector.threshold))
    standard_error = np.std(missed, ddof=1)/np.sqrt(len(missed))
    assert np.mean(missed) <= miss_rate + 3*standard_error
    assert np.mean(missed) >= miss_rate/2    # it is not kept by flagging everything
