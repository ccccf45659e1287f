"Questions that are alike: pairs that must part, pairs that must meet, and the groups made of them"
import json
import random
import time
import warnings

import numpy as np
import pytest

from aligners_nb.criterion import DataError
from aligners_nb.likeness import (NEAR, _band_width, _sharing_probability, _Groups, _link, _planes, as_encoder, asked,
                                  check_fraction, deal, embed, group_similar, likeness, marks, question_text,
                                  signatures, stems)

INNS = ["When does the Copper Inn open?", "When does the Silver Inn open?"]
EGGS = ["How long do I boil an egg?", "How long should I be boiling the eggs?"]
LONG = "My neighbour lent me a long ladder last spring and has asked me for it twice since, and the roof is not done. "


class LetterCounts:
    "A small encoder: how often each letter occurs"
    calls = 0

    def encode(self, texts):
        self.calls += 1
        return [[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


def test_stems_carry_the_meaning():
    assert stems("When does the Copper Inn open, and when is it closing?") == [
        "when", "copper", "inn", "open", "when", "clos"]
    assert stems(EGGS[0]) == stems(EGGS[1])
    assert stems("") == stems("is it the") == []


def test_marks_are_names_and_numbers():
    assert marks(INNS[0]) == ("Copper", "Inn")
    assert marks("Do I add 2 eggs in Rome? When?") == ("2", "Rome")
    assert marks("Where is it? Rome is far.") == ()


@pytest.mark.parametrize("a, b", [
    ("Is it open?", "Is it closed?"), ("Who are you?", "Who are we?"), ("Is 5 > 3?", "Is 5 ≥ 3?"),
    ("Why do they sleep?", "Why don't they sleep?"), (LONG+"Is she right?", LONG+"Is he right?"),
    (LONG+"Does it cost $5?", LONG+"Does it cost €5?"), (LONG+"Do I turn it on?", LONG+"Do I turn it in?"),
])
def test_a_small_thing_turns_a_question(a, b):
    assert likeness(a, b) == likeness(b, a) <= .8
    assert group_similar([a, b]) == [0, 1]


def test_likeness_of_a_question_and_itself():
    assert likeness(INNS[0], INNS[0]) == 1.
    assert likeness("", "") == likeness("Is it?", "") == 0.
    assert likeness(*INNS) == likeness("Add 2 eggs?", "Add 3 eggs?") == 0.


def test_signatures_estimate_the_likeness():
    rng = random.Random(0)
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(60)]
    sig = signatures(texts)
    assert (sig.shape, sig.dtype) == ((60, 128), np.uint32)
    errors = [(sig[i] == sig[j]).mean() - likeness(texts[i], texts[j]) for i in range(60) for j in range(i)]
    assert abs(np.mean(errors)) < .01 and np.max(np.abs(errors)) < .2


def test_a_pair_at_the_threshold_meets_in_some_band():
    assert [_band_width(threshold) for threshold in (1., .9, .6, .3, .01)] == [16, 8, 4, 2, 1]
    for threshold in (.05, .3, .6, .9, 1.):
        assert _sharing_probability(threshold, _band_width(threshold)) >= .98


@pytest.mark.parametrize("threshold", [.01, .02, .1])
def test_any_threshold_will_do(threshold):
    assert group_similar([*INNS, *EGGS], threshold) == [0, 1, 2, 2]


def test_groups_are_known_by_their_first_item():
    groups = _Groups(6)
    for pair in ((4, 5), (5, 2), (1, 3), (1, 1)): groups.join(*pair)
    assert [groups.first(i) for i in range(6)] == [0, 1, 2, 1, 2, 2]


def test_an_item_is_compared_with_few_others():
    compared = []

    def unlike(i, heads):
        compared.append(len(heads))
        return None

    assert _link(100, [np.zeros(100, np.uint64)], unlike) == list(range(100))
    assert max(compared) == 20 and len(compared) == 99
    assert _link(0, [np.zeros(0, np.uint64)], unlike) == []


def test_the_same_vector_lies_on_the_same_side_of_each_plane():
    vectors = embed([EGGS[0], EGGS[0]], LetterCounts())
    keys = list(_planes(vectors, np.zeros(2, np.uint64)))
    assert len(keys) == 32 and all(first == second for first, second in keys)


def test_vectors_have_length_1():
    vectors = embed((text for text in [*EGGS, ""]), LetterCounts())
    assert (vectors.shape, vectors.dtype) == ((3, 26), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0])
    assert embed([], LetterCounts()).shape == (0, 1)
    encoder = LetterCounts()
    assert len(embed(["egg"]*2001, encoder)) == 2001 and encoder.calls == 3


def test_an_encoder_has_encode():
    encoder = LetterCounts()
    assert as_encoder(encoder) is encoder
    for bad in (7, None, embed):
        with pytest.raises(DataError, match=r"or have encode\(texts\); got"): as_encoder(bad)


@pytest.mark.parametrize("number", [.9, 1, np.float32(.5), np.float64(.25), np.int64(1), np.float16(1)])
def test_a_fraction_is_pythons_own_number(number):
    fraction = check_fraction("threshold", number)
    assert fraction == number and type(fraction) in (int, float)
    assert json.loads(json.dumps(fraction)) == fraction
    assert group_similar([*EGGS, "Who?"], number)[2] == 2


@pytest.mark.parametrize("bad", [97, 0, -1, 1.01, True, np.True_, None, "x", [.9], float("nan"), np.float32(90)])
def test_what_is_no_fraction(bad):
    with pytest.raises(DataError, match="threshold is a fraction above 0 and at most 1, such as .9; got"):
        check_fraction("threshold", bad)
    with pytest.raises(DataError, match="such as .9"): group_similar(EGGS, bad)


def test_groups_of_questions():
    questions = [*INNS, "when does the copper inn open", "When is the Copper Inn opening?", *EGGS, LONG, LONG.lower()]
    assert group_similar(questions) == [0, 1, 0, 0, 4, 4, 6, 6]
    assert group_similar([]) == [] and group_similar(["", "?", "Why?"]) == [0, 0, 2]
    assert group_similar(np.array(questions)) == group_similar(tuple(questions)) == group_similar(questions)


def test_names_keep_questions_apart_whatever_the_encoder_says():
    assert group_similar([*INNS, *EGGS], encoder=LetterCounts(), cosine=.01) == [0, 1, 2, 2]


def test_conversations_are_compared_by_what_was_asked():
    def conversation(system, *texts):
        roles = ["user", "assistant"]*3
        return [dict(role="system", content=system), *(dict(role=r, content=t) for r, t in zip(roles, texts))]

    kind = conversation("Be kind.", "When?", "At nine.", "And on Sunday?")
    assert asked(kind) == ("Be kind.", "When?\nAt nine.\nAnd on Sunday?")
    assert asked(kind[1:]) == ("", "When?\nAt nine.\nAnd on Sunday?") and asked("When?") == ("", "When?")
    assert question_text(kind) == "Be kind.\nWhen?\nAt nine.\nAnd on Sunday?"
    brief = conversation("Be brief.", "When?", "At nine.", "And on Sunday?")
    assert group_similar([kind, brief, kind, "When?"]) == [0, 1, 0, 3]
    assert [len(side) for side in deal([kind, brief], (1, 0, 0))] == [2, 0, 0]


QUESTIONS = [f"How do I {verb} a {noun}?" for verb in "boil fry peel cut sell paint".split()
             for noun in "egg carrot turnip lemon onion pear plum fig".split()]


@pytest.mark.parametrize("shares", [(.7, .15, .15), (.5, .5, 0), [.2, .3, .5], np.array([.4, .3, .3])])
def test_all_are_dealt_and_what_is_alike_stays_together(shares):
    sides = deal(QUESTIONS, shares, seed=3)
    assert sorted(i for side in sides for i in side) == list(range(len(QUESTIONS)))
    assert [len(side) for side in sides] == pytest.approx([share*len(QUESTIONS) for share in shares], abs=3)
    side_of = {i: k for k, side in enumerate(sides) for i in side}
    for i, first in enumerate(group_similar(QUESTIONS, NEAR)): assert side_of[i] == side_of[first]


def test_dealing_depends_on_the_seed_and_on_nothing_else():
    assert deal(QUESTIONS, seed=1) == deal(QUESTIONS, seed=1) != deal(QUESTIONS, seed=2)
    backwards = deal(QUESTIONS[::-1], seed=1)
    texts = [{QUESTIONS[i] for i in side} for side in deal(QUESTIONS, seed=1)]
    assert [{QUESTIONS[::-1][i] for i in side} for side in backwards] == texts


def test_an_uneven_deal_warns():
    with pytest.warns(UserWarning, match="8 rows were split into .*; wanted were 6, 1, 1.*largest group has 8 rows"):
        deal(EGGS*4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deal([])
        deal(EGGS)
        deal(QUESTIONS)


@pytest.mark.parametrize("shares", [(.5, .1, .1), (.5, .5), (1.2, -.1, -.1), None, 1, "abc", (None, 1, 0)])
def test_shares_add_up_to_1(shares):
    with pytest.raises(DataError, match="three numbers that add up to 1"): deal(QUESTIONS, shares)


def test_time_grows_with_the_number_of_questions():
    rng = random.Random(0)
    words = ["".join(rng.choices("bcdfgklmnprtv", k=6)) for _ in range(300)]
    texts = ["How "+" ".join(rng.choices(words, k=9))+"?" for _ in range(6000)]
    start = time.perf_counter()
    assert len(set(group_similar(texts))) > 5900
    assert time.perf_counter()-start < 60   # each with each would be eighteen million comparisons
