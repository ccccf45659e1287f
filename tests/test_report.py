"The report: one page that needs nothing else, defines its words, escapes what it shows and bears small runs"
import re

import pytest

from aligners_nb.evaluation import with_ci
from aligners_nb.report import CRITERIA, FATES, INK, MEASURES, WAYS
from aligners_nb.report import examples, fate, page, percent, pick, summary, svg, write_report
from aligners_nb.stats import rate

GOOD, RUDE, WRONG = (True, True, True), (False, True, True), (True, False, True)


def cell(met, text="At nine."):
    return dict(zip(CRITERIA, met), text=text)


def line(before, after, question="When?"):
    cells = dict(before=cell(before), greedy=cell(before), after=dict(no_regret=cell(after)))
    return dict(llm="grump", question=question, facts="known", **cells)


def step(decision, proposal="At nine."):
    return dict(criterion="ethical", risk=.9, proposal=proposal, risk_after=.1, decision=decision, reason="risk < 0.5")


def alignment(response="At nine, fool.", aligned="At nine.", trace=("accepted",)):
    return dict(response=response, aligned=aligned, trace=[step(decision) for decision in trace])


def outcome(n, n_good, n_spoilt, n_calls=3):
    met = with_ci(dict.fromkeys((*CRITERIA, "all"), rate(n_good, n)))
    rates = dict(harm=rate(n_spoilt, n_good), regressed=rate(n_spoilt, n), changed=rate(1, n), survival=rate(0, 0))
    side = with_ci(rates)
    return dict(after=met, n_good=n_good, aligner_calls=n_calls, tokens=1234, **side)


def figures(n=10, n_good=4, n_spoilt=1):
    met = with_ci(dict.fromkeys((*CRITERIA, "all"), rate(n_good, n)))
    policies = {name: outcome(n, n_good, n_spoilt) for name in ("no_regret", "paper", "always")}
    controls = {name: outcome(n, n_good, n_spoilt) for name in ("best_of_n", "answer_anew")}
    return dict(n=n, before=met, greedy=met, policies=policies, controls=controls)


def report(**kwargs):
    group = figures(**kwargs)
    inspector = with_ci(dict(auroc=rate(9, 10), miss=rate(0, 0), guest_miss=rate(1, 10), false_alarm=rate(1, 10)))
    inspectors = {name: dict(inspector, miss_target=.05, threshold=.3, n_test=0) for name in CRITERIA}
    reference = dict(n=5, before=group["before"], **group["controls"]["answer_anew"])
    parts = dict(guests=dict(grump=group), facts=dict(known=group))
    return dict(group, seconds=7, teacher=reference, untrained=reference, inspectors=inspectors, **parts)


def learned(risks_bad=(.9, .8), risks_good=(.1, .2)):
    log = [dict(epoch=1, loss=1.5), dict(epoch=2, loss=.5)]
    funnel = dict(made=5, parsed=5, unique=4, kept=3, drops=dict(leaked_prompt=1))
    one = dict(funnel=funnel, rows=[1, 1, 1], aligner=log, inspector=log, threshold=.3, miss_target=.05,
               risks_bad=list(risks_bad), risks_good=list(risks_good))
    return dict.fromkeys(CRITERIA, one)


def a_page(rep=None, lines=None, alignments=None, **kwargs):
    lines = lines or [line(RUDE, GOOD)]
    alignments = alignments or [alignment() for _ in lines]
    return page(rep or report(), learned(**kwargs), lines, dict(no_regret=dict(out=alignments)), dict(run=0, learn=3.2))


@pytest.fixture(scope="module")
def html():
    return a_page()


def visible(html):
    "The text of a page without its elements"
    return re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S))


def test_the_page_loads_nothing_and_links_to_the_project_and_the_files_beside_it(html):
    assert not re.search(r"\bsrc=|@import|<script|<link|url\((?!#)", html)
    links = re.findall(r'href="([^"#]+)"', html)
    assert links == ["answers.jsonl", "report.json", "squad", "data", "https://github.com/example-user/aligners-nb"]
    anchors = re.findall(r'href="#([^"]+)"', re.sub(r"<svg.*?</svg>", "", html, flags=re.S))
    assert len(anchors) > 5 and all(f'id="{anchor}"' in html for anchor in anchors)


def test_the_page_suits_day_night_and_phones(html):
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html
    assert "the table scrolls sideways" in html
    assert INK not in html and "#000000" not in html  # drawings take the colour of the text


def test_every_way_and_every_measure_is_defined(html):
    for word in (*WAYS, *MEASURES):
        assert f"<dt>{word}</dt>" in html
    shown = set(re.findall(r"<th>([^<]+)</th>", html))
    defined = ", ".join(MEASURES)
    assert all(word in defined for word in ("good", "harm", "regressed", "own facts kept", "changed"))
    assert {"good", "harm", "regressed", "own facts kept", "changed", "aligner calls", "tokens"} <= shown


def test_how_the_page_was_made_is_on_it_if_it_is_known(html):
    about = dict(command="aligners demo --seed 3", seed=3, version="9.9", python="3.12.1", machine="two <cores>")
    text = a_page(report() | dict(about=about))
    for shown in ("aligners demo --seed 3", "9.9", "3.12.1", "two &lt;cores&gt;"):
        assert shown in text
    assert "command" not in visible(html) and "7 seconds" in visible(html)


def test_fractions_are_percent(html):
    assert "40.0 %" in html and "16.8–68.7" in html
    assert "0.4 " not in visible(html.split("<svg")[0]) and "[0." not in html


def test_percent_of_no_case_is_a_dash():
    assert percent(dict(harm=None, harm_ci=None), "harm") == "–" == percent({}, "harm")


def test_texts_are_escaped():
    forged = line(RUDE, GOOD, question="<script>alert(1)</script>")
    rewritten = alignment("<b>fool", "<i>nine")
    rewritten["trace"][0]["reason"] = "risk <u>0.1</u>"
    html = a_page(lines=[forged], alignments=[rewritten])
    assert "&lt;script&gt;" in html
    assert not re.search(r"<script|<b>fool|<i>nine|<u>", html)


FATE_CASES = dict(
    helped=(line(RUDE, GOOD), alignment()),
    spoilt=(line(GOOD, WRONG), alignment()),
    refused=(line(RUDE, RUDE), alignment(aligned="At nine, fool.", trace=["refused"])),
    unchanged=(line(RUDE, RUDE), alignment(aligned="At nine, fool.", trace=["unchanged"])),
    changed=(line(RUDE, WRONG), alignment()),
    overlooked=(line(RUDE, RUDE), alignment(aligned="At nine, fool.", trace=[])),
    reworded=(line(GOOD, GOOD), alignment()),
    left=(line(GOOD, GOOD), alignment("At nine.", "At nine.", trace=[])))


@pytest.mark.parametrize("name", FATES)
def test_each_answer_has_one_fate(name):
    assert fate(*FATE_CASES[name]) == name


def test_help_is_shown_first_then_each_kind_of_failure():
    lines, alignments = map(list, zip(*reversed(FATE_CASES.values())))
    text = a_page(lines=lines, alignments=alignments)
    titles = re.findall(r"<h3>([^<]+)<small> 1 of 1", text)
    assert titles == [each.title for each in FATES.values()]


def test_a_refused_proposal_is_shown():
    refused = alignment(aligned="At nine, fool.", trace=[])
    refused["trace"] = [step("refused", proposal="At ten.")]
    shown = str(examples([line(RUDE, RUDE)], [refused]))
    assert "it proposed" in shown and "ten" in shown


def test_examples_are_picked_at_equal_distances():
    assert pick(list(range(100)), 4) == [0, 25, 50, 75]
    assert pick([5, 6], 4) == [5, 6]
    assert pick([], 4) == []


@pytest.mark.parametrize("kwargs, sentence", [
    (dict(n_spoilt=0), "None of the 4 answers that were good before was spoilt"),
    (dict(n_spoilt=1), "Of the 4 answers that were good before, 1 was spoilt"),
    (dict(n_spoilt=3), "Of the 4 answers that were good before, 3 were spoilt")])
def test_the_first_paragraph_says_what_was_harmed(kwargs, sentence):
    text = visible(str(summary(report(**kwargs))))
    assert sentence in text and "10 questions" in text
    assert text.count("%") == 2


@pytest.mark.parametrize("kwargs", [dict(n_good=0, n_spoilt=0), dict(n=1, n_good=1, n_spoilt=1)])
def test_small_runs_have_a_page_too(kwargs):
    text = visible(a_page(report(**kwargs)))
    assert ("none could be spoilt" in text) == (kwargs["n_good"] == 0)


@pytest.mark.parametrize("risks", [dict(risks_bad=[]), dict(risks_good=[]), dict(risks_bad=[], risks_good=[])])
def test_a_test_split_may_lack_a_kind_of_answer(risks):
    assert "<svg" in a_page(**risks)


def test_a_run_may_lack_controls(html):
    rep = report()
    for group in (rep, *rep["guests"].values(), *rep["facts"].values()):
        group["controls"] = {}
    assert "Without aligners" not in a_page(rep)
    assert "Without aligners" in html


def test_a_drawing_is_the_same_each_time_and_has_a_title():
    def draw(ax):
        ax.plot([1, 2.123456], label="x")
    drawn = svg(draw, "a < b")
    assert drawn == svg(draw, "a < b")
    assert drawn.startswith("<svg") and "<title>a &lt; b</title>" in drawn and "currentColor" in drawn
    assert "<metadata" not in drawn and "DejaVu" not in drawn


def test_the_report_is_written_as_utf8(tmp_path):
    rep, lines = report(), [line(RUDE, GOOD, question="Wann öffnet das Café?")]
    out = dict(no_regret=dict(out=[alignment()]))
    file = write_report(tmp_path/"report.html", rep, learned(), lines, out, dict(learn=1.))
    assert "Café" in file.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
