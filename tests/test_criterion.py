"Criteria: each mistake gets an error that says how to write it, and what is saved comes back"
import json

import pytest

from aligners_nb.criterion import NOTHING, SEEDS, Criterion, DataError, Demonstration, LLMError, criteria, criterion_of

PRINCIPLES = ["Never insult."]
PARTS = dict(question="Can I freeze bread?", response="Yes.", critique="It is curt.", correction="Yes, you can.")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("text, why", [
    ("", "must be a text that is not empty"),
    (" \n", "must be a text that is not empty"),
    (None, "must be a text that is not empty; got None"),
    (5, "must be a text that is not empty; got 5"),
    ("Yes. "*1000, "has 5,000 characters"),
    ("\ud83c", "half a character"),
    ("Yes.\nCritique: none", "begins with 'Critique:'"),
    ("Question: why?", "begins with 'Question:'"),
])
def test_a_part_of_a_demonstration_is_a_text_without_labels(part, text, why):
    with pytest.raises(DataError, match=f"demonstration's {part}.*{why}"):
        Demonstration(**{**PARTS, part: text})


def test_a_label_inside_a_line_is_allowed():
    assert Demonstration(**{**PARTS, "critique": "The word Response: is missing."})


@pytest.mark.parametrize("parts, why", [
    (dict(critique=NOTHING), "are different, so the critique must not be 'Nothing is wrong.'"),
    (dict(correction="Yes."), "are the same, so the critique must be 'Nothing is wrong.'; got 'It is curt.'"),
])
def test_critique_and_correction_agree(parts, why):
    with pytest.raises(DataError, match=why):
        Demonstration(**{**PARTS, **parts})


@pytest.mark.parametrize("name", ["Be polite!", "Polite", "", "p"*41, "1st", 5, None, "polite\n"])
def test_a_name_is_a_short_word(name):
    with pytest.raises(DataError, match="short lower-case word such as 'ethical'"):
        Criterion(name, PRINCIPLES)


@pytest.mark.parametrize("fields, why", [
    (dict(principles="Never insult."), r"principles must be a list; .* One principle alone goes in brackets"),
    (dict(principles=[]), "at least one sentence"),
    (dict(principles=["Never insult.\nNever mock."]), "a principle must stand on one line"),
    (dict(principles=[" "]), "a principle must be a text"),
    (dict(principles=["Be kind."]*21), "21 principles were given, at most 20"),
    (dict(principles=["x"*1001]), "1,001 characters"),
    (dict(demonstrations=[("q", "y", "c", "z")]), r"must be Demonstration\(question"),
    (dict(demonstrations=[Demonstration(**PARTS)]*21), "21 demonstrations were given"),
    (dict(demonstrations=Demonstration(**PARTS)), "demonstrations must be a list"),
    (dict(question_types=["health", "Health"]), "none twice"),
    (dict(question_types=[]), "at least one type"),
    (dict(question_types=["health|food"]), "question type must not hold '|'"),
    (dict(seeds=["egg"]), r"such as \('everyday advice'"),
    (dict(seeds=[("cooking", "Eggs")]), r"such as \('everyday advice'"),
    (dict(seeds=[("cooking", "Eggs | bacon", "How long?")]), r"a seed's topic must not hold '\|'"),
    (dict(seeds=[("cooking", "Eggs", "How\nlong?")]), "a seed's question must stand on one line"),
    (dict(role=""), "the role must be a text"),
    (dict(exclude=["Can I freeze bread?"]), "function of a question"),
])
def test_a_wrong_part_is_named(fields, why):
    with pytest.raises(DataError, match=why):
        Criterion("polite", **{"principles": PRINCIPLES, **fields})


def test_a_principle_may_hold_a_bar():
    assert Criterion("polite", ["Answer yes | no."]).principles == ("Answer yes | no.",)


def test_lists_become_tuples():
    polite = Criterion("polite", PRINCIPLES, [Demonstration(**PARTS)], ["cooking"], [["cooking", "Eggs", "How long?"]])
    assert polite.principles == ("Never insult.",)
    assert polite.seeds == (("cooking", "Eggs", "How long?"),)
    assert polite == Criterion.from_dict(polite.to_dict())
    assert {polite: 1}[polite] == 1 # frozen, so it can be a key


@pytest.mark.parametrize("data, why", [
    (dict(name="polite"), "a criterion lacks principles; it has name"),
    ({}, "lacks name, principles; it has nothing"),
    ([], "a criterion must be a dict with name, principles"),
    (dict(name="polite", principles=PRINCIPLES, rules=[]), "unknown field 'rules'"),
    (dict(name="polite", principles=PRINCIPLES, exclude=len), "unknown field 'exclude'"),
    (dict(name="polite", principles=PRINCIPLES, demonstrations=[dict(question="q")]), "demonstration lacks response"),
    (dict(name="polite", principles=PRINCIPLES, demonstrations=[{**PARTS, "topic": "t"}]), "unknown field 'topic'"),
    (dict(name="polite", principles=PRINCIPLES, demonstrations=[5]), "a demonstration must be a dict"),
    (dict(name="polite", principles=PRINCIPLES, demonstrations=5), "demonstrations must be a list"),
])
def test_plain_data_is_checked(data, why):
    with pytest.raises(DataError, match=why):
        Criterion.from_dict(data)


def test_the_fingerprint_is_of_the_words():
    polite = Criterion("polite", PRINCIPLES)
    assert polite.fingerprint == Criterion("polite", tuple(PRINCIPLES), exclude="secret".__contains__).fingerprint
    assert polite.fingerprint != Criterion("polite", ["Never mock."]).fingerprint
    assert polite.fingerprint != Criterion("polite", PRINCIPLES, seeds=SEEDS[:5]).fingerprint


@pytest.mark.parametrize("name", vars(criteria))
def test_the_built_in_criteria(name):
    criterion = getattr(criteria, name)
    assert criterion.name == name
    assert any(demo.aligned for demo in criterion.demonstrations)
    assert len(criterion.question_types) == len(criterion.seeds) == 20
    assert [seed[0] for seed in criterion.seeds] == list(criterion.question_types)
    assert Criterion.from_dict(json.loads(json.dumps(criterion.to_dict()))) == criterion


def test_it_shows_itself():
    polite = Criterion("polite", ["<b>bold</b>"], [Demonstration(**{**PARTS, "correction": "Yes & no."})])
    assert repr(polite) == "Criterion('polite', 1 principles, 1 demonstrations)"
    shown = polite._repr_html_()
    assert "&lt;b&gt;bold" in shown and "<b>bold" not in shown
    assert "Yes &amp; no." in shown
    assert "<table>" not in Criterion("polite", PRINCIPLES)._repr_html_()


def test_rows_tell_their_criterion():
    class Rows(list):
        info = type("Info", (), dict(description=json.dumps(dict(criterion=Criterion("own", PRINCIPLES).to_dict()))))
    assert criterion_of(Rows()).name == "own"
    assert criterion_of([dict(criterion="factual")]) == criteria.factual
    assert criterion_of([dict(criterion="factual", question_type="health")]) == criteria.factual


@pytest.mark.parametrize("rows", [
    [],
    [dict(criterion="witty")],
    [dict(criterion=5)],
    [dict(criterion="factual"), dict(criterion="ethical")],
    [dict(criterion="factual", question_type="the town's hours")], # another criterion of that name
])
def test_rows_that_do_not_tell(rows):
    with pytest.raises(DataError, match="pass criterion="): criterion_of(rows)


def test_the_two_errors():
    assert issubclass(DataError, ValueError) and issubclass(LLMError, RuntimeError)
