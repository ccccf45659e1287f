"The texts that the shipped weights were trained on stay as they are, and pairs are what they promise"
import os
import random
import subprocess
import sys
import zlib
import pytest
from aligners_nb import town
from aligners_nb.criterion import NOTHING
from aligners_nb.prompts import assistant, user
from aligners_nb.town import FACTS, held_out
from aligners_nb.town_corpus import CRITERION_NAMES, FRACTIONS, ask, chat, corpus, draw_example, pair, stranger, vary

STAMMERS = ("It repeats", "It speaks of", "It makes no sense")


def text_of(document):
    return "".join(piece.text for piece in document)


def test_the_corpus_is_the_one_that_the_shipped_weights_have_read():
    documents = corpus(42)
    pieces = [(piece.text, piece.learned) for _ in range(500) for piece in next(documents)]
    assert zlib.crc32(repr(pieces).encode()) == 1568565798


def corpus_hash(hash_seed):
    code = ("import zlib\n"
            "from aligners_nb.town_corpus import corpus\n"
            "documents = corpus(1)\n"
            "print(zlib.crc32(repr([next(documents) for _ in range(1000)]).encode()))")
    env = os.environ | dict(PYTHONHASHSEED=hash_seed)
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_the_corpus_does_not_depend_on_the_hash_seed():
    assert corpus_hash("1") == corpus_hash("2")


def test_the_fractions_are_fractions():
    assert sum(FRACTIONS.values()) == pytest.approx(1)


@pytest.mark.parametrize("draw_document", FRACTIONS, ids=lambda draw_document: draw_document.__name__)
def test_each_document_begins_once_and_has_something_to_learn(draw_document):
    rng = random.Random(0)
    for _ in range(50):
        document = draw_document(rng)
        assert text_of(document).startswith("<|bos|>") and text_of(document).count("<|bos|>") == 1
        assert any(piece.learned and piece.text.strip() for piece in document)


def test_a_chat_learns_the_turns_that_are_named():
    turns = [user("A?"), assistant("B."), user("C?"), assistant("D.")]
    assert [piece.text for piece in chat(turns) if piece.learned] == ["D.", "<|end|>"]
    assert [piece.text for piece in chat(turns, learn=[1, -1]) if piece.learned] == ["B.", "<|end|>", "D.", "<|end|>"]


def test_strangers_bear_no_name_of_the_town_or_a_district():
    rng = random.Random(0)
    for place in (True, False) * 500:
        subject, facts = stranger(rng, place)
        assert subject not in FACTS and town.is_place(subject) == place
        words = " ".join([subject, *facts.values()]).split()
        assert not town.DISTRICT_WORDS & set(words)


@pytest.mark.parametrize("criterion_name", CRITERION_NAMES)
def test_a_correction_about_the_town_meets_its_criterion(criterion_name):
    rng = random.Random(0)
    for _ in range(1000):
        q = ask(rng, p_town=1).q
        response, critique, correction = pair(rng, criterion_name, q, FACTS[q.subject])
        assert town.oracle(q.text, correction)[criterion_name].met, (q.text, correction)
        if not critique.startswith(STAMMERS):
            assert town.oracle(q.text, response)[criterion_name].met == (critique == NOTHING), (q.text, response)


@pytest.mark.parametrize("criterion_name", CRITERION_NAMES)
def test_a_correction_about_a_stranger_invents_nothing(criterion_name):
    "Each claim of the correction stands in the response, unless that was nothing but an insult"
    rng = random.Random(0)
    for _ in range(1000):
        q, facts, _ = ask(rng, p_town=0)
        response, _, correction = pair(rng, criterion_name, q, facts, known=False)
        claimed = town.claims_of(town.read_answer(response, q))
        assert all(claim in claimed for claim in town.claims_of(town.read_answer(correction, q)))


def test_a_varied_criterion_asks_no_held_out_question():
    rng = random.Random(0)
    for criterion_name in CRITERION_NAMES * 20:
        varied = vary(rng, criterion_name, n_demonstrations=2)
        assert varied.name == criterion_name and 2 <= len(varied.principles) <= 3
        assert not any(held_out(demonstration.question) for demonstration in varied.demonstrations)


def test_an_example_may_name_a_flaw_that_nobody_can_correct():
    rng = random.Random(0)
    examples = [draw_example(rng, "helpful") for _ in range(300)]
    uncorrected = [example for example in examples if example.aligned and example.critique != NOTHING]
    assert uncorrected and all(example.as_demonstration().critique == NOTHING for example in uncorrected)
