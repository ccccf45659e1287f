"A deterministic OpenAI-compatible server on loopback that writes as a scripted LLM would, and misbehaves on request"
import hashlib, json, random, threading, time, zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = "amber birch cedar delta ember fjord grove heron ivory jolly kiosk lemon maple north olive pearl quilt river stone tulip umber viola woods yacht".split()

def scripted(prompt, seed=0):
    "What the LLM writes: topics, questions, drafts; the same for the same prompt and seed"
    rng = random.Random(hashlib.sha256(f"{seed}|{prompt}".encode()).hexdigest()); some = lambda: " ".join(rng.sample(WORDS, 2)).capitalize()
    if "New topics:" in prompt: return "".join(f" {some()}\n-" for _ in range(10))
    if "Questions:\n" in prompt: return "\n".join(f"{l} | What should I know about {l.split(' | ')[1].lower()} and {some().lower()}?" for l in prompt.split("Hints:\n")[1].split("\n\n")[0].splitlines())
    if prompt.endswith("Response:"): return f" It is {some().lower()}, as any fool knows.\nCritique: It insults the reader.\nCorrection: It is {some().lower()}."
    return f"You asked about {prompt[-40:]!r}: {some().lower()}."

FAULTS = "busy busy_until error hang cut half_json empty wrong_role endless".split()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def send(self, code, body, headers=(), length=None):
        self.send_response(code)
        for k, v in [("Content-Type", "application/json"), ("Content-Length", str(len(body) if length is None else length)), *headers]: self.send_header(k, v)
        self.end_headers(); self.wfile.write(body)
    def say(self, code, body, headers={}): self.send(code, body.encode() if isinstance(body, str) else json.dumps(body).encode(), headers.items())
    def do_GET(self): self.say(*(self.server.models or (200, dict(object="list", data=[dict(id="scribe", object="model", created=0, owned_by="tests")]))))
    def do_POST(self):
        s = self.server; d = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with s.lock: n = len(s.calls); s.calls.append(dict(d, at=time.monotonic(), path=self.path)); fault = s.rng.choice(s.faults) if s.rng.random() < s.share else None; s.counts[fault] = s.counts.get(fault, 0)+1
        if s.delay:
            with s.lock: s.now += 1; s.most = max(s.most, s.now)
            with s.slots: time.sleep(s.delay)
            with s.lock: s.now -= 1
        if s.script: return self.say(*s.script(dict(d, path=self.path), n))
        chat = "messages" in d; text = scripted(d["messages"][-1]["content"] if chat else d["prompt"], d.get("seed") or 0)
        if fault == "picky": fault = None if zlib.crc32(json.dumps(d.get("messages") or d["prompt"]).encode())%10 else "echo"   # turns one prompt in ten down, always the same
        if fault == "busy": return self.send(429, b"{}")
        if fault == "busy_until": return self.send(429, b"{}", [("Retry-After", "0.2")])
        if fault == "echo": return self.send(400, json.dumps(dict(error=dict(message=f"bad call by {self.headers['Authorization']}"))).encode())
        if fault == "error": return self.send(500, b"oh no")
        if fault == "hang": time.sleep(s.hang)
        if chat and "response_format" in d: text = json.dumps({k: f"{k} {text[-20:]}" for k in d["response_format"]["json_schema"]["schema"]["required"]})
        if fault == "endless": text = "a" * 5_000_000
        c = dict(index=0, finish_reason="stop", message=dict(role="user" if fault == "wrong_role" else "assistant", content=text)) if chat else dict(index=0, finish_reason="stop", text=None if fault == "wrong_role" else text, logprobs=None)
        body = json.dumps(dict(id="x", created=0, model="scribe", object="chat.completion" if chat else "text_completion", choices=[c], usage=dict(prompt_tokens=10, completion_tokens=5, total_tokens=15))).encode()
        try:
            if fault == "half_json": return self.send(200, body[:len(body)//2])
            if fault == "empty": return self.send(200, b"")
            if fault == "cut": self.send(200, body[:9], length=len(body)); self.close_connection = True; return
            self.send(200, body)
        except (BrokenPipeError, ConnectionResetError): pass     # the client has given up

class _Server(ThreadingHTTPServer):
    request_queue_size, daemon_threads = 256, True

@contextmanager
def serving(share=0., faults=FAULTS, seed=0, hang=3., delay=0., slots=16, script=None, models=None):
    "A server whose `.url` answers; `share` of the calls go wrong in one of the ways in `faults`; or `script` takes a call and its number and gives status, body (and headers), `models` being those of the list"
    s = _Server(("127.0.0.1", 0), Handler); s.lock, s.calls, s.counts, s.rng, s.share, s.faults, s.hang, s.delay, s.now, s.most, s.slots, s.script, s.models = threading.Lock(), [], {}, random.Random(seed), share, faults, hang, delay, 0, 0, threading.Semaphore(slots), script, models
    s.url = f"http://127.0.0.1:{s.server_port}/v1"; threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
    try: yield s
    finally: s.shutdown(); s.server_close()
