"""What does a shared beginning save? `LocalLLM`'s engine against plain padded `generate` and against transformers' continuous batching (`generate_batch`), the same model, prompts and precision, in one run, in turns.

    python bench/prefix.py [--device cuda]

Prompts of 500 shared and 30 own tokens, 60 new tokens, 32 prompts, greedy. "Decoding alone" is one step for each new token but the first, on the engine's own growing cache that repeats the prompt for each row, and nothing else."""
import argparse, statistics, time, torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from aligners_nb.decode import _cache, _held, generate
from aligners_nb.local import load

SHARED, OWN, NEW, BATCH, ROUNDS = 500, 30, 60, 32, 3

def plain(model, ids, new):
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)[:, ids.shape[1]:].tolist()

def continuous(model, prompts, new):
    how = model.config._attn_implementation
    res = model.generate_batch(inputs=prompts, generation_config=GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0, bos_token_id=1), warmup=False)
    model.set_attn_implementation(how)
    return [res[f"req_{i}"].generated_tokens for i in range(len(prompts))]

@torch.inference_mode()
def decoding(model, ids, new):
    "Seconds for the steps of one token, with the prompt's keys and values and the first new token at hand"
    held, mask = _held(model, _cache(model)), torch.ones_like(ids)
    x = model(input_ids=ids, logits_to_keep=1, **held).logits[:, -1].argmax(-1)[:, None]; pos = torch.full_like(x, ids.shape[1])
    t = clock(model)
    for k in range(new-1):
        mask = torch.cat([mask, mask[:, :1]], -1)
        x = model(input_ids=x, position_ids=pos+k, attention_mask=mask, logits_to_keep=1, **held).logits[:, -1].argmax(-1)[:, None]; x.tolist()
    return clock(model)-t

def clock(model):
    if model.device.type == "cuda": torch.cuda.synchronize()
    return time.perf_counter()

def near_ties(model, prompts, a, b):
    "Rows that differ, and the gap between the two best logits where they part"
    res = []
    for p, x, y in zip(prompts, a, b):
        if x == y: continue
        k = next(i for i, (u, v) in enumerate(zip(x, y)) if u != v)
        with torch.inference_mode(): top = model(torch.tensor([p+x[:k]], device=model.device)).logits[0, -1].float().topk(2).values
        res.append((top[0]-top[1]).item())
    return res

def measure(name, model, shared=SHARED):
    g = torch.Generator().manual_seed(0); V = model.config.vocab_size; draw = lambda n: torch.randint(6, V, (n,), generator=g).tolist()
    head = draw(shared); prompts = [head+draw(SHARED+OWN-shared) for _ in range(BATCH)]; ids = torch.tensor(prompts, device=model.device); kept = {}
    generate(model, prompts, 2, batch_size=BATCH, prefixes=kept); plain(model, ids, 2); continuous(model, prompts, 2); decoding(model, ids, 2)
    rows = dict(plain=[], continuous=[], first=[], again=[], prefill_plain=[], prefill_again=[], decoding=[])
    for _ in range(ROUNDS):
        def timed(k, f): t = clock(model); r = f(); rows[k].append(clock(model)-t); return r
        a = timed("plain", lambda: plain(model, ids, NEW)); d = timed("continuous", lambda: continuous(model, prompts, NEW)); b = timed("first", lambda: generate(model, prompts, NEW, batch_size=BATCH)); c = timed("again", lambda: generate(model, prompts, NEW, batch_size=BATCH, prefixes=kept))
        timed("prefill_plain", lambda: plain(model, ids, 1)); timed("prefill_again", lambda: generate(model, prompts, 1, batch_size=BATCH, prefixes=kept))
        rows["decoding"].append(decoding(model, ids, NEW)); assert b == c
    m = {k: statistics.median(v) for k, v in rows.items()}; gaps = near_ties(model, prompts, a, b)
    print(f"\n{name}: {sum(p.numel() for p in model.parameters())/1e6:.0f} M parameters, {shared} of {SHARED+OWN} tokens shared, {str(model.dtype)[6:]}, {model.device.type}")
    for k, v in m.items(): print(f"  {k:14}{v:8.3f} s")
    print(f"  the prompt's processing {m['prefill_plain']/m['prefill_again']:.1f} × cheaper; the whole call {m['plain']/m['again']:.2f} × as fast ({m['plain']/m['first']:.2f} × where the beginning is new); {m['again']/m['decoding']:.2f} × decoding alone")
    print(f"  {m['continuous']/m['again']:.2f} × as fast as continuous batching, which gives {sum(x == y for x, y in zip(a, d))} of {BATCH} rows as plain generate")
    print(f"  {BATCH-len(gaps)} of {BATCH} rows the same; where others part the two best logits are {max(gaps):.1e} apart or less" if gaps else f"  all {BATCH} rows the same", flush=True)

if __name__ == "__main__":
    ap = argparse.ArgumentParser(); ap.add_argument("--device", default="cpu"); ap.add_argument("--threads", type=int, default=0); a = ap.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    big = LlamaForCausalLM(LlamaConfig(vocab_size=8192, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=2048)).to(a.device).eval()
    town = load("town", device=a.device)[0]
    for name, model in (("the embedded LM", town), ("a random Llama", big)): measure(name, model)
    measure("the embedded LM, nothing shared", town, 0)
