"""What does a shared beginning save? `LocalLLM`'s engine against plain padded `generate` and against transformers' continuous batching
(`generate_batch`), the same model, prompts and precision, in one run, in turns.

    python bench/prefix.py [--device cuda]

Prompts of 500 shared and 30 own tokens, 60 new tokens, 32 prompts, greedy. "Decoding alone" is one step for each new token but the first, on
the engine's own growing cache that repeats the prompt for each row, and nothing else."""
import argparse, statistics, time, torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from aligners_nb.decode import _cache, _held, generate
from aligners_nb.base import Base

SHARED, OWN, NEW, BATCH, ROUNDS = 500, 30, 60, 32, 3

def plain(model, ids, new):
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[:, ids.shape[1]:].tolist()

def continuous(model, prompts, new):
    how = model.config._attn_implementation
    config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0, bos_token_id=1)
    res = model.generate_batch(inputs=prompts, generation_config=config, warmup=False)
    model.set_attn_implementation(how)
    return [res[f"req_{i}"].generated_tokens for i in range(len(prompts))]

@torch.inference_mode()
def decoding(model, ids, new):
    "Seconds for the steps of one token, with the prompt's keys and values and the first new token at hand"
    held, mask = _held(model, _cache(model)), torch.ones_like(ids)
    best = lambda **step: model(**step, logits_to_keep=1, **held).logits[:, -1].argmax(-1)[:, None]     # (batch, 1)
    x = best(input_ids=ids); pos = torch.full_like(x, ids.shape[1])
    t = clock(model)
    for k in range(new-1):
        mask = torch.cat([mask, mask[:, :1]], -1)
        x = best(input_ids=x, position_ids=pos+k, attention_mask=mask); x.tolist()
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
        with torch.inference_mode(): logits = model(torch.tensor([p+x[:k]], device=model.device)).logits[0, -1]
        top = logits.float().topk(2).values
        res.append((top[0]-top[1]).item())
    return res

def measure(name, model, shared=SHARED):
    g = torch.Generator().manual_seed(0); V = model.config.vocab_size; draw = lambda n: torch.randint(6, V, (n,), generator=g).tolist()
    head = draw(shared); prompts = [head+draw(SHARED+OWN-shared) for _ in range(BATCH)]; ids = torch.tensor(prompts, device=model.device)
    kept, times = {}, {}
    ours = lambda new, kept=None: generate(model, prompts, new, batch_size=BATCH, prefixes=kept)
    def timed(k, f, *args):
        t = clock(model); r = f(*args); times.setdefault(k, []).append(clock(model)-t); return r
    ours(2, kept); plain(model, ids, 2); continuous(model, prompts, 2); decoding(model, ids, 2)     # warm
    for _ in range(ROUNDS):
        a, d = timed("plain", plain, model, ids, NEW), timed("continuous", continuous, model, prompts, NEW)
        b, c = timed("first", ours, NEW), timed("again", ours, NEW, kept); assert b == c
        timed("prefill_plain", plain, model, ids, 1); timed("prefill_again", ours, 1, kept)
        times.setdefault("decoding", []).append(decoding(model, ids, NEW))
    say(name, model, shared, {k: statistics.median(v) for k, v in times.items()})
    gaps, same = near_ties(model, prompts, a, b), sum(x == y for x, y in zip(a, d))
    print(f"  continuous batching gives {same} of {BATCH} rows as plain generate, the engine {BATCH-len(gaps)}"
          + (f"; where they part the two best logits are {max(gaps):.1e} apart or less" if gaps else ""), flush=True)

def say(name, model, shared, m):
    "The median times and their ratios"
    size = sum(p.numel() for p in model.parameters())/1e6
    print(f"\n{name}: {size:.0f} M parameters, {shared} of {SHARED+OWN} tokens shared, {str(model.dtype)[6:]}, {model.device.type}")
    for k, v in m.items(): print(f"  {k:14}{v:8.3f} s")
    print(f"  the prompt's processing {m['prefill_plain']/m['prefill_again']:.1f} × cheaper; {m['again']/m['decoding']:.2f} × decoding alone")
    print(f"  the whole call {m['plain']/m['again']:.2f} × as fast as plain generate ({m['plain']/m['first']:.2f} × where the beginning is new), "
          f"{m['continuous']/m['again']:.2f} × as fast as continuous batching")

if __name__ == "__main__":
    ap = argparse.ArgumentParser(); ap.add_argument("--device", default="cpu"); a = ap.parse_args()
    torch.manual_seed(0)
    size = dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12)
    big = LlamaForCausalLM(LlamaConfig(vocab_size=8192, max_position_embeddings=2048, **size)).to(a.device).eval()
    town = Base.load("town", device=a.device).model
    for name, model in (("the embedded LM", town), ("a random Llama", big)): measure(name, model)
    measure("the embedded LM, nothing shared", town, 0)
