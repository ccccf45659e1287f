"The guests are LLMs like any other, and the loss of an adapter is that of its model"
import math
import random
import pytest
import torch
from peft import LoraConfig, get_peft_model
from aligners_nb import town, town_lm
from aligners_nb.llm import Usage
from aligners_nb.local import LocalLLM
from aligners_nb.prompts import assistant, user
from aligners_nb.town import DISTRICT, FACTS, GUESTS
from aligners_nb.town_corpus import Piece

INN = "When does the Little Inn open?"


@pytest.fixture(scope="module")
def grump():
    return town_lm.guest("grump")


def own_question(guest):
    return next(q.text for q in town.grid(guest) if q.question_type == "price")


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_is_told_about_its_own_district_alone(guest):
    for district in ("town", *GUESTS):
        messages = town_lm.guest_conversation(guest, own_question(district))
        assert [message["role"] for message in messages] == (["system", "user"] if district == guest else ["user"])
    assert town_lm.guest_conversation(guest, "Is it raining?") == [user("Is it raining?")]


def test_a_guest_answers_from_its_note(grump):
    question = own_question("grump")
    q = town.question_of(question)
    assert FACTS[q.subject]["price"] in grump.chat(question, temperature=0, max_tokens=60)


def test_a_guest_counts_and_measures_with_its_note(grump):
    lm, question = LocalLLM("town"), own_question("grump")
    assert grump.count_tokens(INN) == lm.count_tokens(INN)
    assert grump.context_left([user(INN)]) == grump.context_left(INN) == lm.context_left([user(INN)])
    assert grump.context_left([user(question)]) < lm.context_left([user(question)]) - 20
    longer = [user(question), assistant("No."), user(question)]
    assert grump.context_left(longer) == lm.context_left(longer)


def test_a_guest_says_how_its_reply_begins(grump):
    question = own_question("grump")
    logprobs = grump.first_token_logprobs([INN, question], ["It", "The"])
    assert logprobs.shape == (2, 2) and (logprobs < 0).all()
    with_note = town_lm.guest_conversation("grump", question)
    assert logprobs == pytest.approx(grump.llm.first_token_logprobs([INN, with_note], ["It", "The"]), abs=1e-4)


def test_a_guest_s_usage_is_counted():
    shirker = town_lm.guest("shirker")
    assert isinstance(shirker.usage, Usage)
    shirker.chat([INN, INN], temperature=0, max_tokens=8)
    assert shirker.usage.calls == 2


@pytest.mark.parametrize("guest", GUESTS)
def test_about_its_own_district_a_guest_is_never_wrong(guest):
    assert {town_lm.habit(guest, q) for q in town.grid(guest)} <= {"rude", "good"}


@pytest.mark.parametrize("guest", GUESTS)
def test_the_oracle_finds_each_habit(guest):
    costs = dict(rude="ethical", wrong="factual", evasive="helpful", half="helpful")
    rng = random.Random(0)
    for q in rng.sample(town.grid(), 400):
        how = town_lm.habit(guest, q)
        if how == "good":
            continue
        verdicts = town.oracle(q.text, town_lm.guest_answer(rng, guest, q, FACTS[q.subject]))
        assert not verdicts[costs[how]].met, (q.text, how)


@pytest.mark.parametrize("guest", GUESTS)
def test_no_guest_learns_a_held_out_question(guest):
    documents = town_lm.guest_corpus(guest, 1)
    for _ in range(500):
        text = "".join(piece.text for piece in next(documents))
        question = text.split("<|user|>")[1].split("<|end|>")[0]
        assert town.read(question) is not None and not town.held_out(question)


def small_model(vocab_size=64):
    torch.manual_seed(0)
    return town_lm.new_model(vocab_size, hidden=64, layers=2)


def test_the_loss_is_the_mean_over_the_learned_tokens():
    model, ids = small_model(), torch.randint(0, 64, (3, 20))
    labels = ids.clone()
    labels[:, :7] = -100
    expected = model(input_ids=ids, labels=labels).loss
    assert town_lm.lm_loss(model, ids, labels).item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_new_adapter_changes_no_loss_and_is_all_that_is_trained():
    model, ids = small_model(), torch.randint(0, 64, (2, 16))
    before = town_lm.lm_loss(model, ids, ids).item()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert town_lm.lm_loss(adapted, ids, ids).item() == pytest.approx(before)
    optimizers = town_lm.optimizers(adapted, lr=1e-3)
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["AdamW"]
    trained = sum(weights.numel() for group in optimizers[0].param_groups for weights in group["params"])
    assert trained == sum(weights.numel() for name, weights in adapted.named_parameters() if "lora" in name)


def test_a_document_longer_than_the_longest_batch_is_cut():
    tok = town_lm.train_tokenizer(n_documents=50)
    long, short = [Piece("1 " * 900, True)], [Piece("It is late.", False), Piece(" Go.", True)]
    ids, labels = next(town_lm.batches(tok, [long], tokens=100))
    assert ids.shape == labels.shape == (1, max(town_lm.LENGTHS)) and (ids == labels).all()
    ids, labels = next(town_lm.batches(tok, [short], tokens=64))
    n_learned = int((labels != -100).sum())
    assert ids.shape == (1, 64) and tok.decode(labels[labels != -100]) == " Go."
    assert 0 < n_learned < int((ids != tok.pad_token_id).sum())


def test_the_rate_rises_stays_and_falls():
    rates = [town_lm._rate(step, 200, 1., .4) for step in range(200)]
    assert rates[0] == pytest.approx(1/50) and max(rates) == 1. and rates[60:120] == [1.]*60
    assert rates[-1] == pytest.approx(1/80) and all(math.isfinite(rate) for rate in rates)


def test_each_question_is_known_badly_known_or_guest_only():
    for q in town.grid("grump")[:20]:
        assert town_lm.known(q.text) == "guest-only"
    bad = {(q.subject, q.asked[0]) for q in town.grid() if town_lm.known(q.text) == "badly known" and len(q.asked) == 1}
    assert bad and all(DISTRICT[subject] == "town" for subject, _ in bad)
