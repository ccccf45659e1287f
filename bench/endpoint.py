"""How much of a server's throughput does `Endpoint` reach? Against a bare asynchronous client, on the same server, in one run, in turns.

    python bench/endpoint.py

The server takes 50 ms a call and serves 16 at a time, as a busy LLM server does with its slots: 320 calls a second is all it has."""
import asyncio, multiprocessing, statistics, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/"tests"))
from server import serving

CALLS, SLOTS, DELAY, ROUNDS = 1200, 16, .05, 5

def serve(url, stop):
    with serving(delay=DELAY, slots=SLOTS) as s: url.put(s.url); stop.wait()

async def bare(client, prompts):
    "As little as an asynchronous client can do: the same `openai` client, kept over all rounds; no retry, no accounting, no check"
    gate = asyncio.Semaphore(2*SLOTS)
    async def one(i, p):
        ask = dict(model="scribe", messages=[dict(role="user", content=p)], max_tokens=64, temperature=1., seed=i)
        async with gate: return (await client.chat.completions.create(**ask)).choices[0].message.content
    return await asyncio.gather(*(one(i, p) for i, p in enumerate(prompts)))

def main():
    import openai
    from aligners_nb.endpoint import Endpoint
    ctx = multiprocessing.get_context("spawn"); q, stop = ctx.Queue(), ctx.Event()
    p = ctx.Process(target=serve, args=(q, stop)); p.start(); url = q.get()
    prompts, ratios = [f"question {i}" for i in range(CALLS)], []
    llm, client = Endpoint(url, concurrency=2*SLOTS), openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    with asyncio.Runner() as loop:
        llm.chat(prompts[:64]); loop.run(bare(client, prompts[:64]))
        for _ in range(ROUNDS):
            t = time.perf_counter(); a = loop.run(bare(client, prompts))
            t1 = time.perf_counter(); b = llm.chat(prompts, max_tokens=64, seed=range(CALLS)); t2 = time.perf_counter()
            assert a == b; ratios.append((t1-t)/(t2-t1))
            print(f"bare {CALLS/(t1-t):6.1f} calls/s   Endpoint {CALLS/(t2-t1):6.1f} calls/s   {ratios[-1]:.3f}", flush=True)
        loop.run(client.close())
    print(f"Endpoint reaches {statistics.median(ratios):.1%} of the bare client's throughput (median of {ROUNDS}, "
          f"{min(ratios):.1%} to {max(ratios):.1%})")
    stop.set(); p.join()

if __name__ == "__main__": main()
