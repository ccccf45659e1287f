"The engine writes what a plain loop writes, whatever the model, batch size, draft and adapter"
import random
import warnings
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from aligners_nb import decode
from aligners_nb.base import Base, small_model
from aligners_nb.criterion import DataError
from aligners_nb.decode import Draft, Features, PrefixCache, choose, common_prefix, features_of, generate
from aligners_nb.decode import uniforms, using
from aligners_nb.dialogue import CHATML
from aligners_nb.local import LocalLLM

VOCAB, N_NEW = 97, 10
SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
GROUPED = dict(SMALL, num_key_value_heads=2)
LONGROPE = dict(rope_type="longrope", rope_theta=10_000., short_factor=[1.]*4, long_factor=[2.]*4)

# one of each kind of position, cache and attention; the window of gemma3_text and mistral is short
CONFIGS = dict(
    llama=GROUPED,
    gpt2=dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4),
    gpt_neox=SMALL,
    qwen3=dict(GROUPED, head_dim=8),
    gemma3_text=dict(GROUPED, head_dim=8, sliding_window=40),
    mistral=dict(GROUPED, sliding_window=40),
    opt=dict(vocab_size=VOCAB, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
             word_embed_proj_dim=32),
    bloom=dict(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
    phi3=dict(GROUPED, pad_token_id=0, max_position_embeddings=128, original_max_position_embeddings=32,
              rope_parameters=LONGROPE),
    mpt=dict(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, max_seq_len=512),
    qwen3_5_text=dict(GROUPED, head_dim=8, layer_types=["linear_attention", "full_attention"], linear_num_value_heads=4,
                      linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8),
    mamba=dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8))

# what the engine should find out about them; the others can do everything
LIMITS = dict(
    gemma3_text=Features(slots=40),
    mistral=Features(slots=40),
    bloom=Features(padding=False, drafts=False, prefix=False),   # NaN in float64 at a padded place, which sees no token
    mpt=Features(drafts=False, prefix=False),            # measures distances in columns of the cache
    qwen3_5_text=Features(drafts=False, prefix=False),   # its state cannot go back to before a refused draft
    mamba=Features(padding=False, drafts=False, prefix=False))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def random_model(kind, dtype=torch.float64, **settings):
    "A small model whose replies depend on their whole prompts"
    torch.manual_seed(0)
    ids = dict(bos_token_id=1, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**ids, **CONFIGS[kind], **settings}))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=.3)
    return model.eval().to(torch.float32 if kind == "mpt" else dtype)    # MPT adds float32 biases to its scores


@pytest.fixture(scope="module")
def models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zoo = {kind: random_model(kind) for kind in CONFIGS}
        for model in zoo.values():
            features_of(model)
    return zoo


@pytest.fixture(scope="module")
def llama(models):
    return models["llama"]


def random_prompts(lengths, n_shared=0, seed=0):
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB) for _ in range(n_shared)]
    return [shared + [rng.randrange(VOCAB) for _ in range(n)] for n in lengths]


def plain_loop(model, prompt, n=N_NEW, stop_ids=()):
    "The greedy reply to one prompt, without a cache"
    ids = list(prompt)
    for _ in range(n):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        token = logits.argmax().item()
        if token in stop_ids:
            break
        ids.append(token)
    return ids[len(prompt):]


def plain_loops(model, prompts, *settings):
    return [plain_loop(model, prompt, *settings) for prompt in prompts]


def changed(reply, place=5):
    "A reply with one other token"
    return reply[:place] + [(reply[place]+1) % VOCAB] + reply[place+1:] if len(reply) > place else reply


def drafts_of_all_kinds(replies):
    "By name: a draft, or none, for each reply"
    useless = random_prompts([N_NEW]*len(replies), seed=1)
    mixed = []
    for i, (reply, guess) in enumerate(zip(replies, useless)):
        kinds = reply, changed(reply, 0), [], guess
        mixed.append(kinds[i % 4])
    return dict(
        none=None,
        empty=[[] for _ in replies],
        right=replies,
        wrong_in_the_middle=[changed(reply) for reply in replies],
        useless=useless,
        too_long=[reply+guess for reply, guess in zip(replies, useless)],
        mixed=mixed)


def count_tokens(model, call):
    "What a call returns, and how many tokens the model reads in it"
    counts = []

    def count(module, args, inputs):
        counts.append(inputs["input_ids"].numel())
    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        return call(), sum(counts)
    finally:
        hook.remove()


SHARED = random_prompts([3, 8, 5, 1, 6, 4, 7], n_shared=20)
UNRELATED = random_prompts([3, 12, 7, 3, 1])


# the promise

@pytest.mark.parametrize("kind", CONFIGS)
def test_features_are_found_out(models, kind):
    assert features_of(models[kind]) == LIMITS.get(kind, Features())


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_replies_are_those_of_the_plain_loop(models, kind):
    model = models[kind]
    for prompts in (SHARED, UNRELATED):
        replies = plain_loops(model, prompts)
        assert len(set(map(tuple, replies))) > 1
        for size in (1, 3, None):
            for name, drafts in drafts_of_all_kinds(replies).items():
                assert generate(model, prompts, N_NEW, drafts=drafts, batch_size=size) == replies, (size, name)


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral"])
@pytest.mark.parametrize("n_shared", [26, 35, 60])
def test_a_window_that_slides_changes_nothing(models, kind, n_shared):
    prompts = random_prompts([3, 8, 5], n_shared)
    replies = plain_loops(models[kind], prompts)
    prefixes = {}
    for drafts in drafts_of_all_kinds(replies).values():
        assert generate(models[kind], prompts, N_NEW, drafts=drafts, prefixes=prefixes) == replies


def test_rows_on_both_sides_of_a_longrope_limit_do_not_meet(models):
    prompts = random_prompts([2, 9, 12, 14, 21, 30], n_shared=10)      # the limit is 32 tokens; some rows cross it
    replies = plain_loops(models["phi3"], prompts)
    for size in (1, None):
        assert generate(models["phi3"], prompts, N_NEW, drafts=replies, batch_size=size) == replies


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_one_copy_of_a_long_prefix_serves_all_rows(models, kind):
    prompts = random_prompts([3, 8, 5, 1, 6, 4, 7], n_shared=100)
    model, replies = models[kind], plain_loops(models[kind], prompts)
    before = model.config._attn_implementation
    for drafts in drafts_of_all_kinds(replies).values():
        assert generate(model, prompts, N_NEW, drafts=drafts) == replies
    assert decode.can_use_one_copy(model)
    assert model.config._attn_implementation == before


def test_in_float32_replies_part_only_where_two_tokens_are_as_good():
    model = random_model("llama", torch.float32)
    prompts = random_prompts([3, 8, 5, 1, 6, 4, 7]*3, n_shared=40)
    for prompt, reply, plain in zip(prompts, generate(model, prompts, 30), plain_loops(model, prompts, 30)):
        if reply == plain:
            continue
        n_same = decode.n_equal(reply, plain)
        logits = model(input_ids=torch.tensor([prompt+plain[:n_same]])).logits[0, -1]
        best, second = logits.topk(2).values
        assert best-second < 1e-4


# adapters

@pytest.fixture(scope="module")
def tuned():
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(random_model("llama"), lora, "one")
    model.add_adapter("two", lora)
    return model.double().eval()


def plain_with_adapters(model, prompts, adapters):
    replies = []
    for prompt, adapter in zip(prompts, adapters):
        with using(model, adapter):
            replies.append(plain_loop(model, prompt))
    return replies


@pytest.mark.parametrize("n_shared", [0, 20, 200])
def test_each_row_has_its_own_adapter(tuned, n_shared):
    adapters = ["one", None, "two", "one", None, "two", "one"]
    prompts = random_prompts([3, 8, 5, 1, 6, 4, 7], n_shared)
    replies = plain_with_adapters(tuned, prompts, adapters)
    for size in (1, 2, None):
        for drafts in (None, replies, [changed(reply) for reply in replies]):
            assert generate(tuned, prompts, N_NEW, adapters=adapters, drafts=drafts, batch_size=size) == replies


def test_prefixes_of_two_adapters_are_not_mixed_up(tuned):
    prefixes = {}
    for adapter in ("one", "two", None, "one"):
        adapters = [adapter]*len(SHARED)
        expected = plain_with_adapters(tuned, SHARED, adapters)
        assert generate(tuned, SHARED, N_NEW, adapters=adapters, prefixes=prefixes) == expected
    assert set(prefixes) == {"one", "two", None}


def test_an_unknown_adapter_is_refused(tuned, llama):
    with pytest.raises(DataError, match="'three'; there are one, two"):
        generate(tuned, SHARED, adapters=["three"]*7)
    with pytest.raises(DataError, match="the model has none"):
        generate(llama, SHARED, adapters=["one"]*7)


# prefixes

def test_common_prefix_leaves_a_token_of_each_prompt():
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 1
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2, 3]]) == 2
    assert common_prefix([[5], [6]]) == 0


def test_a_kept_prefix_is_not_read_again(llama):
    prefixes, replies = {}, plain_loops(llama, SHARED)
    first, n_first = count_tokens(llama, lambda: generate(llama, SHARED, N_NEW, prefixes=prefixes))
    again, n_again = count_tokens(llama, lambda: generate(llama, SHARED, N_NEW, prefixes=prefixes))
    assert first == again == replies
    assert n_first-n_again == 20
    one, n_one = count_tokens(llama, lambda: generate(llama, SHARED[:1], N_NEW, prefixes=prefixes))
    assert one == replies[:1]
    assert n_one == 3 + N_NEW-1


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "mistral"])
def test_a_kept_prefix_serves_prompts_that_share_less_or_more(models, kind):
    model, prefixes = models[kind], {}
    shorter = [SHARED[0][:19]+[3, 4], SHARED[0][:19]+[5]]
    longer = [SHARED[0]+[7, 8], SHARED[0]+[9]]
    long = random_prompts([3, 4], n_shared=50)
    other = random_prompts([3, 4], n_shared=20, seed=2)
    for prompts in (SHARED, shorter, longer, other, long, [long[0][:45], long[1][:44]], SHARED[:1], UNRELATED):
        assert generate(model, prompts, N_NEW, prefixes=prefixes) == plain_loops(model, prompts)


def test_the_least_recently_used_prefix_gives_way(llama):
    first, second, third = (decode.read_prefix(llama, prompt) for prompt in random_prompts([20]*3))
    kept = PrefixCache(size=2)
    kept.add(first)
    kept.add(second)
    assert kept.find(first.ids).ids == first.ids
    kept.add(third)
    assert kept.prefixes == [first, third]
    assert kept.find(second.ids) is decode.NO_PREFIX


# drafts

def test_a_right_draft_saves_passes_and_a_wrong_one_costs_tokens_only(llama):
    replies, passes = plain_loops(llama, SHARED), {}
    for name, drafts in drafts_of_all_kinds(replies).items():
        calls = []
        hook = llama.register_forward_pre_hook(lambda module, args: calls.append(1))
        generate(llama, SHARED, N_NEW, drafts=drafts)
        hook.remove()
        passes[name] = len(calls)
    assert passes["right"] == 2                     # one reads the prefix
    assert passes["wrong_in_the_middle"] < passes["none"]/2
    assert passes["empty"] == passes["none"] == 1+N_NEW
    assert passes["useless"] <= 1+N_NEW


def test_a_draft_is_found_again_at_the_nearest_place():
    assert Draft([1, 2, 3, 4, 5, 6]).after([1, 2, 9, 4], 8) == [5, 6]
    assert Draft([1, 2, 7, 1, 2, 8]).after([1, 2, 9, 9, 2], 8) == [8]
    assert Draft([1, 2, 3, 4, 5, 6]).after([1, 2], 3) == [3, 4, 5]
    assert Draft([1, 2, 3]).after([9], 8) == []
    assert Draft([1, 2, 3]).after([1], 0) == []
    assert Draft().after([3], 8) == []


# ends

@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3_5_text", "mamba"])
def test_rows_end_before_a_stop_token(models, kind):
    model, whole = models[kind], plain_loops(models[kind], SHARED)
    stop_ids = [whole[0][4], whole[1][2], whole[2][0]]
    replies = plain_loops(model, SHARED, N_NEW, stop_ids)
    assert [] in replies
    for size in (1, 3, None):
        for drafts in (None, whole, replies):      # the whole replies are drafts with a stop token in them
            assert generate(model, SHARED, N_NEW, stop_ids, drafts=drafts, batch_size=size) == replies


def test_rows_end_where_a_function_says_so(llama):
    def is_ended(ids):
        return len(ids) >= 3 and ids[-1] % 3 == 0
    expected = []
    for reply in plain_loops(llama, SHARED):
        n = next((n for n in range(1, N_NEW) if is_ended(reply[:n])), N_NEW)
        expected.append(reply[:n])
    assert len(set(map(len, expected))) > 1
    for drafts in (None, plain_loops(llama, SHARED)):
        assert generate(llama, SHARED, N_NEW, stop=is_ended, drafts=drafts) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_no_reply_is_longer_than_allowed(llama, n):
    replies = plain_loops(llama, SHARED)
    for drafts in (None, replies):
        assert generate(llama, SHARED, n, drafts=drafts) == [reply[:n] for reply in replies]


def test_each_conversation_has_its_own_limit(tmp_path):
    llm = LocalLLM(Base.load(small_model(tmp_path/"llama", template=CHATML), device="cpu", dtype=torch.float64))
    questions = [f"Is it {n} o'clock?" for n in range(6)]
    limits = [4, 1, 9, 6, 9, 2]
    separate = [llm.chat(question, max_tokens=n, temperature=0) for question, n in zip(questions, limits)]
    assert llm.chat(questions, max_tokens=limits, temperature=0) == separate
    assert llm.chat(questions, max_tokens=limits, temperature=0, drafts=separate) == separate


# sampling

@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "qwen3_5_text", "mamba"])
def test_sampled_replies_depend_on_the_seed_alone(models, kind):
    def sampled(prompts, seeds, size=None):
        return generate(models[kind], prompts, N_NEW, temperature=1., seeds=seeds, batch_size=size)
    replies = sampled(SHARED, range(7))
    assert sampled(SHARED, range(7)) == replies
    assert generate(models[kind], SHARED, N_NEW, temperature=1., drafts=replies) == replies     # 0, 1, 2, … by default
    for size in (1, 3):
        assert sampled(SHARED[::-1], range(6, -1, -1), size) == replies[::-1]
    assert sampled(SHARED[2:4], [2, 3]) == replies[2:4]
    assert sampled(SHARED, range(7, 14)) != replies


def test_tokens_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([.1, .6, .3])
    numbers = uniforms(range(4000), 1)[:, 0]
    drawn = choose(probabilities.log().expand(4000, 3), 1., numbers)
    assert (torch.bincount(drawn)/4000-probabilities).abs().max() < .03
    sharper = choose(probabilities.log().expand(4000, 3), .5, numbers)
    assert (sharper == 1).float().mean() == pytest.approx(.36/.46, abs=.03)


def test_a_number_close_to_one_draws_the_last_likely_token():
    logits = torch.tensor([[0., 0., -1e30]])
    assert choose(logits, 1., torch.tensor([1-2**-53], dtype=torch.float64)).tolist() == [1]
    with pytest.raises(ValueError, match="uniforms"):
        choose(logits, 1.)


# batches

def test_memory_that_does_not_suffice_halves_the_batch(llama, monkeypatch):
    replies, forward, n_rows, done = plain_loops(llama, SHARED), llama.forward, [], []

    def forward_two_rows(*args, **kwargs):
        n_rows.append(len(kwargs["input_ids"]))
        if n_rows[-1] > 2:
            raise torch.OutOfMemoryError("no memory for more than two rows")
        return forward(*args, **kwargs)
    monkeypatch.setattr(llama, "forward", forward_two_rows)
    assert generate(llama, SHARED, N_NEW, batch_size=4, progress=done.append) == replies
    assert done == [2, 2, 2, 1]
    assert max(n_rows) == 4


def test_memory_that_does_not_suffice_for_one_row_is_an_error(llama, monkeypatch):
    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")
    monkeypatch.setattr(llama, "forward", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        generate(llama, SHARED, N_NEW)


def test_progress_counts_each_prompt_once(tuned):
    adapters, done = ["one", None, "two", "one", None, "two", "one"], []
    generate(tuned, SHARED, 2, adapters=adapters, batch_size=2, progress=done.append)
    assert sum(done) == len(SHARED)
    assert max(done) == 2


def test_no_prompt_and_an_empty_prompt(llama):
    assert generate(llama, []) == []
    with pytest.raises(DataError, match="no tokens"):
        generate(llama, [[1, 2], []])


def test_what_a_model_cannot_do_is_said_once():
    model = random_model("mpt")
    with pytest.warns(UserWarning, match="MptForCausalLM decodes without drafts, shared prefixes"):
        generate(model, SHARED, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(model, SHARED, 2)


def test_a_model_whose_cache_fails_is_decoded_without_one(monkeypatch):
    model = random_model("llama")
    forward = model.forward

    def forward_without_cache(*args, **kwargs):
        if any(kwargs.get(name) is not None for name in decode.CACHE_NAMES):
            raise NotImplementedError("no cache in this model")
        return forward(*args, **kwargs)
    monkeypatch.setattr(model, "forward", forward_without_cache)
    with pytest.warns(UserWarning, match="without a cache"):
        assert features_of(model) == decode.NO_FEATURES
    assert generate(model, SHARED, N_NEW, drafts=plain_loops(model, SHARED)) == plain_loops(model, SHARED)
