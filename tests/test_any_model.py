"Nothing is special about the town: synthesis to squad on small random models of real architectures, saved to disk"
import random
import pytest, torch
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers import ElectraConfig, ElectraForMaskedLM, RobertaConfig, RobertaForMaskedLM
from aligners_nb import base as bases
from aligners_nb.aligner import Aligner
from aligners_nb.criterion import Criterion, Demonstration, LLMError
from aligners_nb.curation import curate
from aligners_nb.inspector import Inspector
from aligners_nb.llm import Replay
from aligners_nb.local import as_llm
from aligners_nb.squad import Squad
from aligners_nb.synthesis import synthesize

CHATML = "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEXT = ["How long should I boil an egg? Eight minutes, as any fool knows. Is your answer polite? Correct it."] * 9

def byte_level(special, eos, template=None):
    t = Tokenizer(models.BPE()); t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False); t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token=eos, chat_template=template)

def word_piece(folder):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]")); t.normalizer = normalizers.BertNormalizer(); t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=t, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]").save_pretrained(folder)

@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    d = tmp_path_factory.mktemp("models"); torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=2048, eos_token_id=0, bos_token_id=0)).save_pretrained(d/"gpt2"); byte_level(["<|endoftext|>"], "<|endoftext|>").save_pretrained(d/"gpt2")
    Qwen3ForCausalLM(Qwen3Config(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=2048)).save_pretrained(d/"qwen3")
    byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", CHATML).save_pretrained(d/"qwen3")
    BertForMaskedLM(BertConfig(vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)).save_pretrained(d/"bert"); word_piece(d/"bert")   # as on the Hub: no pooler, no head
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=200, dim=32, hidden_dim=64, n_layers=2, n_heads=4)).save_pretrained(d/"distilbert"); word_piece(d/"distilbert")
    RobertaForMaskedLM(RobertaConfig(vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0)).half().save_pretrained(d/"roberta"); word_piece(d/"roberta")
    ElectraForMaskedLM(ElectraConfig(vocab_size=200, embedding_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)).save_pretrained(d/"electra"); word_piece(d/"electra")
    return d

polite = Criterion("polite", ["Never insult the reader."], [Demonstration("How long should I boil an egg?", "Eight minutes, as any fool knows.", "It insults.", "Eight minutes.")])

def scripted(prompt):
    "An LLM that can do the recipe: the random ones can't, and say so"
    rng = random.Random(prompt)
    if "New topics:" in prompt: return "".join(f" {a} {b}\n-" for a in ("Pea", "Bean", "Leek") for b in rng.sample(["soup", "salad", "pie", "stew", "bread"], 3))
    if "Questions:\n" in prompt: return "\n".join(f"{l} | Thinking of {l.split(' | ')[0]}, how do I {rng.choice(['make', 'serve', 'store'])} {l.split(' | ')[1].lower()}?" for l in prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines())
    n = rng.randrange(3, 90)
    return f" {n} minutes, as any fool knows.\nCritique: It insults.\nCorrection: {n} minutes." if rng.random() < .5 else f" {n} minutes.\nCritique: Nothing is wrong.\nCorrection: {n} minutes."

@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_random_llm_is_asked_and_fails_with_an_explanation(zoo, name):
    llm = as_llm(zoo/name)
    with pytest.raises(LLMError, match="try a larger|no topics"): synthesize(polite, llm, n=4, progress=False)
    assert llm.usage.calls > 20 and llm.usage.completion_tokens > 100

@pytest.mark.parametrize("base, encoder", [("gpt2", "bert"), ("qwen3", "distilbert"), ("qwen3", "qwen3")])
def test_from_synthesis_to_a_loaded_squad(zoo, tmp_path, base, encoder):
    train, calib, test = curate(synthesize(polite, Replay(scripted), n=120, progress=False)).split((.4, .5, .1))
    aligner = Aligner.fit(train, base=str(zoo/base), epochs=1, progress=False)
    inspector = Inspector.fit(train, base=str(zoo/encoder), epochs=1, progress=False).calibrate(calib, miss_rate=.1)
    squad = Squad([(inspector, aligner)]); qs, ys = list(test["question"]), list(test["response"])
    for policy in ("no_regret", "paper", "always"):
        out = squad(qs, ys, policy=policy)
        assert [a.response for a in out] == ys and not any(a.error for a in out)
    want, risk = [a.aligned for a in squad(qs, ys)], squad.inspect(qs, ys)[0]["polite"]; squad.save_pretrained(tmp_path/"squad")
    bases._loaded.clear(); torch.rand(7)                       # as a new process would: bases are loaded afresh, and what a base lacks is drawn anew
    again = Squad.from_pretrained(tmp_path/"squad")
    assert [a.aligned for a in again(qs, ys)] == want and again.inspect(qs, ys)[0]["polite"] == pytest.approx(risk, abs=1e-4)
    assert {f.suffix for f in (tmp_path/"squad").rglob("*") if f.is_file()} <= {".safetensors", ".json", ".md"}

@pytest.mark.parametrize("encoder", ["roberta", "electra"])
def test_an_inspector_whose_head_has_parts_is_loaded_as_it_was_saved(zoo, tmp_path, encoder):
    train, calib, test = curate(synthesize(polite, Replay(scripted), n=80, progress=False)).split((.5, .3, .2))
    inspector = Inspector.fit(train, base=str(zoo/encoder), epochs=1, progress=False).calibrate(calib, miss_rate=.2)
    qs, ys = list(test["question"]), list(test["response"]); want = list(inspector(qs, ys)); inspector.save_pretrained(tmp_path/"inspector")
    names = set(safe_open(next((tmp_path/"inspector").rglob("adapter_model.safetensors")), "pt").keys())
    assert any("classifier.dense.weight" in n for n in names) and not [n for n in names if "classifier" in n and "lora" in n]      # learned whole, and once
    bases._loaded.clear(); torch.rand(7)
    assert list(Inspector.from_pretrained(tmp_path/"inspector")(qs, ys)) == pytest.approx(want, abs=1e-4)
