"Replies are read in the many forms that models give them, and near misses lose nothing"
import json
import time

import pytest

from aligners_nb.criterion import NOTHING, Criterion, LLMError, criteria
from aligners_nb.prompts import draft_json_messages, format_demonstration
from aligners_nb.replies import (
    parse_correction, parse_critique, parse_draft, parse_draft_json, parse_questions, parse_topics, read_parts,
    says_unchanged)

TEN = dict(response="Ten, fool.", critique="It insults.", correction="Ten.")


@pytest.mark.parametrize("reply", [
    "Here is the corrected answer:\n\nEight minutes.\n\nI removed the insult.",
    "Sure! Here's a more polite version:\nEight minutes.",
    "Of course, here is my improved response to it:\n\nEight minutes.",
    "Below is your revised answer, as you asked: Eight minutes.",
    "**Corrected response:** Eight minutes.\n\n---\n\nExplanation: the tone was rude.",
    "Correction: Eight minutes.",
    "*Revision:* Eight minutes.",
    "Sorry, the corrected version: Eight minutes.",
    '"Eight minutes."\n\nLet me know if you want more changes!',
    "“Eight minutes.”",
    "« Eight minutes. »",
    "Eight minutes.\n\nThis version keeps the fact and is respectful.",
    "Eight minutes.\n\nThe revised correction is more neutral.",
    "Eight minutes.\n\nI've only changed the wording.\n\nI hope this helps.\n\n---",
    "Eight minutes.\n\n**Note:** I cut it.\n\nPlease let me know!",
    "Eight minutes.\n\nChanges made:\n- no insult",
    "<think>An egg.</think>Here is the corrected answer:\nEight minutes.<|im_end|>",
])
def test_a_correction_stands_alone(reply):
    assert parse_correction(reply) == "Eight minutes."


@pytest.mark.parametrize("answer", [
    "You need:\n- flour\n- eggs",
    "Here are two ways:\n\n1. Boil it.\n\n2. Fry it.",
    "The answer: eight minutes.",
    "Correct times:\n\nsoft, 5 minutes",
    "Boil it.\n\nI removed the shell under cold water.",
    "I made a cake.\n\nI added salt.",
    "The song is old.\n\nThis version of it was sung in 1999.",
    '"Yes" and "no" are "words"',
    '""',
    "To correct a test:\nread it.",
    "It opens at 9.\n\nThe bank is closed.",
    "Here is the way to the inn:\n\nturn left.",
    "def f(x):\n    y = x\n\n    return y",
    "Great! Turn left.",
])
def test_an_answer_loses_nothing(answer):
    assert parse_correction(answer) == answer


@pytest.mark.parametrize("afterword", ["\n\nNote: not on Sundays.", "\n\nLet me know if it helps!", "\n\n---"])
def test_what_the_response_has_as_well_stays(afterword):
    assert parse_correction("It opens at 9."+afterword, response="At 9, fool."+afterword) == "It opens at 9."+afterword
    assert parse_correction("It opens at 9."+afterword, response="At 9, fool.") == "It opens at 9."
    same = "Here is the answer:\nten."+afterword
    assert parse_correction(same, response=same) == same


@pytest.mark.parametrize("reply", ["", "Here is the corrected answer:\n", "Correction:", "<think>An egg"])
def test_a_correction_is_not_empty(reply):
    with pytest.raises(LLMError, match="empty|thinking"): parse_correction(reply)


@pytest.mark.parametrize("critique", [
    "Nothing is wrong", "Nothing is wrong with it!", "**Nothing is wrong.**", "“Nothing is wrong.”", "Nothing wrong.",
    "There is nothing wrong with your answer.", "Nothing is wrong. The answer is polite.", "There's nothing to fix.",
    "No issues.", "No changes needed.", "No changes are needed here.", "I see no errors in your first answer.",
    "Nothing needs to be changed.", "I found no mistakes, as the answer is right.", "No problems; the tone is kind.",
    "Critique: Nothing is wrong.", "**Critique:** no issues found", "[Nothing seems to be wrong at all]",
    "None.", "n/a", "Nothing",
])
def test_nothing_is_wrong(critique):
    assert parse_critique(critique) == NOTHING


@pytest.mark.parametrize("critique", [
    "Nothing is wrong, but the tone is rude.",
    "Nothing is wrong. However, it could be kinder.",
    "Nothing was wrong with the first part, the second insults the reader",
    "Nothing in it is true.",
    "No error is as bad as this one.",
    "None of it is polite.",
    "No source is given.",
    "Nothing is wrong except the tone.",
    "No issues with the first sentence.",
    "It insults.",
])
def test_something_is_wrong(critique):
    assert parse_critique(critique) == critique


UNCHANGED = [
    "No correction needed; the answer is already polite.", "No changes needed.", "Same as above", "[Same as response]",
    "The same as the original response.", "Unchanged.", "The answer remains unchanged.", "As it was.", "See above.",
    "There is nothing to correct.", "Nothing is wrong. The answer is correct.", "The original response is fine.",
    "The answer is already polite.", "N/A. The first answer was good as it is.",
]


@pytest.mark.parametrize("correction", UNCHANGED)
def test_nothing_to_correct(correction):
    polite = "Eight minutes, please."
    assert says_unchanged(correction)
    assert read_parts(polite, "No issues.", correction) == dict(response=polite, critique=NOTHING, correction=polite)
    assert read_parts(polite, "It is curt.", correction)["correction"] == correction # the filters' affair


@pytest.mark.parametrize("correction", ["None", "none.", "N/A", "Eight minutes, please."])
def test_no_correction(correction):
    assert read_parts("Eight minutes, please.", "None.", correction)["correction"] == "Eight minutes, please."
    assert not says_unchanged("None")


@pytest.mark.parametrize("correction", [
    "Nothing is going to fix it.", "No problem, the answer is 42.", "The answer is correct: 42.", "The answer is 42.",
    "No change is given at the till.", "No changes are needed to fly to Rome.", "The same bus goes back.",
    "Eight minutes.",
])
def test_an_answer_is_no_such_remark(correction):
    assert not says_unchanged(correction)
    assert read_parts("Hm.", NOTHING, correction)["correction"] == correction


@pytest.mark.parametrize("reply", [
    "Ten, fool.\nCritique: It insults.\nCorrection: Ten.",
    "Ten, fool.\nCritique:It insults.\nCorrection:Ten.",
    "Response: Ten, fool.\n**Critique:** It insults.\n\n**Correction**: Ten.",
    "### Response\nTen, fool.\n\n### Critique\nIt insults.\n\n### Correction\nTen.",
    "1. Response: Ten, fool.\n2. Critique: It insults.\n3. Correction: Ten.",
    "Sure! Here it is:\nresponse : Ten, fool.\nCRITICISM: It insults.\ncorrected response: Ten.\n\nLet me know!",
    "Three lines:\nFirst response: Ten, fool.\n• Critique: It insults.\n• Corrected version: Ten.",
    "```\n*Response:* Ten, fool.\n*Critique:* It insults.\n*Corrected:* \"Ten.\"\n```",
    "<think>An egg.</think>Ten, fool.\nCritique:It insults.\nCorrection:Ten.",
    "Question: How?\n- Response: Ten, fool.\n- Critique: It insults.\n- Correction: Ten.\n\n---\n\nNote: cut.</s>",
])
def test_a_draft_in_many_manners(reply):
    assert parse_draft(reply) == TEN


def test_what_is_no_greeting_is_the_response():
    "A completion goes on behind `Response:`, so that a second such label belongs to the text"
    draft = parse_draft("Ten.\nResponse: too short\nCritique: It is curt.\nCorrection: Ten minutes.")
    assert draft["response"] == "Ten.\nResponse: too short"


@pytest.mark.parametrize("critique, correction", [
    ("There is nothing wrong with it", "No change needed."), ("None", "N/A"), ("Nothing is wrong.", "Ten."),
])
def test_a_good_response_is_its_own_correction(critique, correction):
    draft = parse_draft(f" Ten.\nCritique: {critique}\nCorrection: {correction}")
    assert draft == dict(response="Ten.", critique=NOTHING, correction="Ten.")


@pytest.mark.parametrize("reply, why", [
    ("Ten minutes.\nCritique: It is", "no line starts with 'Correction'"),
    ("Ten. Critique: rude\nCorrection: Ten.", "no line starts with 'Critique'"),
    ("Ten minutes.", "no line starts with 'Critique'"),
    ("Ten.\nCorrection: Ten.\nCritique: Rude.", "the Correction stands before the Critique"),
    ("Ten minutes.\nCritique: \nCorrection: Ten minutes.", "the critique is empty"),
    ("\nCritique: Rude.\nCorrection: Ten.", "the response is empty"),
    ("Ten.\nCritique: Rude.\nCorrection:", "the correction is empty"),
    ("Ten.\nCritique: Rude.\nCorrection: Ten.\nQuestion: Why?", "a label stands inside the correction"),
    ("", "the reply is empty"),
    ("<think>An egg", "while the model is thinking"),
])
def test_a_draft_that_can_not_be_read_says_why(reply, why):
    with pytest.raises(LLMError, match=why): parse_draft(reply)


DEMONSTRATIONS = [demo for criterion in vars(criteria).values() for demo in criterion.demonstrations]


@pytest.mark.parametrize("demo", DEMONSTRATIONS, ids=lambda demo: demo.question)
def test_there_and_back(demo):
    "What the prompts show is what the parsers read"
    expected = dict(response=demo.response, critique=demo.critique, correction=demo.correction)
    assert parse_draft(format_demonstration(demo).split("Response:", 1)[1]) == expected
    shown = draft_json_messages(Criterion("x", ["Be kind."], [demo]), "How?")[2]["content"]
    assert parse_draft_json(shown) == expected


@pytest.mark.parametrize("reply", [
    json.dumps(TEN),
    "```json\n" + json.dumps(TEN, indent=1) + "\n```",
    'Sure!\n```JSON\n{"Response": "Ten, fool.", "Critique ": "It insults.", "CORRECTION": "Ten."}\n```\nThat is all.',
    json.dumps(TEN) + " Let me know {if} it helps.",
    json.dumps({**TEN, "correction": "Here is the corrected answer:\n\nTen.", "notes": 5}),
])
def test_json_in_many_manners(reply):
    assert parse_draft_json(reply) == TEN


def test_json_with_line_ends_and_without_critique():
    "Line ends as they are, which strict JSON forbids; no critique of a response that stays as it is"
    same = parse_draft_json('{"response": "a\n\nb", "critique": null, "correction": "a\n\nb"}')
    assert same == dict(response="a\n\nb", critique=NOTHING, correction="a\n\nb")
    with pytest.raises(LLMError, match="the critique is missing"):
        parse_draft_json('{"response": "a", "critique": null, "correction": "b"}')


@pytest.mark.parametrize("reply, why", [
    ('{"response": "Ten', "not JSON"),
    ("Ten minutes.", "not JSON"),
    ("7", "JSON of a int"),
    ('["Ten"]', "JSON of a list"),
    ("["*100_000, "JSON"),
    ('{"response":'*100_000, "JSON"),
    ('{"response": '+"9"*5000+"}", "JSON"),
    ('{"response": "a", "critique": "b"}', "the correction is missing or empty"),
    ('{"response": "a", "critique": "b", "correction": 5}', "the correction is missing or empty"),
    ('{"response": " ", "critique": "b", "correction": "c"}', "the response is missing or empty"),
    ('{"response": "a\\nCritique: b", "critique": "b", "correction": "c"}', "a label stands inside the response"),
])
def test_json_that_can_not_be_read_says_why(reply, why):
    with pytest.raises(LLMError, match=why): parse_draft_json(reply)


@pytest.mark.parametrize("dash", ["", "-"]) # with the dash of the prompt and without
@pytest.mark.parametrize("reply", [
    " Pea soup\n- Knife care",
    "pea soup\n- knife care",
    " Pea soup.\n- Knife care.",
    ' "Pea soup"\n- "Knife care"',
    " pea soup; knife care",
    '["Pea soup", "Knife care"]',
    '```json\n["Pea soup",\n "knife care"]\n```',
    "1. Pea soup\n2. Knife care",
    "| Pea soup |\n| Knife care |",
    "pea soup\nknife care",
    "Pea soup\n\n- Knife care",
    "Certainly\n\n- Pea soup\n- Knife care",
    "Here are ten new topics:\n\n1. **Pea soup**\n2. `Knife care`\n\nType: history\n- Rome",
    "<think>Soup?</think>- Pea soup\n- Knife care",
    " Pea soup\n- Knife care\n- and so on\n- the end of\n- It is.",
    " Pea soup\n- Knife care\n- Why is water wet?\n- A very long noun phrase\n- 9 lives",
    " Pea soup\n- Knife care\n\nThe cook came in\nShe ate\nand was glad",
    " Pea soup\n- Knife care\nQuestions:\n- Rome",
])
def test_topics_in_many_manners(reply, dash):
    assert parse_topics(dash+reply) == ["Pea soup", "Knife care"]


def test_a_topic_is_listed_once():
    "In its first spelling, where it stands last"
    assert parse_topics(" Pea soup\n- Knife care\n- pea Soup\n- Rye bread") == ["Knife care", "Pea soup", "Rye bread"]


@pytest.mark.parametrize("reply", ["", "-", "I can't help with that, sorry.", "<think>Soup?", "Sure!"])
def test_no_topics(reply):
    assert parse_topics(reply) == []


HINTS = [("cooking", "Pea soup"), ("cooking", "Knife care")]


@pytest.mark.parametrize("reply", [
    "cooking | Pea soup | How thick?\ncooking | Knife care | Why?",
    "cooking|pea soup|How thick?\nCOOKING|Knife Care|Why?",
    "Sure! Here you are.\n\n| cooking | Pea soup | How thick? |\n2. **cooking** | Knife care | Why?",
    "`cooking | pea soup | How thick?`\ncooking | Knife care: Why?",
    '1 | cooking | Pea soup | "How thick?" | easy\n2 | cooking | Knife care | Why? | hard',
    "cooking | Jam | How?\ncooking | Pea soup | How thick?\ncooking | Knife care | Why?\ncooking | Pea soup | …",
    "<think>Soup?</think>```\ncooking | Pea soup | How thick?\ncooking | Knife care | Why?\n```",
])
def test_questions_in_many_manners(reply):
    assert parse_questions(reply, HINTS) == [
        dict(question_type="cooking", topic="Pea soup", question="How thick?"),
        dict(question_type="cooking", topic="Knife care", question="Why?")]


@pytest.mark.parametrize("reply", [
    "cooking | Pea soup | question", "cooking | Pea soup | The question?", "cooking | Pea soup | <question>",
    "cooking | Knife care | …", "cooking | Pea soup |",
    "cooking | Jam | How?", "health | Pea soup | How?", "How thick should pea soup be?", "",
])
def test_no_questions(reply):
    assert parse_questions(reply, HINTS) == []


def test_a_hint_is_given_back_as_it_was():
    rows = parse_questions("cooking | pea soup | How?", [(" Cooking", "PEA SOUP ")])
    assert rows == [dict(question_type=" Cooking", topic="PEA SOUP ", question="How?")]


@pytest.mark.parametrize("parse", [parse_correction, parse_critique, says_unchanged, parse_topics])
def test_a_long_reply_takes_no_time(parse):
    start = time.perf_counter()
    for piece in ("Ten minutes. ", "I removed ", "no changes ", "-", "\n\n", "the answer is ", "**"):
        try: parse(piece*5000)
        except LLMError: pass
    assert time.perf_counter() - start < 10
