"No user's text becomes a control token: fuzzed questions and answers, for each family of tokenizers and templates"
import json
import random
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.dialogue import CHATML, Dialogue, Span, TextEncoder, pair_ids, small_tokenizer, small_word_tokenizer
from aligners_nb.prompts import aligner_request, assistant, system, user

POLITE = Criterion("polite", ["Never insult the reader."])
CORPUS = ["When does the library open? It opens at nine, as any fool knows. Boil the egg for eight minutes.",
          "user assistant system model think end turn\nstart of the answer:\n\nIs it so? No, it is not! At ten."]*9
N = 500    # conversations for each family, with four fuzzed texts each; five times as many in the slow tests

# Templates like those of model families, as short as they can be with what matters here
PHI4 = ("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")     # the tokens of the roles are put together
LLAMA2 = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
          "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}")
ZEPHYR = ("{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
LLAMA3 = ("{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
          "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
GEMMA = ("{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
         "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
         "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")
QWEN3 = ("{% for m in messages %}{% set content = m.content %}"
         "{% if m.role == 'assistant' and '</think>' in content %}"
         "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
         "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
         "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
         "{% endif %}{% if tools %}<tool_call></tool_call>{% endif %}")
GLM = ("[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
       "{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}{% endfor %}"
       "{% if add_generation_prompt %}<|assistant|>\n<think></think>\n{% endif %}")


def added(*names, special=False, normalized=False):
    return [AddedToken(name, special=special, normalized=normalized) for name in names]


def byte_level(template, control, other=(), **names):
    "Byte-level BPE, as GPT-2, Llama 3 and Qwen have it; `other` control tokens are not marked as special"
    tok = small_tokenizer(template, control, **names)
    tok.add_tokens(added(*other))
    return tok


def with_parts(tokenizer, **parts):
    for name, part in parts.items():
        if part is not None: setattr(tokenizer, name, part)
    return tokenizer


def trained(model, trainer, **parts):
    "A tokenizer of the corpus"
    tokenizer = with_parts(Tokenizer(model), **parts)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


SPECIAL = ["<unk>", "<s>", "</s>"]
NAMES = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def llama_like(template, other=(), space="first"):
    "BPE as SentencePiece writes it: spaces are ▁, and characters that it does not know are bytes"
    if space == "legacy":
        tokenizer_parts = dict(
            normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    else:
        tokenizer_parts = dict(pre_tokenizer=pre_tokenizers.Metaspace("▁", space, split=False))
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL+all_bytes, max_token_length=6, show_progress=False)
    first = trained(models.BPE(), trainer, **tokenizer_parts)
    # in published files the bytes are words of the model, and not added tokens as here
    merges = [tuple(merge) for merge in json.loads(first.to_str())["model"]["merges"]]
    model = models.BPE(first.get_vocab(), merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = with_parts(Tokenizer(model), **tokenizer_parts)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(added(*SPECIAL, special=True))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    tok = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **NAMES)
    tok.add_tokens(added(*other))
    return tok


def unigram(template=None, normalizer=None, other=()):
    "Unigram, as T5 and XLM-RoBERTa have it: its control tokens are ordinary words of the model, too"
    tokenizer = trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        normalizer=normalizer, pre_tokenizer=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace())
    around = [(name, tokenizer.token_to_id(name)) for name in SPECIAL[1:]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=around)
    tok = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **NAMES)
    tok.add_tokens(added(*other, normalized=normalizer is not None))
    return tok


def roberta_like():
    names = dict(bos_token="<s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", mask_token="<mask>")
    tok = small_tokenizer(control=["</s>", "<s>", "<pad>", "<mask>"], **names)
    tok.backend_tokenizer.post_processor = processors.RobertaProcessing(("</s>", 0), ("<s>", 1))
    return tok


NORMALISED = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
FAMILIES = {
    "GPT-2, no template": lambda: byte_level(None, ["<|endoftext|>"]),
    "GPT-2, ChatML": lambda: byte_level(CHATML, ["<|im_end|>", "<|im_start|>"]),
    "Qwen3": lambda: byte_level(QWEN3, ["<|im_end|>", "<|im_start|>", "<|endoftext|>"],
                                ["<think>", "</think>", "<tool_call>", "</tool_call>"]),
    "Llama 3": lambda: byte_level(
        LLAMA3, ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                 *[f"<|reserved_special_token_{i}|>" for i in range(20)]], bos_token="<|begin_of_text|>"),
    "Phi-4": lambda: byte_level(
        PHI4, ["<|endoftext|>"], ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]),
    "GLM-4": lambda: byte_level(GLM, ["<|endoftext|>", "[gMASK]", "<sop>"],
                                ["<|user|>", "<|assistant|>", "<|system|>", "<think>", "</think>"]),
    "Llama 2": lambda: llama_like(LLAMA2, space="legacy"),
    "Llama 2, no template": lambda: llama_like(None),
    "Zephyr": lambda: llama_like(ZEPHYR, ["<|user|>", "<|assistant|>", "<|system|>"]),
    "Gemma": lambda: llama_like(GEMMA, ["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "<table>"], space="never"),
    "Unigram": lambda: unigram(ZEPHYR),
    "Unigram, normalised": lambda: unigram(ZEPHYR, NORMALISED, ["<|user|>", "<|assistant|>"]),
}
ENCODERS = {
    "WordPiece": small_word_tokenizer,
    "byte-level BPE": roberta_like,
    "Unigram": unigram,
    "Unigram, normalised": lambda: unigram(normalizer=NORMALISED),
}


WORDS = ["When", " does", " the library", " open", "?", " It opens at nine.", "\n", "\n\n", " ", "  ", "A", "é",
         "ü", "🙂", "图书馆", "<", ">", "|", "[", "]", "/", "end", "<table>", "{{", "}}", "{% endfor %}",
         "\\n", "▁", "ﬁ", "Ａ"]
STRANGE = ["\x00", "\x01", "\x1b", "\x7f", "\x85", "\xad", "\u200b", "\u200d", "\u202e", "\ufeff", "\ue000", "\uf8ff",
           "\ufffd", "\U000f0000", "\U000f0001", "\U000ffffd", "\U00100000", "zebra", "zebra0zebra", "zebra1zebra"]


def control_texts(tok):
    "Every control token, with capitals, wide letters, halves and the words of a template around it"
    tokens = [token for token in tok.get_added_vocab() if token.strip()]
    wide = [token.translate({i: i+0xfee0 for i in range(0x21, 0x7f)}) for token in tokens]
    halves = [token[:len(token)//2] for token in tokens] + [token[len(token)//2:] for token in tokens]
    turns = [f"{token}\nassistant" for token in tokens] + [f"{token}user\n" for token in tokens]
    return tokens*3 + [token.upper() for token in tokens] + wide + halves + turns


def fuzzed(tok, rng):
    "A text that no user types by chance"
    sources = [WORDS, control_texts(tok), STRANGE]
    return "".join(rng.choice(rng.choices(sources, [3, 4, 2])[0]) for _ in range(rng.randint(1, 8)))


def true_controls(tok):
    "The ids that only a template may write, listed by hand"
    harmless = {"<unk>", "[UNK]", "<table>", "\n", "\n\n"}
    return {i for token, i in tok.get_added_vocab().items() if token not in harmless}


def controls_in(tok, ids):
    controls = true_controls(tok)
    return [i for i in ids if i in controls]


def talks(tok, n, draw, seed=0):
    "Conversations of a question of three turns and an answer: four texts each"
    rng = random.Random(seed)
    for _ in range(n):
        texts = [draw(tok, rng) for _ in range(4)]
        yield texts, [*map(message, ROLES, texts), user(aligner_request(POLITE))]


ROLES = "user", "assistant", "user", "assistant"


def message(role, content):
    return dict(role=role, content=content)


def ordinary(tok, rng):
    "A text without control tokens"
    return "".join(rng.choice(WORDS) for _ in range(rng.randint(1, 8)))


def sanitised_by_transformers(tok, messages, dialogue):
    "The prompt as transformers encodes it when it is told which tokens are control tokens; None if it can't"
    tok.chat_control_tokens = [token for token, i in tok.get_added_vocab().items() if i in true_controls(tok)]
    try:
        encoded = tok.apply_chat_template(messages, chat_template=dialogue.template, add_generation_prompt=True,
                                          sanitize_control_tokens=True, enable_thinking=False)
    except ValueError as error:
        assert "Can't sanitize" in str(error)
        return None
    finally:
        tok.chat_control_tokens = None
    return list(encoded["input_ids"])


def is_beyond_transformers(texts):
    "Does transformers lose a part of these texts?"
    return any(mark in text for text in texts for mark in ("\U000f0000", "\U000f0001", "</think>"))


def check_family(name, n, seed=0):
    tok = FAMILIES[name]()
    dialogue, n_compared = Dialogue(tok), 0
    harmless = [*map(message, ROLES, "aaaa"), user(aligner_request(POLITE))]
    expected = controls_in(tok, dialogue.ids(harmless, reply=True))
    assert expected
    for texts, messages in talks(tok, n, fuzzed, seed):
        ids = dialogue.ids(messages, reply=True)
        assert controls_in(tok, ids) == expected, texts
        for text in texts:
            assert not controls_in(tok, dialogue.answer_ids(text)), text
        if is_beyond_transformers(texts): continue
        known = sanitised_by_transformers(tok, messages, dialogue)
        if known is None or controls_in(tok, known) != expected: continue
        n_compared += 1
        assert ids == known, texts
    return n_compared


@pytest.mark.parametrize("name", FAMILIES)
def test_control_ids_come_from_the_template_only(name):
    assert check_family(name, N) > least_compared(name, N)


def least_compared(name, n):
    "Of n conversations; transformers refuses those with control tokens that are words of a Unigram model"
    return 0 if name.startswith("Unigram") else n/4


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_control_ids_come_from_the_template_only_in_more_texts(name):
    assert check_family(name, 5*N, seed=1) > least_compared(name, 5*N)


# templates that strip nothing
BYTE_LEVEL = [name for name in FAMILIES if name.startswith(("GPT-2", "Qwen", "Phi", "GLM"))]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_a_byte_level_tokenizer_loses_no_letter(name):
    tok = FAMILIES[name]()
    dialogue = Dialogue(tok)
    for texts, messages in talks(tok, N//2, fuzzed, seed=2):
        prompt = tok.decode(dialogue.ids(messages, reply=True))
        for text in texts:
            assert text in prompt
            assert tok.decode(dialogue.answer_ids(text)).removeprefix(dialogue._turn.gap) == text
            assert tok.decode(dialogue.text_ids(text)) == text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_of_ordinary_texts_is_what_a_server_encodes(name):
    tok = FAMILIES[name]()
    dialogue = Dialogue(tok)
    for texts, messages in talks(tok, N//2, ordinary, seed=3):
        served = tok.apply_chat_template(messages, chat_template=dialogue.template, add_generation_prompt=True,
                                         enable_thinking=False, return_dict=True)
        assert dialogue.ids(messages, reply=True) == list(served["input_ids"]), texts


@pytest.mark.parametrize("name", FAMILIES)
def test_a_correction_and_the_end_of_the_turn_are_learned_and_nothing_else(name):
    tok = FAMILIES[name]()
    dialogue = Dialogue(tok)
    for text in ("At nine.", "It opens at nine, as any fool knows.\n\nIs it so? No!", "user: end of turn"):
        example = dialogue.aligner_example(POLITE, "When?", "At nine, you fool.", text)
        learned = [token for token in example["labels"] if token != -100]
        masked = example["input_ids"][:len(example["input_ids"])-len(learned)]
        assert masked == dialogue.aligner_prompt(POLITE, "When?", "At nine, you fool.")
        assert example["input_ids"] == masked+learned
        assert controls_in(tok, learned) == [dialogue.end_ids[-1]]
        correction = text.lower() if "normalised" in name else text
        # some decoders drop a space or write a line break as one
        assert "".join(tok.decode(learned).split()) == "".join((correction+tok.decode(dialogue.end_ids)).split())


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_reads_no_control_token_in_a_pair(name):
    tok = ENCODERS[name]()
    rng = random.Random(4)
    expected = controls_in(tok, pair_ids(tok, "a", "a")["input_ids"])
    for _ in range(2*N):
        question, answer = fuzzed(tok, rng), fuzzed(tok, rng)
        pair = pair_ids(tok, question, answer)
        assert controls_in(tok, pair["input_ids"]) == expected, (question, answer)
        assert {len(ids) for ids in pair.values()} == {len(pair["input_ids"])}
        if name == "byte-level BPE": assert question+"</s></s>"+answer in tok.decode(pair["input_ids"])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_pair_of_ordinary_texts_is_encoded_as_ever(name):
    tok = ENCODERS[name]()
    rng = random.Random(5)
    for _ in range(N//5):
        question, answer = ordinary(tok, rng), ordinary(tok, rng)
        encoded = dict(tok(question, answer))
        del encoded["attention_mask"]
        assert pair_ids(tok, question, answer) == encoded


def test_a_template_sees_no_text_and_can_cut_none():
    tok = FAMILIES["Qwen3"]()
    talk = [user("Hi"), assistant("You fool.</think>Nine."), user("Rewrite it.")]
    known = tok.apply_chat_template(talk, sanitize_control_tokens=True)["input_ids"]
    assert "fool" not in tok.decode(known)                                     # what transformers makes of it
    assert "You fool.</think>Nine.<|im_end|>" in tok.decode(Dialogue(tok).ids(talk))


def test_a_text_may_hold_the_marks_and_names_that_encoders_use():
    tok = FAMILIES["GPT-2, ChatML"]()
    text = "zebra0zebra \U000f0000<|im_end|>\U000f0001 zebra1zebra"
    prompt = tok.decode(Dialogue(tok).ids([user(text), assistant("zebra0zebra"), user("a")]))
    assert prompt.count(text) == 1 and prompt.count("zebra0zebra") == 2


def test_a_template_that_leaves_a_text_out_is_refused():
    only_lists = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    with pytest.raises(DataError, match="refuses a conversation of user: it leaves out 'Hi'"):
        Dialogue(small_tokenizer(only_lists)).ids([user("Hi")])
    no_system = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    tok = small_tokenizer(no_system)
    assert "Be brief.\n\nHi" in tok.decode(Dialogue(tok).ids([system("Be brief."), user("Hi")]))


def test_no_control_token_lies_across_the_border_of_two_texts():
    tok = small_tokenizer(control=["<|end|>", "a<|end|>", "|><"])
    encode = TextEncoder(tok)
    typed, written = Span("Is it<|end", typed=True), Span("|><|end|>")
    assert tok.decode(encode([typed, written])) == "Is it<|end|><|end|>"
    assert controls_in(tok, encode([typed, written])) == controls_in(tok, encode([written]))
    assert encode([Span("Panda", typed=True), Span("<|end|>")])[-1] == tok.convert_tokens_to_ids("<|end|>")
