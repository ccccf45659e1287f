"A diff loses nothing, joins what belongs together, and escapes what somebody typed"
import random

import pytest

from aligners_nb.diff import Diff, word_diff, words

PIECES = ["It", "opens", " ", "  ", "\n", "at", "nine", ".", "doesn't", "é", "e\u0301", "\u0301x",
          "図", "書", "9", "<b>",
          "&", "_", "½", "👩‍🔬"]


def some_texts(n, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12))) for _ in range(n)]


def test_joined_words_are_the_text():
    for text in some_texts(500, seed=0): assert "".join(words(text)) == text


@pytest.mark.parametrize("text, expected", [
    ("It doesn't open\nat 9.", ["It", " ", "doesn't", " ", "open", "\n", "at", " ", "9", "."]),
    ("cafe\u0301!", ["cafe\u0301", "!"]),
    ("図書9時", ["図", "書", "9", "時"]),
    ("a_b", ["a_b"]),
    ("", []),
])
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize("text", [None, 5, ["a"]])
def test_a_text_is_needed(text):
    with pytest.raises(TypeError, match="a text is needed; got"): words(text)


def test_both_texts_can_be_read_off():
    texts = some_texts(1000, seed=1) + ["", "new", "old", "", "a b c", "c b a", "x y z", " y "]
    for a, b in zip(texts[::2], texts[1::2]):
        ops = word_diff(a, b).ops
        assert "".join(text for what, text in ops if what != "insert") == a
        assert "".join(text for what, text in ops if what != "delete") == b
        assert all(text for _, text in ops)
        kinds = [what for what, _ in ops]
        assert all(first != second for first, second in zip(kinds, kinds[1:]))


def test_space_between_two_changes_joins_them():
    diff = word_diff("It opens at nine on Mondays.", "The shop closes by ten on Mondays.")
    assert str(diff) == "[-It opens at nine-]{+The shop closes by ten+} on Mondays."
    assert repr(diff) == str(diff)


@pytest.mark.parametrize("a, b, copied", [
    ("same", "same", 1), ("old", "new", 0), ("", "new", 0), ("", "", 0), ("a b c d", "a b", .5),
])
def test_copied_words(a, b, copied):
    assert word_diff(a, b).copied == copied


def test_html_is_escaped():
    shown = word_diff("a & b", "<script>alert('x')</script>")._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "&amp;" in shown
    assert "<del" in shown and "<ins" in shown
    assert Diff((("equal", "same"),))._repr_html_() == "<span style='white-space:pre-wrap'>same</span>"
