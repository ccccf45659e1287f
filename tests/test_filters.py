"Filters beyond the texts of their chapter: every answer is a text or None, every row can be read, none takes long"
import time

import pytest

from aligners_nb.criterion import NOTHING, DataError, criteria
from aligners_nb.filters import (FILTERS, changed_though_right, code_or_formula, leaked_prompt, markup, none_answer,
                                 not_english, nothing_in_correction, off_topic, refusal, repetition, too_long,
                                 too_short, truncated, unchanged_though_wrong)

ROW = dict(id="1", criterion="polite", topic="Eggs", question_type="cooking", question="How long do I boil an egg?",
           response="Eight minutes, you fool.", critique="It insults the reader.", correction="Eight minutes.")


def row(**changed): return {**ROW, **changed}


def test_a_good_row_stays():
    assert [f.__name__ for f in FILTERS if f(ROW) is not None] == []
    assert len(set(FILTERS)) == len(FILTERS) == 13


@pytest.mark.parametrize("name", list(vars(criteria)))
def test_demonstrations_stay(name):
    for demonstration in vars(criteria)[name].demonstrations:
        assert [f.__name__ for f in FILTERS if f(row(**vars(demonstration)))] == []


TEXTS = ["", " ", "\n", "None.", "Nothing.", NOTHING, "Response:", "<b>", "```", "яйцо "*9, "Boil it for", "a", "1.",
         "I can't help with that.", "well "*9, "Boil it well now. "*2, "word "*500, "You fool.", "🙂", "“"]


@pytest.mark.parametrize("f", FILTERS, ids=lambda f: f.__name__)
def test_a_finding_is_a_text_or_none(f):
    for text in TEXTS:
        for changed in (dict(correction=text), dict(response=text), dict(question=text), dict(critique=text),
                        dict(response=text, correction=text)):
            assert isinstance(f(row(**changed)), (str, type(None)))


@pytest.mark.parametrize("f", FILTERS, ids=lambda f: f.__name__)
def test_a_conversation_is_read_like_its_text(f):
    for text in TEXTS:
        chat = [dict(role="system", content="Be kind."), dict(role="user", content=text)]
        assert f(row(question=chat)) == f(row(question=f"Be kind.\n{text}"))


@pytest.mark.parametrize("f", FILTERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("piece", [
    "a", "A ", "Ann, ", "Ann and ", "well ", "\n", " ", "* ", "- x\n", "<a ", "<a b=", "“", "?", "1.", "I can't ",
    "Here's the corrected answer ", "yours,\n", "write me a ", "die "])
def test_a_long_text_takes_no_time(f, piece):
    text = piece*(2000//len(piece))
    start = time.perf_counter()
    f(row(question=text, response=text, correction=text+"x"))
    assert time.perf_counter()-start < 2


@pytest.mark.parametrize("f, changed, finding", [
    (leaked_prompt, dict(response="Boil it.\nUser: why?"), "User:"),
    (leaked_prompt, dict(question="[INST] How long?"), "[INST]"),
    (markup, dict(response="See [eggs](https://eggs.example)."), "](https:"),
    (nothing_in_correction, dict(correction="Nothing is wrong."), "Nothing is wrong."),
    (none_answer, dict(response=""), "empty"),
    (none_answer, dict(response="N/A"), "N/A"),
    (not_english, dict(response="Das Ei ist nach acht Minuten nicht fertig."), "German: das, ist, nach, nicht"),
    (not_english, dict(question="Где рынок?"), "Гдерынок"),
    (code_or_formula, dict(question="Write a Python decorator."), "Python decorator"),
    (refusal, dict(correction="Sorry. I can't help with that. I won't discuss this."), "I can't help with that."),
    (refusal, dict(correction="As an AI, I have no eggs."), "As an AI"),
    (truncated, dict(correction="Boil the egg in water for eight"), "…g in water for eight"),
    (repetition, dict(correction="Boil it now. Then eat. Boil it now."), "boil it now."),
    (repetition, dict(correction="so so so so so so"), "so so so so so so"),
    (repetition, dict(correction="put it in the pot and "*4), "put it in"),
    (unchanged_though_wrong, dict(correction=" Eight minutes, you fool. "), "It insults the reader."),
    (changed_though_right, dict(critique=NOTHING), "Eight minutes."),
    (too_short, dict(question="Eggs?"), "Eggs?"),
    (too_short, dict(question=""), "empty"),
    (too_long, dict(response="Wait. "*401), "401 → 2 words"),
    (too_long, dict(response="Wait.", correction="Wait. "*65), "1 → 65 words"),
])
def test_a_finding_shows_what_was_found(f, changed, finding): assert f(row(**changed)) == finding


@pytest.mark.parametrize("f, changed", [
    (none_answer, dict(question="Which of them is open?", correction="None.")),
    (not_english, dict(correction="Flour, eggs, butter, sugar, salt, milk, yeast, raisins, almonds, lemons.")),
    (truncated, dict(response="eight minutes, you silly fool", correction="eight minutes from when it boils")),
    (too_long, dict(response="Wait.", correction="Wait. "*64)),
    (too_long, dict(response="Wait. "*400)),
    (unchanged_though_wrong, dict(correction=ROW["response"], critique=NOTHING)),
    (changed_though_right, dict(correction=ROW["response"], critique=NOTHING)),
])
def test_near_misses_stay(f, changed): assert f(row(**changed)) is None


class Opposite:
    "An encoder to which the second half of the alphabet means the opposite of the first"
    calls = 0

    def encode(self, texts):
        self.calls += 1
        return [[sum(1 if letter < "n" else -1 for letter in text.lower() if letter.isalpha()), .1] for text in texts]


def test_only_a_long_correction_without_a_shared_word_is_shown_to_the_encoder():
    encoder = Opposite()
    ignores_question = off_topic(encoder)
    strange = "Turtles trust trout; proud sturdy storks truly roost yonder."
    flower = dict(question="How deep?", response="Dig a big hole, lad.")
    assert ignores_question(row(**flower, correction=strange)) and encoder.calls == 1
    assert ignores_question.__name__ == "ignores_question"
    for correction in ("Turtles trust trout.", strange+" Dig.", strange+" Deep."):
        assert ignores_question(row(**flower, correction=correction)) is None
    assert encoder.calls == 1
    assert off_topic(encoder, cosine=-1.)(row(**flower, correction=strange)) is None
    with pytest.raises(DataError, match="encoder must be the name"): off_topic(7)
