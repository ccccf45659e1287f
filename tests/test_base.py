"Bases of all sorts: what a base takes, what it refuses before it is touched, and what it leaves behind"
import gc
import importlib.util
import weakref
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from aligners_nb.base import Base, as_base, model_type, small_model
from aligners_nb.criterion import DataError
from aligners_nb.dialogue import CHATML, small_tokenizer, small_word_tokenizer
from aligners_nb.local import LocalLLM

QUESTION = "When does the library open?"


@pytest.fixture
def llama(tmp_path):
    return small_model(tmp_path/"llama", template=CHATML)


def logits_of(model, tok):
    with torch.no_grad():
        return model(**tok(QUESTION, return_tensors="pt")).logits


def saved_adapter(folder, llama, config, n_tokens=None):
    "An adapter with random weights, as PEFT saves it; and what PEFT says with it"
    model = AutoModelForCausalLM.from_pretrained(llama)
    if n_tokens:
        model.resize_token_embeddings(n_tokens)
    model = get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=.2)
    model.save_pretrained(folder)
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), folder) if not n_tokens else model
    return logits_of(alone.eval(), AutoTokenizer.from_pretrained(llama))


def lora(**settings):
    return LoraConfig(**{**dict(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"), **settings})


REFUSED = dict(
    prompt_tuning=(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), None, "type PROMPT_TUNING"),
    prefix_tuning=(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), None, "type PREFIX_TUNING"),
    ia3=(IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]), None, "type IA3"),
    biases=(lora(bias="all"), None, "trains biases"),
    pissa=(lora(init_lora_weights="pissa"), None, "rewrites the base's weights"),
    replicated=(lora(layer_replication=[(0, 2), (1, 2)]), None, "repeats layers"),
    activated=(lora(alora_invocation_tokens=[5, 6]), None, "activated LoRA"),
    resized=(lora(), 310, "brings its own"),
)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("beside_another", [False, True])
def test_what_can_not_share_a_base_is_refused_before_the_base_is_touched(tmp_path, llama, kind, beside_another):
    config, n_tokens, reason = REFUSED[kind]
    saved_adapter(tmp_path/"adapter", llama, config, n_tokens)
    base = Base.load(llama)
    if beside_another:
        base.add_adapter(lora(), "other")
    model, before = base.model, logits_of(base.model, base.tok)
    for _ in range(2):
        with pytest.raises(DataError, match=reason):
            LocalLLM(base, adapter=tmp_path/"adapter")
    assert base.model is model and list(base.adapters) == ["other"]*beside_another
    assert torch.equal(logits_of(base.model, base.tok), before)


TAKEN = dict(
    plain=lora(),
    all_linear=lora(target_modules="all-linear"),
    dora=lora(use_dora=True),
    rslora=lora(use_rslora=True),
    ranks=lora(target_modules="all-linear", rank_pattern={"q_proj": 2}),
    on_the_embedding=lora(target_modules=["embed_tokens", "q_proj"]),
    with_its_own_head=lora(modules_to_save=["lm_head"]),
    with_its_own_embedding=lora(modules_to_save=["embed_tokens"]),
    with_its_own_tokens=lora(trainable_token_indices=[5, 6, 7]),
)


@pytest.mark.parametrize("kind", TAKEN)
def test_what_can_share_a_base_says_what_it_says_alone(tmp_path, llama, kind):
    alone = saved_adapter(tmp_path/"adapter", llama, TAKEN[kind])
    base = Base.load(llama)
    bare = logits_of(base.model, base.tok)
    name = base.add_adapter(tmp_path/"adapter")
    other = base.add_adapter(lora(init_lora_weights=False))
    with base.using(name) as model:
        assert torch.allclose(logits_of(model, base.tok), alone, atol=1e-5)
    with base.using(other) as model:
        assert not torch.allclose(logits_of(model, base.tok), alone, atol=1e-2)
    assert torch.allclose(logits_of(base.model, base.tok), bare, atol=1e-6)
    base.remove_adapter(name)
    base.remove_adapter(other)
    assert torch.equal(logits_of(base.model, base.tok), bare) and not isinstance(base.model, PeftModel)


def test_an_adapter_of_another_model_or_half_an_adapter(tmp_path, llama):
    saved_adapter(tmp_path/"adapter", llama, lora())
    wider = Base.load(small_model(tmp_path/"wider", hidden_size=64))
    with pytest.raises(DataError, match="has no model.layers.0.self_attn.q_proj of that size"):
        wider.add_adapter(tmp_path/"adapter")
    base = Base.load(llama)
    config_file, weights_file = tmp_path/"adapter"/"adapter_config.json", tmp_path/"adapter"/"adapter_model.safetensors"
    config, weights = config_file.read_text(), weights_file.read_bytes()
    config_file.write_text(config.replace('"r": 4', '"r": 8'))
    with pytest.raises(DataError, match="says rank 8, adapter_model.safetensors has 4"):
        base.add_adapter(tmp_path/"adapter")
    config_file.write_text(config[:40])
    with pytest.raises(DataError, match="adapter_config.json can't be read"):
        base.add_adapter(tmp_path/"adapter")
    config_file.write_text(config)
    weights_file.write_bytes(weights[:400])
    with pytest.raises(DataError, match="adapter_model.safetensors can't be read"):
        base.add_adapter(tmp_path/"adapter")
    weights_file.unlink()
    with pytest.raises(DataError, match="no adapter_model.safetensors in"):
        base.add_adapter(tmp_path/"adapter")
    with pytest.raises(TypeError, match="the folder of a saved one"):
        base.add_adapter(3)
    assert not base.adapters and not isinstance(base.model, PeftModel)


def reply_of_transformers(model, tok, n=12):
    "Greedy decoding by transformers, in the form of `tok`"
    message = [dict(role="user", content=QUESTION)]
    prompt = tok.apply_chat_template(message, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=n, do_sample=False, pad_token_id=0)
    return tok.decode(ids[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True)


OWN_TEMPLATE = ("{% for m in messages %}## {{m.role}}:\n{{m.content}}<|im_end|>\n{% endfor %}"
                "{% if add_generation_prompt %}## assistant:\n{% endif %}")


@pytest.mark.parametrize("base_template", [CHATML, None])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_an_adapter_is_asked_in_the_form_in_which_it_was_trained(tmp_path, base_template, with_tokenizer):
    llama = small_model(tmp_path/"llama", template=base_template)
    saved_adapter(tmp_path/"adapter", llama, lora(target_modules="all-linear"))
    tok = small_tokenizer(OWN_TEMPLATE)
    if with_tokenizer:
        tok.save_pretrained(tmp_path/"adapter")
    else:
        (tmp_path/"adapter"/"chat_template.jinja").write_text(OWN_TEMPLATE)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path/"adapter")
    reply = LocalLLM(llama, adapter=tmp_path/"adapter").chat(QUESTION, max_tokens=12, temperature=0)
    assert reply == reply_of_transformers(model, tok)
    assert reply != LocalLLM(llama).chat(QUESTION, max_tokens=12, temperature=0)


def test_an_adapter_with_tokens_that_the_base_lacks(tmp_path, llama):
    saved_adapter(tmp_path/"adapter", llama, lora())
    tok = small_tokenizer(CHATML)
    tok.add_tokens("<tool>")
    tok.save_pretrained(tmp_path/"adapter")
    with pytest.raises(DataError, match="no weights, such as '<tool>'"):
        LocalLLM(llama, adapter=tmp_path/"adapter")
    small_tokenizer(CHATML, control=["<|other|>", "<|im_end|>", "<|im_start|>"]).save_pretrained(tmp_path/"adapter")
    with pytest.raises(DataError, match="other ids than that of llama"):
        LocalLLM(llama, adapter=tmp_path/"adapter")
    assert not LocalLLM(llama).base.adapters


def test_a_padding_token_without_a_row_is_replaced(tmp_path, llama):
    tok = small_tokenizer(CHATML)
    tok.add_special_tokens(dict(pad_token="[PAD]"))
    tok.save_pretrained(llama)
    base = Base.load(llama)
    assert base.tok.pad_token_id < base.model.get_input_embeddings().num_embeddings
    with base.using() as model:
        model(**base.tok(["When?", QUESTION], padding=True, return_tensors="pt"))


def test_a_token_without_a_row_is_refused(tmp_path, llama):
    tok = small_tokenizer(CHATML)
    tok.add_tokens("<tool>")
    tok.save_pretrained(llama)
    with pytest.raises(DataError, match="no weights, such as '<tool>': the embedding has 300 rows"):
        Base.load(llama)


def test_the_home_folder(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalLLM("~/llama").base is Base.load(llama) and model_type("~/llama") == "llama"
    saved_adapter(tmp_path/"adapter", llama, lora())
    assert LocalLLM(llama, adapter="~/adapter").to_dict()["adapter"] == str(tmp_path/"adapter")


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
@pytest.mark.parametrize("kind, file", [("llama", "tokenizer.model"), ("deberta-v2", "spm.model")])
def test_a_sentencepiece_tokenizer_names_the_package(tmp_path, kind, file):
    folder = tmp_path/kind
    small_model(folder, kind)
    for old in (folder/"tokenizer.json", folder/"tokenizer_config.json"):
        old.unlink()
    (folder/"tokenizer_config.json").write_text("{}")
    (folder/file).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(DataError, match="pip install sentencepiece protobuf"):
        Base.load(folder, "causal" if kind == "llama" else "classifier")


def test_a_model_without_a_tokenizer_is_not_told_to_install_a_package(tmp_path):
    folder = tmp_path/"llama"
    small_model(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match="as a tokenizer. Give 'town'"):
        Base.load(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "llama", "gpt2"])
def test_the_context_length_is_the_longest_text_that_can_be_read(tmp_path, kind):
    base = Base.load(small_model(tmp_path/kind, kind, max_position_embeddings=66), "classifier")
    base.model(torch.full((2, base.context_length), 7))
    if kind not in ("llama",):                              # rotary positions have no last one
        with pytest.raises((IndexError, RuntimeError)):
            base.model(torch.full((2, base.context_length+1), 7))
    assert 60 < base.context_length <= 66


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "llama"])
@pytest.mark.parametrize("n_labels", [1, 2, 3, 6])
def test_a_classifier_as_a_body_for_a_new_head_and_as_it_is(tmp_path, kind, n_labels):
    folder = small_model(tmp_path/kind, kind)
    hub = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=n_labels, pad_token_id=0).eval()
    hub.save_pretrained(folder)
    body, own = Base.load(folder, "classifier"), Base.load(folder, "classifier", labels="own")
    assert body is not own and [len(body.labels), len(own.labels)] == [2, n_labels]
    assert body.heads == (["score"] if kind == "llama" else ["classifier"]) + ["pre_classifier"]*(kind == "distilbert")
    text = own.tok(QUESTION, return_tensors="pt")
    text = {key: value for key, value in text.items() if key != "token_type_ids"}
    assert torch.allclose(own.model(**text).logits, hub(**text).logits, atol=1e-5)
    assert body.model(**text).logits.shape == (1, 2)


def test_a_model_that_can_not_write_says_so(tmp_path):
    for kind in ("bert", "roberta", "electra"):
        with pytest.raises(DataError, match=rf"is an encoder \({kind}\) and can't write text"):
            LocalLLM(small_model(tmp_path/kind, kind))
    headless = small_model(tmp_path/"headless", "llama")
    AutoModel.from_pretrained(headless).save_pretrained(headless)
    config = AutoConfig.from_pretrained(headless)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(headless)
    with pytest.raises(DataError, match="is no whole causal LM: its weights lack lm_head.weight"):
        LocalLLM(headless)
    (tmp_path/"t5").mkdir()
    AutoConfig.for_model("t5").save_pretrained(tmp_path/"t5")
    small_word_tokenizer().save_pretrained(tmp_path/"t5")
    with pytest.raises(DataError, match="can't load .*t5' as a causal model") as error:
        LocalLLM(tmp_path/"t5")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_base_lives_as_long_as_somebody_holds_it(llama):
    llm = LocalLLM(llama)
    llm.chat(QUESTION, max_tokens=2)
    weight = weakref.ref(llm.base.model.lm_head.weight)
    again = LocalLLM(llama)
    assert again.base is llm.base
    del llm, again
    gc.collect()
    assert weight() is None


def test_a_released_base_is_gone(llama):
    llm = LocalLLM(llama)
    reply = llm.chat(QUESTION, max_tokens=4, temperature=0)
    llm.base.release()
    with pytest.raises(DataError, match="'llama', released.* load it again with Base.load"):
        llm.chat(QUESTION, max_tokens=4)
    assert LocalLLM(llama).chat(QUESTION, max_tokens=4, temperature=0) == reply


def test_precisions_live_side_by_side(llama):
    exact, full, half = (Base.load(llama, dtype=dtype) for dtype in ("float64", None, torch.bfloat16))
    assert [base.dtype for base in (exact, full, half)] == [torch.float64, torch.float32, torch.bfloat16]
    assert exact.weights_hash == full.weights_hash == half.weights_hash
    name = half.add_adapter(lora(init_lora_weights=False))
    assert name not in full.adapters
    with pytest.raises(DataError, match="is no precision"):
        Base.load(llama, dtype="float99")
    with pytest.raises(ValueError, match="is not one of"):
        Base.load(llama, "encoder")
    with pytest.raises(ValueError, match="labels=0"):
        Base.load(llama, "classifier", labels=0)


def test_a_model_of_this_process(llama):
    base = Base(AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama))
    assert as_base(base) is base
    reply = LocalLLM(base).chat(QUESTION, max_tokens=4, temperature=0)
    assert reply == LocalLLM(llama).chat(QUESTION, max_tokens=4, temperature=0)
    with pytest.raises(DataError, match="was made in this process"):
        LocalLLM(base).to_dict()


def test_a_text_beyond_the_context_brings_no_warning_of_transformers(caplog):
    tok = Base.load("town").tok
    long_text = "The library opens at nine. "*2000
    assert len(tok(long_text).input_ids) > tok.model_max_length
    assert "indexing errors" not in caplog.text
    tok.deprecation_warnings.clear()
    tok(long_text)
    assert "indexing errors" in caplog.text         # what a user would have seen
    tok.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
