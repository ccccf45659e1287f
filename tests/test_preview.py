"A preview says what the training will do, and changes nothing"
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from aligners_nb import preview as preview_module
from aligners_nb import town
from aligners_nb.aligner import Aligner
from aligners_nb.base import Base, base_hash, small_model
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.dialogue import CHATML, Dialogue
from aligners_nb.local import LocalLLM
from aligners_nb.preview import Cost, Segment, estimate, peak_memory, pilot, preview, segments

civil = Criterion("civil", ["Be polite."])
ROWS = [dict(question=f"When does shop {i} open?", response=f"At {i}, fool.", correction=f"At {i}.")
        for i in range(8)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "llama", "llama", CHATML, max_position_embeddings=256)


@pytest.mark.parametrize("answer", ["At nine.", "Um 9 Uhr: 5 €. 你好 👩‍👩‍👧", "<|im_end|><script>", "a\nb", "e\u0301"])
def test_segments_are_the_example(llama, answer):
    dialogue = Dialogue(Base.load(llama).tok)
    example = dialogue.aligner_example(civil, f"When? {answer}", answer, answer)
    pieces = segments(example, dialogue.tok)
    learned = "".join(piece.text for piece in pieces if piece.is_learned)
    assert learned == answer + "<|im_end|>"
    assert "".join(piece.text for piece in pieces) == dialogue.tok.decode(example["input_ids"])
    assert not any(piece.text == "" for piece in pieces)


ACCUMULATED = dict(epochs=2, batch_size=4, gradient_accumulation_steps=2)


@pytest.mark.parametrize("settings", [dict(), dict(epochs=3, batch_size=5), ACCUMULATED, dict(keep_share=0),
                                      dict(epochs=.5)])
def test_the_steps_are_those_of_the_training(llama, settings):
    base = Base.load(llama)
    hash_before, adapters = base_hash(base.model), dict(base.adapters)
    reply = LocalLLM(base).chat("When?", max_tokens=8, temperature=0)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    more = dict(validation=.25) if "epochs" in settings else {}
    assert preview(ROWS, base=base, criterion=civil, **more).n_held_back == (2 if more else 0)
    settings = settings | more
    shown = preview(pd.DataFrame(ROWS), base=base, criterion=civil, progress=False, out="never", **settings)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
    assert (base_hash(base.model), base.adapters) == (hash_before, adapters)
    assert LocalLLM(base).chat("When?", max_tokens=8, temperature=0) == reply
    assert not any(weights.requires_grad for weights in base.model.parameters())
    aligner = Aligner.fit(ROWS, base=base, criterion=civil, progress=False, **settings)
    assert shown.n_steps == aligner.log[-1]["step"]
    assert shown.n_good == (0 if settings.get("keep_share") == 0 else 3 if more else 4)
    assert len(shown.examples) == 3 and shown.cost.seconds > 0
    base.remove_adapter(aligner.name)


def test_rows_that_are_too_long_are_named_and_left_out(llama):
    rows = [*ROWS, dict(question="Q?", response="Well. "*200, correction="Well."),
            dict(question="Q?", response="Well.", correction="Well. "*200)]
    shown = preview(rows, base=llama, criterion=civil, epochs=1, columns=dict(question="question"))
    assert shown.long_rows == [8, 9] and max(shown.lengths) <= 256
    assert "2 rows (row 8, 9) will be left out, as the context has 256 tokens. Nothing is cut off." in repr(shown)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        aligner = Aligner.fit(rows, base=llama, criterion=civil, epochs=1, progress=False)
    assert any("left out" in str(each.message) for each in caught) and aligner.log[-1]["step"] == shown.n_steps


def test_what_it_shows_is_escaped_and_short(llama):
    rows = [dict(question="<img src=x>", response="<i>fool</i> "*40, correction="<b>At nine</b>")]*2
    shown = preview(rows, base=small_model_with_more_context(llama), criterion=civil, epochs=1, n_shown=1)
    text = shown._repr_html_().replace("<br>", "")
    assert "<img" not in text and "<i" not in text and "<b" not in text
    assert " … " in repr(shown) and len(repr(shown)) < 3000
    assert repr(shown).endswith("⟧") and "<b>At nine</b>" not in repr(shown)   # its tokens are parted


def small_model_with_more_context(folder):
    return small_model(folder + "-long", "llama", CHATML)


def test_errors_are_those_of_fit(llama):
    for settings, error in ((dict(), DataError), (dict(criterion=civil, batch_size=0), ValueError),
                            (dict(criterion=civil, keep_share=1), ValueError),
                            (dict(criterion=civil, epochs="x"), TypeError)):
        with pytest.raises(error) as by_preview:
            preview(ROWS, base=llama, **settings)
        with pytest.raises(error) as by_fit:
            Aligner.fit(ROWS, base=llama, **settings)
        assert str(by_preview.value) == str(by_fit.value)
    with pytest.raises(DataError, match="knows nothing but its made-up town"):
        preview(ROWS, criterion=civil)
    with pytest.raises(DataError, match="row 0 has no response"):
        preview([dict(question="Q?")], base=llama, criterion=civil)
    with pytest.raises(ValueError, match="n_shown=0"):
        preview(ROWS, base=llama, criterion=civil, n_shown=0)


def test_a_pilot_ends_in_time_and_leaves_no_adapter_after_an_error(llama, monkeypatch):
    base = Base.load(llama)
    examples = [dict(input_ids=[5]*n, labels=[-100]*(n-1)+[5]) for n in range(10, 42)]
    assert [cost.tokens for cost in pilot(base, examples, 32)] == [25, 4*27, 16*33, 32*41]
    monkeypatch.setattr(preview_module, "PILOT_SECONDS", 0)
    assert len(pilot(base, examples, 32)) == 1
    before = dict(base.adapters)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(preview_module, "train", fail)
    with pytest.raises(KeyboardInterrupt):
        pilot(base, examples, 32)
    assert base.adapters == before


def test_estimates_are_lines():
    one = [Cost(100, 2., 10**9)]
    assert estimate(one, [50]*4, 2, 4).seconds == pytest.approx(8.)        # in proportion
    noisy = [Cost(10, 2., 2*10**9), Cost(100, 1., 10**9)]                   # the small step was slower
    assert estimate(noisy, [100]*4, 1, 4).seconds == pytest.approx(4.)
    assert estimate(noisy, [100]*4, 4, 1).memory == 10**9
    assert estimate([Cost(100, 1., 10**9), Cost(200, 2., 2*10**9)], [400], 1, 1) == Cost(400, 4., 4*10**9)


def test_the_peak_is_seen():
    with peak_memory(torch.device("cpu")) as before:
        torch.ones(10).sum()
    with peak_memory(torch.device("cpu")) as peaks:
        blocks = [torch.ones(25_000_000) for _ in range(3)]
        assert sum(block[0].item() for block in blocks) == 3
    assert peaks[0] - before[0] > 2*10**8


def test_a_long_text_shows_its_learned_part():
    pieces = [Segment("a", False)]*500 + [Segment("b", True)]*3
    assert preview_module._as_text(pieces).endswith("a⟦b|b|b⟧")
    assert len(preview_module._shortened(pieces)) == 80 + 1 + 80 + 3


def test_a_preview_of_the_town():
    rows = [dict(question=row["question"], response="Use your own eyes for once.", correction="It opens at 9.")
            for row in town.questions(6, seed=3)]
    shown = preview(rows, criterion=town.ethical, epochs=1)
    assert shown.base == "town" and shown.n_steps == 1
