"A deterministic OpenAI-compatible server on loopback that writes as a scripted LLM would, and misbehaves on request"
import hashlib
import json
import random
import threading
import time
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ("amber birch cedar delta ember fjord grove heron ivory jolly kiosk lemon maple north olive pearl quilt river "
         "stone tulip umber viola woods yacht").split()
FAULTS = "busy busy_until error hang cut half_json empty wrong_role endless".split()
MODELS = dict(object="list", data=[dict(id="scribe", object="model", created=0, owned_by="tests")])


def scripted(prompt, seed=0):
    "Topics, questions or a draft; the same for the same prompt and seed"
    rng = random.Random(hashlib.sha256(f"{seed}|{prompt}".encode()).hexdigest())

    def two_words():
        return " ".join(rng.sample(WORDS, 2)).capitalize()

    if "New topics:" in prompt:
        return "".join(f" {two_words()}\n-" for _ in range(10))
    if "Questions:\n" in prompt:
        hints = prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines()
        return "\n".join(f"{hint} | What should I know about {hint.split(' | ')[1].lower()} and {two_words().lower()}?"
                         for hint in hints)
    if prompt.endswith("Response:"):
        return (f" It is {two_words().lower()}, as any fool knows.\nCritique: It insults the reader.\n"
                f"Correction: It is {two_words().lower()}.")
    return f"You asked about {prompt[-40:]!r}: {two_words().lower()}."


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        "Log nothing"

    def send(self, status, content, headers=(), length=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_body(self, status, body, headers={}):
        text = body if isinstance(body, str) else json.dumps(body)
        self.send(status, text.encode(), headers.items())

    def do_GET(self):
        self.send_body(*(self.server.models or (200, MODELS)))

    def do_POST(self):
        server = self.server
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number, fault = server.note(call, self.path, self.headers["Authorization"])
        if server.delay:
            server.work()
        if server.script:
            self.send_body(*server.script(dict(call, path=self.path), number))
        else:
            try:
                self.answer(call, fault)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has given up

    def answer(self, call, fault):
        if fault == "picky":  # turns one prompt in ten down, always the same
            asked = json.dumps(call.get("messages") or call["prompt"])
            fault = None if zlib.crc32(asked.encode()) % 10 else "echo"
        if fault == "hang":
            time.sleep(self.server.hang)
        content = json.dumps(reply_body(call, fault)).encode()
        if fault == "busy":
            self.send(429, b"{}")
        elif fault == "busy_until":
            self.send(429, b"{}", [("Retry-After", "0.2")])
        elif fault == "echo":
            self.send_body(400, dict(error=dict(message=f"bad call by {self.headers['Authorization']}")))
        elif fault == "error":
            self.send(500, b"oh no")
        elif fault == "half_json":
            self.send(200, content[:len(content)//2])
        elif fault == "empty":
            self.send(200, b"")
        elif fault == "cut":
            self.send(200, content[:9], length=len(content))
            self.close_connection = True
        else:
            self.send(200, content)


def reply_body(call, fault):
    "What a server sends as the reply to a chat or a completion"
    is_chat = "messages" in call
    text = scripted(call["messages"][-1]["content"] if is_chat else call["prompt"], call.get("seed") or 0)
    if is_chat and "response_format" in call:
        fields = call["response_format"]["json_schema"]["schema"]["required"]
        text = json.dumps({field: f"{field} {text[-20:]}" for field in fields})
    if fault == "endless":
        text = "a" * 5_000_000
    choice = dict(index=0, finish_reason="stop")
    if is_chat:
        choice["message"] = dict(role="user" if fault == "wrong_role" else "assistant", content=text)
    else:
        choice.update(text=None if fault == "wrong_role" else text, logprobs=None)
    return dict(id="x", created=0, model="scribe", object="chat.completion" if is_chat else "text_completion",
                choices=[choice], usage=dict(prompt_tokens=10, completion_tokens=5, total_tokens=15))


class Server(ThreadingHTTPServer):
    request_queue_size, daemon_threads = 256, True

    def __init__(self, share, faults, seed, hang, delay, slots, script, models):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.share, self.faults, self.rng, self.hang = share, faults, random.Random(seed), hang
        self.delay, self.slots, self.script, self.models = delay, threading.Semaphore(slots), script, models
        self.lock = threading.Lock()
        self.calls = []       # each with its time (`at`), its path and the key that came with it
        self.counts = {}      # fault → how often
        self.n_working = 0    # calls under way, counted only with a delay
        self.most = 0         # the most of them at a time

    def note(self, call, path, key):
        "Record a call; its number, and the fault that it meets"
        with self.lock:
            number = len(self.calls)
            self.calls.append(dict(call, at=time.monotonic(), path=path, key=key))
            fault = self.rng.choice(self.faults) if self.rng.random() < self.share else None
            self.counts[fault] = self.counts.get(fault, 0) + 1
        return number, fault

    def work(self):
        "Take the time of a call, in one of the slots"
        with self.lock:
            self.n_working += 1
            self.most = max(self.most, self.n_working)
        with self.slots:
            time.sleep(self.delay)
        with self.lock:
            self.n_working -= 1


@contextmanager
def serving(share=0., faults=FAULTS, seed=0, hang=3., delay=0., slots=16, script=None, models=None):
    """A server whose `.url` answers. A fraction `share` of its calls goes wrong in one of the ways in `faults`.
    Or `script` takes a call and its number and gives status, body (and headers); `models` are those of the list."""
    server = Server(share, faults, seed, hang, delay, slots, script, models)
    threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
