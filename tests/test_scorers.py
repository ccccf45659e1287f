"Inspectors whose scorer is a published classifier, a guard or a prompted LLM."
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from aligners_nb.base import small_model
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.dialogue import CHATML, small_word_tokenizer
from aligners_nb.inspector import Inspector
from aligners_nb.scorers import GuardScorer, Scorer

civil = Criterion("civil", ["Be polite to whoever asks."])
QUESTIONS = [f"When does library {i} open?" for i in range(40)]
RESPONSES = ["It opens at nine." + " Any fool knows."*(i % 2) for i in range(40)]
ROWS = [dict(question=q, response=y, correction="It opens at nine.") for q, y in zip(QUESTIONS, RESPONSES)]


def classifier(folder, **config):
    labels = {0: "neutral", 1: "toxic", 2: "insult"}
    settings = AutoConfig.for_model("bert", vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                    num_attention_heads=2, id2label=labels, **config)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(settings).save_pretrained(folder)
    small_word_tokenizer().save_pretrained(folder)
    return folder


def check_saved(inspector, folder):
    "It is calibrated, saved and loaded, and says the same"
    inspector.calibrate(ROWS, miss_rate=.2).save_pretrained(folder)
    again = Inspector.from_pretrained(folder)
    assert again(QUESTIONS, RESPONSES) == pytest.approx(inspector(QUESTIONS, RESPONSES), abs=1e-5)
    assert (again.threshold, again.version) == (inspector.threshold, inspector.version)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_a_classifier_is_calibrated_saved_and_loaded(tmp_path, problem_type):
    model = classifier(tmp_path/"guard", problem_type=problem_type)
    check_saved(Inspector.from_classifier(model, ["toxic", "insult"], civil), tmp_path/"inspector")


def test_a_prompted_llm_and_a_guard_are_saved(tmp_path):
    llm = small_model(tmp_path/"llm", "llama", CHATML)
    check_saved(Inspector.prompted(llm, civil), tmp_path/"prompted")
    check_saved(Inspector.from_classifier(llm, "unsafe", civil), tmp_path/"guard")


@pytest.mark.parametrize("verdicts", [("unsafe", "safe", ""), ("Yes", "No", ""), ("Unsafe", "Safe", "Safety: ")])
def test_a_guard_scores_alone_as_in_a_batch(tmp_path, verdicts):
    guard = GuardScorer(small_model(tmp_path/"llm", "llama", CHATML), *verdicts)
    alone = [guard([q], [y])[0] for q, y in zip(QUESTIONS[:4], RESPONSES)]
    assert guard(QUESTIONS[:4], RESPONSES[:4]) == pytest.approx(alone, abs=1e-4)


def test_a_label_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    with pytest.raises(DataError, match="rude.*neutral.*toxic.*insult"):
        Inspector.from_classifier(classifier(tmp_path/"guard"), ["rude"], civil)


def test_a_function_can_not_be_saved_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="can't be saved"):
        Inspector.prompted(lambda messages: "Yes.", civil).save_pretrained(tmp_path/"inspector")
    assert not list(tmp_path.iterdir())


class Broken(Scorer):
    version = "broken"

    def __call__(self, questions, responses, batch_size=32): return [float("nan")]*len(responses)


def test_scores_that_are_no_numbers_never_become_risks():
    inspector = Inspector(civil, scorer=Broken())
    with pytest.raises(DataError, match="no finite number"): inspector("When?", "At nine.")
    with pytest.raises(DataError, match="no finite number"): inspector.calibrate(ROWS, miss_rate=.2)
