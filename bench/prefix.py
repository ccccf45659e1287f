"""How much does a shared prefix save? The engine of `LocalLLM`, plain padded `generate`, and continuous batching of
transformers (`generate_batch`) take turns in one run, with the same model, prompts and precision.

    python bench/prefix.py [--device cuda] [--only-town] [--rounds 3]

The 32 prompts have 500 shared and 30 own tokens; each greedy reply has 60 new tokens. "Decoding alone" is the time
of the steps after the first, one token each, with the prompts in a growing cache of their own: the part of a call that
reading prompts faster cannot shorten."""
import argparse
import statistics
import time
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from aligners_nb.base import Base
from aligners_nb.decode import generate, logits_of, n_equal, new_cache

N_SHARED, N_OWN, N_NEW, N_PROMPTS = 500, 30, 60, 32   # tokens, tokens, tokens, prompts


def now(model):
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def plain(model, prompts, n_new):
    "`model.generate`, which reads the prefix in each row"
    ids = torch.tensor(prompts, device=model.device)   # (prompts, seq)
    whole = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n_new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0)
    return whole[:, ids.shape[1]:].tolist()


def continuous(model, prompts, n_new):
    "transformers' continuous batching"
    attention = model.config._attn_implementation
    config = GenerationConfig(max_new_tokens=n_new, do_sample=False, eos_token_id=-1, pad_token_id=0, bos_token_id=1)
    outputs = model.generate_batch(inputs=prompts, generation_config=config, warmup=False)
    model.set_attn_implementation(attention)
    return [outputs[f"req_{i}"].generated_tokens for i in range(len(prompts))]


@torch.inference_mode()
def seconds_of_decoding(model, prompts, n_new):
    "Seconds for the steps of one token, when the prompts are in the cache and the first new token is known"
    cache, mask = new_cache(model), torch.ones(len(prompts), len(prompts[0]), dtype=torch.long, device=model.device)
    logits = logits_of(model, torch.tensor(prompts, device=model.device), cache, logits_to_keep=1)
    start = now(model)
    for _ in range(n_new-1):
        tokens = logits[:, -1].argmax(-1)[:, None]     # (prompts, 1)
        tokens.tolist()                                # the engine looks at each token too
        positions = torch.full_like(tokens, mask.shape[1])
        mask = torch.cat([mask, mask[:, :1]], -1)
        logits = logits_of(model, tokens, cache, position_ids=positions, attention_mask=mask, logits_to_keep=1)
    logits[:, -1].argmax(-1).tolist()
    return now(model)-start


@torch.inference_mode()
def near_ties(model, prompts, replies, others):
    "For each two replies that differ: the gap between the two best logits where they part"
    gaps = []
    for prompt, reply, other in zip(prompts, replies, others):
        if reply == other:
            continue
        n_same = n_equal(reply, other)
        ids = torch.tensor([prompt+reply[:n_same]], device=model.device)
        best, second = model(ids).logits[0, -1].float().topk(2).values
        gaps.append((best-second).item())
    return gaps


class Timer:
    "Seconds of calls, by name"
    def __init__(self, model):
        self.model, self.seconds = model, {}

    def __call__(self, name, function, *args, **settings):
        start = now(self.model)
        result = function(self.model, *args, **settings)
        self.seconds.setdefault(name, []).append(now(self.model)-start)
        return result

    def medians(self):
        return {name: statistics.median(seconds) for name, seconds in self.seconds.items()}


def random_prompts(model, n_shared):
    generator = torch.Generator().manual_seed(0)
    n_own = N_SHARED+N_OWN-n_shared

    def draw(n):
        return torch.randint(6, model.config.vocab_size, (n,), generator=generator).tolist()
    shared = draw(n_shared)
    return [shared+draw(n_own) for _ in range(N_PROMPTS)]


def measure(name, model, rounds, n_shared=N_SHARED):
    prompts, prefixes, timer = random_prompts(model, n_shared), {}, Timer(model)
    generate(model, prompts, 2, batch_size=N_PROMPTS, prefixes=prefixes)     # the first calls are slower
    plain(model, prompts, 2)
    continuous(model, prompts, 2)
    seconds_of_decoding(model, prompts, 2)
    for _ in range(rounds):
        replies = timer("plain", plain, prompts, N_NEW)
        from_batching = timer("continuous", continuous, prompts, N_NEW)
        first = timer("first", generate, prompts, N_NEW, batch_size=N_PROMPTS)
        again = timer("again", generate, prompts, N_NEW, batch_size=N_PROMPTS, prefixes=prefixes)
        assert first == again, "a kept prefix changed a reply"
        timer("prefill_plain", plain, prompts, 1)
        timer("prefill_again", generate, prompts, 1, batch_size=N_PROMPTS, prefixes=prefixes)
        timer.seconds.setdefault("decoding", []).append(seconds_of_decoding(model, prompts, N_NEW))
    report(name, model, n_shared, timer.medians())
    gaps = near_ties(model, prompts, replies, again)
    n_same = sum(reply == other for reply, other in zip(replies, from_batching))
    print(f"  the same reply as plain generate: continuous batching {n_same} of {N_PROMPTS} rows, "
          f"the engine {N_PROMPTS-len(gaps)}")
    if gaps:
        print(f"  where the engine's replies part, the two best logits are {max(gaps):.1e} apart or less", flush=True)


def report(name, model, n_shared, seconds):
    "The median times and their ratios"
    millions = sum(weight.numel() for weight in model.parameters())/1e6
    dtype = str(model.dtype).removeprefix("torch.")
    print(f"\n{name}: {millions:.0f} M parameters, {n_shared} of {N_SHARED+N_OWN} tokens shared, "
          f"{dtype}, {model.device.type}")
    for kind, number in seconds.items():
        print(f"  {kind:14}{number:8.3f} s")
    faster = seconds["prefill_plain"]/seconds["prefill_again"]
    print(f"  the prompts are read {faster:.1f} × as fast as by plain generate")
    print(f"  the whole call takes {seconds['again']/seconds['decoding']:.2f} × the time of decoding alone")
    print(f"  it is {seconds['plain']/seconds['again']:.2f} × as fast as plain generate "
          f"({seconds['plain']/seconds['first']:.2f} × where the prefix is new), "
          f"{seconds['continuous']/seconds['again']:.2f} × as fast as continuous batching", flush=True)


def random_llama(device):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        max_position_embeddings=2048,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12)
    return LlamaForCausalLM(config).to(device).eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only-town", action="store_true", help="leave out the larger random Llama")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    town = Base.load("town", device=args.device).model
    measure("the embedded LM", town, args.rounds)
    if not args.only_town:
        measure("a random Llama", random_llama(args.device), args.rounds)
    measure("the embedded LM, nothing shared", town, args.rounds, n_shared=0)
