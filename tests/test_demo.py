"A small demo, whole: its files say the same thing as the oracle does"
import json
import platform
import time
import pytest
from aligners_nb import town
from aligners_nb.base import Base
from aligners_nb.criterion import DataError
from aligners_nb.demo import CRITERIA, NAMES, Answer, Demo, Stages, correct_as_teacher, correct_untrained
from aligners_nb.demo import load_pair, table
from aligners_nb.folders import to_json
from aligners_nb.squad import POLICIES, Squad

N = 5
ROWS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "The folder of a run and its report"
    folder = tmp_path_factory.mktemp("demo")
    return folder, Demo(folder, rows=ROWS, n=N, progress=False).run()


@pytest.fixture(scope="module")
def lines(run):
    "The lines of answers.jsonl"
    folder, _ = run
    return [json.loads(line) for line in (folder/"answers.jsonl").read_text().splitlines()]


def texts_of(line):
    "Name → scored text, of everything that became of an answer"
    return dict(before=line["before"], greedy=line["greedy"], **line["after"])


def meets_all(scored):
    return all(scored[name] for name in NAMES)


def test_each_question_is_held_out_and_asked_once(lines):
    assert len({(line["llm"], line["question"]) for line in lines}) == 3*N == len(lines)
    assert all(town.held_out(line["question"]) for line in lines)


def test_every_text_is_scored_as_the_oracle_does(lines):
    for line in lines:
        for scored in texts_of(line).values():
            verdicts = town.oracle(line["question"], scored["text"])
            assert {name: verdict.met for name, verdict in verdicts.items()} == {name: scored[name] for name in NAMES}


def test_rates_follow_from_the_answers(run, lines):
    _, report = run
    rates = dict(before=report["before"], greedy=report["greedy"])
    for name, outcome in (report["policies"] | report["controls"]).items(): rates[name] = outcome["after"]
    for name, rate in rates.items():
        n_good = sum(meets_all(texts_of(line)[name]) for line in lines)
        assert rate["all"] == round(n_good/len(lines), 4)


def test_harm_is_counted_among_good_answers(run, lines):
    _, report = run
    outcome = report["policies"]["no_regret"]
    good = [line for line in lines if meets_all(line["before"])]
    spoilt = [line for line in good if not meets_all(line["after"]["no_regret"])]
    assert outcome["n_good"] == len(good)
    assert outcome["harm"] == round(len(spoilt)/len(good), 4)


def test_the_files_of_a_run(run, lines):
    folder, report = run
    page = (folder/"report.html").read_text()
    assert (folder/"report.json").read_text() == to_json(report)
    assert "<svg" in page and 'src="http' not in page
    assert lines[0]["llm"] in table(report)
    squad = Squad.from_pretrained(folder/"squad")
    assert list(squad.aligners) == NAMES and not squad.uncalibrated_criteria


def test_the_report_says_how_it_was_made_and_names_no_host(run):
    _, report = run
    assert set(report["about"]) == {"command", "seed", "version", "python", "machine"}
    assert report["about"]["command"] == f"aligners demo --rows {ROWS} --n {N} --seed 42"
    assert "cores" in report["about"]["machine"]
    assert platform.node() not in report["about"]["machine"]


def test_stages_have_the_shape_that_earlier_versions_wrote(run):
    "A run of the same format may have been begun by another version"
    folder, _ = run
    results = {}
    for file in (folder/"stages").iterdir(): results[file.stem] = json.loads(file.read_text())["result"]
    assert list(results["ask grump"][0]) == ["llm", "question", "known", "before", "greedy"]
    assert list(results["learn ethical"]) == ["funnel", "rows", "aligner", "inspector", "threshold", "miss_target",
                                              "risks_bad", "risks_good"]
    assert list(results["align"]) == ["policies", "controls"]
    assert list(results["align"]["policies"]) == list(POLICIES)
    assert list(results["align"]["policies"]["paper"]) == ["out", "aligner_calls", "tokens", "seconds"]
    assert list(results["align"]["controls"]["best_of_n"]) == ["answers", "tokens", "n"]
    assert isinstance(results["teacher"][0], str) and isinstance(results["untrained"][0], str)


def test_a_second_run_makes_nothing_again(run, capsys):
    folder, report = run
    start = time.monotonic()
    assert Demo(folder, rows=ROWS, n=N).run() == report
    assert time.monotonic()-start < 30
    assert "9 of 9 stages finished" in capsys.readouterr().out


def test_a_resumed_run_says_what_is_left_and_ends_alike(run, capsys):
    folder, report = run
    before = (folder/"answers.jsonl").read_bytes()
    (folder/"stages"/"teacher.json").unlink()
    resumed = Demo(folder, rows=ROWS, n=N).run()
    output = capsys.readouterr().out
    assert "8 of 9 stages finished, about" in output
    assert "teacher: stage 9 of 9" in output and "align" not in output
    assert resumed["teacher"] == report["teacher"]
    assert (folder/"answers.jsonl").read_bytes() == before


def test_a_run_with_other_settings_is_refused(run):
    folder, _ = run
    with pytest.raises(DataError, match="use another --out, or delete the folder"): Demo(folder, rows=ROWS+1, n=N)


def test_a_file_is_no_folder_of_a_run(tmp_path):
    file = tmp_path/"file"
    file.touch()
    with pytest.raises(DataError, match="is a file"): Demo(file)


def test_the_error_about_a_lost_pair_says_what_to_delete(tmp_path):
    with pytest.raises(DataError, match="ethical is gone: delete stages/learn ethical.json"):
        load_pair(tmp_path, CRITERIA[0])


def test_references_leave_the_base_as_it_was():
    question = "When does the Little Inn open?"
    answers = [Answer("grump", question, "known", text, text) for text in ("Find out yourself.", " ")]
    base = Base.load("town")
    adapters = set(base.adapters)
    for correct in (correct_untrained, correct_as_teacher): assert len(correct(answers)) == len(answers)
    assert set(base.adapters) == adapters


def test_a_stage_is_run_once(tmp_path):
    calls = []

    def make(value):
        calls.append(value)
        return value

    stages = Stages(tmp_path, {}, progress=False)
    assert stages.run("seven", make, 7) == 7
    assert stages.run("seven", make, 8) == 7
    assert calls == [7]


def test_a_stage_that_fails_leaves_no_file(tmp_path):
    stages = Stages(tmp_path, dict(bad=1), progress=False)
    with pytest.raises(ZeroDivisionError): stages.run("bad", lambda: 1/0)
    assert list(tmp_path.iterdir()) == [] and stages.finished == []


@pytest.mark.parametrize("content", ["{", "[]", '{"result": 1}', "7"])
def test_a_broken_stage_is_named(tmp_path, content):
    (tmp_path/"count.json").write_text(content)
    with pytest.raises(DataError, match="count.json is broken: delete it"): Stages(tmp_path, dict(count=1))


def test_time_left_follows_the_speed_of_finished_stages(tmp_path):
    expected = dict(first=10, second=20, third=30)
    assert Stages(tmp_path, expected).seconds_left == 60
    (tmp_path/"first.json").write_text('{"result": 1, "seconds": 20}')     # twice as slow as expected
    stages = Stages(tmp_path, expected)
    assert stages.finished == ["first"]
    assert stages.seconds_left == 100
