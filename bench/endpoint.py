"""How much of a server's throughput does `Endpoint` reach? It is compared to a bare asynchronous client, on the same
server, in one run, in turns.

    python bench/endpoint.py

The server takes 50 ms a call and serves 16 at a time, as a busy LLM server does with its slots: 320 calls a second is
all it has."""
import asyncio
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/"tests"))
from server import serving

CALLS, SLOTS, DELAY, ROUNDS = 1200, 16, .05, 5


def serve(url_queue, stop):
    with serving(delay=DELAY, slots=SLOTS) as server:
        url_queue.put(server.url)
        stop.wait()


async def ask_bare(client, prompts):
    "As little as an asynchronous client can do: one `openai` client in all rounds; no retry, no accounting, no check"
    gate = asyncio.Semaphore(2*SLOTS)

    async def ask(seed, prompt):
        settings = dict(model="scribe", max_tokens=64, temperature=1., seed=seed)
        async with gate:
            response = await client.chat.completions.create(messages=[dict(role="user", content=prompt)], **settings)
            return response.choices[0].message.content

    return await asyncio.gather(*(ask(seed, prompt) for seed, prompt in enumerate(prompts)))


def timed(function):
    "What a function returns, and the calls a second"
    start = time.perf_counter()
    replies = function()
    return replies, CALLS/(time.perf_counter() - start)


def compare(url):
    "The fraction of the bare client's throughput in each round"
    import openai
    from aligners_nb.endpoint import Endpoint
    prompts, fractions = [f"question {i}" for i in range(CALLS)], []
    llm = Endpoint(url, concurrency=2*SLOTS)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    with asyncio.Runner() as loop:
        llm.chat(prompts[:64])
        loop.run(ask_bare(client, prompts[:64]))
        for _ in range(ROUNDS):
            bare_replies, bare_rate = timed(lambda: loop.run(ask_bare(client, prompts)))
            replies, rate = timed(lambda: llm.chat(prompts, max_tokens=64, seed=range(CALLS)))
            assert replies == bare_replies
            fractions.append(rate/bare_rate)
            print(f"bare {bare_rate:6.1f} calls/s   Endpoint {rate:6.1f} calls/s   {fractions[-1]:.3f}", flush=True)
        loop.run(client.close())
    return fractions


def main():
    context = multiprocessing.get_context("spawn")
    url_queue, stop = context.Queue(), context.Event()
    process = context.Process(target=serve, args=(url_queue, stop))
    process.start()
    fractions = compare(url_queue.get())
    print(f"Endpoint reaches {statistics.median(fractions):.1%} of the bare client's throughput (median of {ROUNDS}, "
          f"{min(fractions):.1%} to {max(fractions):.1%})")
    stop.set()
    process.join()


if __name__ == "__main__":
    main()
