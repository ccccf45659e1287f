"A GGUF file is a base like any other: its weights, its tokenizer and its chat template are the model's"
import gguf
import json
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from aligners_nb import base as base_module
from aligners_nb.base import Base, model_type, small_model
from aligners_nb.criterion import DataError
from aligners_nb.dialogue import CHATML
from aligners_nb.local import LocalLLM, as_llm

# where llama.cpp keeps the weights of a Llama's layer
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QUESTION = "When does the library open?"


def gguf_name(name):
    "The name that llama.cpp gives a parameter of transformers' Llama"
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, part, _ = name.replace("self_attn.", "self_attn/").replace("mlp.", "mlp/").split(".")
    return f"blk.{layer}.{LAYER_NAMES[part.replace('/', '.')]}.weight"


def permuted(weight, n_heads):
    "The rows of a query or key matrix in llama.cpp's order, which turns neighbours where transformers turns halves"
    n_rows, n_columns = weight.shape
    halves = weight.reshape(n_heads, 2, n_rows//n_heads//2, n_columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(n_rows, n_columns))


def write_gguf(folder, file, quantization):  # noqa: PLR0915 (one field of the file a line)
    "The model of `folder` as one GGUF file"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    tokens = tok.convert_ids_to_tokens(range(len(tok)))
    control = set(tok.all_special_tokens) | set(tok.get_added_vocab())
    types = [gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges(tok)])
    writer.add_eos_token_id(tok.eos_token_id)
    writer.add_pad_token_id(tok.pad_token_id)
    writer.add_chat_template(tok.chat_template)
    for name, parameter in model.state_dict().items():
        weight = parameter.float().numpy()
        if "q_proj" in name:
            weight = permuted(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = permuted(weight, config.num_key_value_heads)
        kind = quantization if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def merges(tok):
    "The merges of a byte-level BPE tokenizer"
    return json.loads(tok.backend_tokenizer.to_str())["model"]["merges"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models")/"llama", template=CHATML)


@pytest.fixture(scope="module", params=["F32", "F16", "Q8_0"])
def gguf_file(request, source, tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf")/f"small-{request.param}.gguf"
    write_gguf(source, file, gguf.GGMLQuantizationType[request.param])
    return file


# the largest relative difference of logits that the precision of the weights explains
TOLERANCES = dict(F32=1e-5, F16=2e-3, Q8_0=.05)


def test_the_logits_are_the_sources_within_the_precision_of_the_file(source, gguf_file):
    assert model_type(gguf_file) == "llama"
    want, got = Base.load(source), Base.load(gguf_file)
    ids = want.tok(QUESTION, return_tensors="pt")["input_ids"]
    assert got.tok(QUESTION)["input_ids"] == ids[0].tolist()
    assert got.tok.chat_template == want.tok.chat_template and got.context_length == want.context_length
    with want.using() as model:
        want_logits = model(ids).logits
    with got.using() as model:
        got_logits = model(ids).logits
    difference = (got_logits-want_logits).norm() / want_logits.norm()
    tolerance = TOLERANCES[gguf_file.stem.split("-")[1]]
    assert difference < tolerance
    assert tolerance < 1e-4 or difference > 0, "a quantised file can't be exact: was the right file read?"


def test_it_chats(source, gguf_file):
    llm = LocalLLM(gguf_file)
    reply = llm.chat(QUESTION, max_tokens=8, temperature=0)
    assert llm.name == gguf_file.name and llm.usage.completion_tokens == 8
    if "F32" in gguf_file.name:
        assert reply == LocalLLM(source).chat(QUESTION, max_tokens=8, temperature=0)
    again = as_llm(llm.to_dict())
    assert again.base is llm.base and again.chat(QUESTION, max_tokens=8, temperature=0) == reply


def test_an_adapter_learns_on_it_and_comes_back(gguf_file, tmp_path):
    base = Base.load(gguf_file)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    base.add_adapter(config, "pupil", trainable=True)
    ids = base.tok(QUESTION, return_tensors="pt")["input_ids"]
    with base.using("pupil") as model:
        optimizer = torch.optim.Adam(base.adapter_parameters("pupil").values(), lr=1e-2)
        losses = []
        for _ in range(5):
            loss = model(ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        model.save_pretrained(tmp_path, selected_adapters=["pupil"])
    assert losses[-1] < losses[0]
    reply = LocalLLM(base, adapter="pupil").chat(QUESTION, max_tokens=8, temperature=0)
    assert LocalLLM(gguf_file, adapter=tmp_path/"pupil").chat(QUESTION, max_tokens=8, temperature=0) == reply
    base.remove_adapter("pupil")


def test_it_saves_as_an_ordinary_model(gguf_file, tmp_path):
    base = Base.load(gguf_file)
    for name in list(base.adapters):
        base.remove_adapter(name)
    base.model.save_pretrained(tmp_path/"copy")
    base.tok.save_pretrained(tmp_path/"copy")
    copy = Base.load(tmp_path/"copy")
    assert copy is not base and copy.weights_hash == base.weights_hash
    assert (tmp_path/"copy"/"model.safetensors").is_file()


def test_without_the_package_the_error_says_what_to_install(source, tmp_path, monkeypatch):
    file = tmp_path/"model.gguf"
    write_gguf(source, file, gguf.GGMLQuantizationType.F16)
    find_spec = base_module.importlib.util.find_spec

    def find_all_but_gguf(name):
        return None if name == "gguf" else find_spec(name)

    monkeypatch.setattr(base_module.importlib.util, "find_spec", find_all_but_gguf)
    with pytest.raises(DataError, match=r"pip install 'aligners-nb\[gguf\]'"):
        Base.load(file)


@pytest.mark.parametrize("n_bytes", [4, 500, 12_000, 60_000])
def test_a_broken_file_is_one_line(source, tmp_path, n_bytes):
    file = tmp_path/"broken.gguf"
    write_gguf(source, file, gguf.GGMLQuantizationType.F16)
    assert file.stat().st_size > n_bytes
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(DataError, match="can't load .*broken.gguf") as error:
        Base.load(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match="no file lies at"):
        Base.load(tmp_path/"missing.gguf")
