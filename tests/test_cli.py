"`aligners align` in processes of its own: dirty files, kills, resumption, exit codes"
import gzip, json, signal, subprocess, sys, time
from pathlib import Path
import pytest
from aligners_nb import __version__, cli
from aligners_nb.criterion import DataError

ALIGNERS = Path(sys.executable).parent/"aligners"
SLOW = """
import sys, time
from aligners_nb.cli import align_file
class Result:
    def __init__(self, question, response):
        error = None if response else "the response is empty"
        self.fields = dict(question=question, response=response, aligned=response.upper(), risks={"loud": .5},
                           risks_after={"loud": .1}, trace=[], error=error)
    def to_dict(self): return self.fields
def squad(questions, responses, policy=None):
    time.sleep(.02)
    return [Result(question, response) for question, response in zip(questions, responses)]
sys.exit(3 if align_file(squad, sys.argv[1], sys.argv[2], block=3) else 0)
"""
BAD_LINES = ["", "{", '["question"]', '{"question": "q"}', '{"question": "q", "response": 3}',
             '{"question": [], "response": "a"}', '{"question": "q", "response": "\\ud800"}']
PAIRS = [dict(question="When?", response="At nine."), dict(question="Where?", response="Here.")]

class Unchanged:
    "An alignment that leaves the answer alone"
    def __init__(self, response): self.response = response
    def to_dict(self): return dict(aligned=self.response, risks={}, trace=[], error=None)

def idle_squad(questions, responses, policy=None): return [Unchanged(response) for response in responses]

def start(*args, **kwargs):
    pipe = subprocess.PIPE
    return subprocess.Popen([str(arg) for arg in args], stdout=pipe, stderr=pipe, text=True, **kwargs)

def start_slow(source, output): return start(sys.executable, "-c", SLOW, source, output)

def aligners(*args):
    process = start(ALIGNERS, *args)
    stderr = process.communicate(timeout=240)[1]
    return process.returncode, stderr

def read(path):
    "The lines of an output; `splitlines` would part an answer that holds a line separator"
    return [json.loads(line) for line in Path(path).read_text().rstrip("\n").split("\n")]

def align_quietly(source, output):
    "Errors and output lines of a squad that changes nothing"
    errors = cli.align_file(idle_squad, source, output, say=lambda message: None)
    return errors, read(output)

@pytest.fixture
def dirty(tmp_path):
    "200 lines, every seventh of them bad in another way"
    lines = []
    for i in range(200):
        response = f"an answer, {i}" if i % 11 else ""
        good = json.dumps(dict(id=i, question=f"q {i}", response=response))
        lines.append(BAD_LINES[(i//7) % len(BAD_LINES)] if i % 7 == 3 else good)
    path = tmp_path/"in.jsonl"
    path.write_text("\n".join(lines)+"\n")
    return path

def kill_while_it_writes(source, output):
    "The exit code of a run that ended by itself, or None once it was killed"
    def size(): return output.stat().st_size if output.exists() else 0
    enough, end = size()+2500, time.time()+60
    process = start_slow(source, output)
    while time.time() < end and process.poll() is None and size() <= enough: time.sleep(.005)
    code = process.poll()
    if code is None: process.send_signal(signal.SIGKILL)
    process.communicate()
    return code

def tear(output, whole_lines):
    "Leave half of the line that is due, as a disk may"
    written = output.read_bytes()
    due = whole_lines[written.count(b"\n")]
    torn = written.rpartition(b"\n")[2]
    with open(output, "ab") as file: file.write(due[len(torn):max(len(torn), len(due)//2)])

def test_killed_at_any_moment_it_ends_with_the_same_file(dirty, tmp_path):
    undisturbed, killed = tmp_path/"whole.jsonl", tmp_path/"killed.jsonl"
    process = start_slow(dirty, undisturbed)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 3
    assert "line 4: the line is empty" in stderr and "line 25: response is missing" in stderr
    lines = read(undisturbed)
    assert len(lines) == 200 and [line["id"] for line in lines if "id" in line] == [i for i in range(200) if i % 7 != 3]
    assert all("error" in line and "aligned" not in line for line in lines[3::7])
    assert lines[3+7*3] == dict(question="q", error="response is missing; the fields are: 'question'")
    empty = [line for line in lines if line.get("response") == ""]
    assert empty and all(line["aligned"] == "" and "risks" not in line for line in empty)
    kills, code = 0, None
    while code is None:
        code = kill_while_it_writes(dirty, killed)
        if code is None:
            kills += 1
            tear(killed, undisturbed.read_bytes().splitlines(keepends=True))
    assert code == 3 and kills > 3
    assert killed.read_bytes() == undisturbed.read_bytes()

def test_bad_arguments_take_no_time_and_one_line(tmp_path):
    source, output = tmp_path/"in.jsonl", tmp_path/"out.jsonl"
    source.write_text('{"question": "q", "response": "a"}\n')
    begin = time.time()
    for args, words in [(("--squad", tmp_path, "--in", source, "--out", output), "no squad in"),
                        (("--squad", tmp_path, "--in", tmp_path/"no", "--out", output), "no file"),
                        (("--in", source, "--out", output), "--squad")]:
        code, stderr = aligners("align", *args)
        assert code == 2 and words in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert not output.exists()
    assert aligners("--help")[0] == 0 and aligners()[0] == 0
    assert time.time()-begin < 10      # no model library is loaded for these

def test_version(capsys):
    with pytest.raises(SystemExit) as stop: cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"aligners {__version__}\n"

def test_help_needs_no_torch():
    code = "import sys, aligners_nb.cli; sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

def test_import_where_there_is_no_fcntl():
    code = "import sys; sys.modules['fcntl'] = None; import aligners_nb.cli"      # as on Windows
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

NOTE = dict(note="a line separator \u2028, a next line \x85")
FORMS = {
    "array.json": json.dumps(PAIRS, indent=1).encode(),
    "array.jsonl": json.dumps(PAIRS).encode(),
    "lines.json": "\n".join(map(json.dumps, PAIRS)).encode(),
    "packed.jsonl.gz": gzip.compress("\n".join(map(json.dumps, PAIRS)).encode()),
    "packed_array.json.gz": gzip.compress(json.dumps(PAIRS).encode()),
    "tabs.tsv": b"question\tresponse\nWhen?\tAt nine.\nWhere?\tHere.\n",
    "packed.tsv.gz": gzip.compress(b"question\tresponse\nWhen?\tAt nine.\nWhere?\tHere.\n"),
    "mac.jsonl": "\r".join(map(json.dumps, PAIRS)).encode(),
    "windows.jsonl": "\r\n".join(map(json.dumps, PAIRS)).encode(),
    "mac.csv": b"question,response\rWhen?,At nine.\rWhere?,Here.\r",
    "bom.jsonl": b"\xef\xbb\xbf"+"\n".join(map(json.dumps, PAIRS)).encode(),
    "bom.csv": b"\xef\xbb\xbfquestion,response\r\nWhen?,At nine.\r\nWhere?,Here.\r\n",
    "separators.jsonl": "\n".join(json.dumps(pair | NOTE, ensure_ascii=False) for pair in PAIRS).encode(),
}

@pytest.mark.parametrize("name", FORMS)
def test_forms_of_the_input(name, tmp_path):
    source, output = tmp_path/name, tmp_path/"out.jsonl"
    source.write_bytes(FORMS[name])
    errors, lines = align_quietly(source, output)
    assert errors == 0 and [line["aligned"] for line in lines] == ["At nine.", "Here."]
    assert [dict(question=line["question"], response=line["response"]) for line in lines] == PAIRS
    whole = output.read_bytes()
    output.write_bytes(whole[:len(whole)//2])
    assert align_quietly(source, output) == (0, lines)

NO_FORMS = {
    "rows.parquet": (b"PAR1\x15\x04", "give JSON lines, a JSON array, CSV"),
    "rows.xlsx": (b"PK\x03\x04rest", "give JSON lines"),
    "utf16.csv": ("question,response\n".encode("utf-16"), "in UTF-8"),
    "torn.jsonl.gz": (FORMS["packed.jsonl.gz"][:-9], "can't be unpacked"),
    "broken.json": (b'[{"question": "When?"', "can't be read as a JSON array"),
    "latin.json": ('["caf\xe9"]'.encode("latin-1"), "not UTF-8"),
    "twice.csv": (b"question,response,response\nWhen?,At nine.,At ten.\n", "names the field 'response' twice"),
    "semicolons.csv": (b"question;response\nWhen?;At nine.\n", "separated by commas"),
    "commas.tsv": (b"question,response\nWhen?,At nine.\n", "separated by tabs"),
    "empty.csv": (b"", "has the fields none"),
}

@pytest.mark.parametrize("name", NO_FORMS)
def test_files_that_are_refused_whole(name, tmp_path):
    data, words = NO_FORMS[name]
    source, output = tmp_path/name, tmp_path/"out.jsonl"
    source.write_bytes(data)
    with pytest.raises(DataError, match=words): align_quietly(source, output)
    assert not output.exists()

def test_a_failed_line_keeps_its_fields(tmp_path):
    source = tmp_path/"in.jsonl"
    rows = [dict(id=1, question="When?"), dict(id=2, question="", response="At nine."),
            dict(id=3, question=" \n", response="a"),
            dict(id=4, question="When?", response="\ud800", error="of an earlier run", risks={"old": 1}),
            dict(id=5, question=[dict(role="user", content="")], response="a"), dict(aligned="of an earlier run"), {}]
    source.write_text("\n".join(map(json.dumps, rows))+"\n"+'{"id": 6, "response": "a", "response": "b"}\n')
    errors, lines = align_quietly(source, tmp_path/"out.jsonl")
    assert errors == len(lines) == 8
    assert [line.get("id") for line in lines] == [1, 2, 3, 4, 5, None, None, None]
    assert [lines[i]["error"] for i in (1, 2, 4)] == ["the question is empty"]*3
    assert lines[3] == dict(id=4, question="When?", response="\ud800", error="response is not valid Unicode text")
    assert set(lines[5]) == set(lines[6]) == {"error"}
    assert lines[7] == dict(error="the field 'response' is named twice: rename or remove one")
    whole = (tmp_path/"out.jsonl").read_bytes()
    for length in range(0, len(whole), 5):
        (tmp_path/"out.jsonl").write_bytes(whole[:length])
        assert align_quietly(source, tmp_path/"out.jsonl")[0] == 8
        assert (tmp_path/"out.jsonl").read_bytes() == whole

def test_pipes(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_cli import idle_squad; " \
           "from aligners_nb.cli import align_file; align_file(idle_squad, *sys.argv[2:])"
    text = "\n".join(map(json.dumps, PAIRS))
    for i, name in enumerate(("-", "/dev/stdin")):
        output = tmp_path/f"out{i}.jsonl"
        process = start(sys.executable, "-c", code, Path(__file__).parent, name, output, stdin=subprocess.PIPE)
        stderr = process.communicate(text, timeout=60)[1]
        assert process.returncode == 0, stderr
        assert [line["aligned"] for line in read(output)] == ["At nine.", "Here."]

def test_tilde(tmp_path, monkeypatch, capsys):
    home, elsewhere = tmp_path/"home", tmp_path/"elsewhere"
    for folder in (home, elsewhere): folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    (home/"in.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    assert cli.align_file(idle_squad, "~/in.jsonl", "~/new/out.jsonl", say=print) == 0
    assert len(read(home/"new/out.jsonl")) == 2 and not list(elsewhere.iterdir())
    assert cli.main(["align", "--squad", "~/squad", "--in", "~/in.jsonl", "--out", "~/out.jsonl"]) == 2
    assert f"no squad in {home/'squad'}" in capsys.readouterr().err

def test_output_that_is_no_file(tmp_path):
    source = tmp_path/"in.jsonl"
    source.write_text(json.dumps(PAIRS[0]))
    for output, words in ((tmp_path, "is a folder"), ("/dev/null", "is a device or a pipe"),
                          (tmp_path/"out.jsonl.gz", "name it out.jsonl")):
        with pytest.raises(DataError, match=words): align_quietly(source, output)
    with pytest.raises(DataError, match="is a folder: --in"): align_quietly(tmp_path, tmp_path/"out.jsonl")

def test_a_disk_without_locks(tmp_path, monkeypatch):
    def no_locks(*args, **kwargs): raise OSError(38, "Function not implemented")
    monkeypatch.setattr("aligners_nb.store.lock_descriptor", no_locks)
    (tmp_path/"in.jsonl").write_text(json.dumps(PAIRS[0]))
    with pytest.warns(UserWarning, match="can't lock files"):
        assert align_quietly(tmp_path/"in.jsonl", tmp_path/"out.jsonl")[0] == 0

def test_a_real_squad_from_disk(tmp_path):
    "An untrained pair: nothing to be learned from its answers, but all goes through models, files and processes"
    from aligners_nb import town
    from aligners_nb.aligner import Aligner
    from aligners_nb.inspector import Inspector
    from aligners_nb.squad import Squad
    Squad([(Inspector(town.ethical), Aligner(town.ethical))]).save_pretrained(tmp_path/"squad")
    responses = ["Use your own eyes for once.", "", "On and on it goes. "*2000, "Use your own eyes for once."]
    table = "id,question,response\n"
    for i, row in enumerate(town.questions(4, seed=0)): table += f'{i},"{row["question"]}","{responses[i]}"\n'
    source, output = tmp_path/"in.csv", tmp_path/"out.jsonl"
    source.write_text(table+"4,only a question\n")
    command = ["align", "--squad", str(tmp_path/"squad"), "--in", str(source), "--out", str(output)]
    code, stderr = aligners(*command)
    assert code == 3 and "line 3:" in stderr and "line 4:" in stderr and "line 6: response is missing" in stderr
    lines = read(output)
    assert [line["id"] for line in lines] == ["0", "1", "2", "3", "4"]
    assert [bool(line.get("error")) for line in lines] == [False, True, True, False, True]
    assert {"aligned", "risks", "trace"} <= set(lines[0]) and lines[2]["aligned"] == responses[2]
    assert set(lines[4]) == {"id", "question", "error"}
    whole = output.read_bytes()
    output.write_bytes(whole[:len(whole)//2])
    assert cli.main(command) == 3
    assert [line.get("aligned") for line in read(output)] == [line.get("aligned") for line in lines]
    assert cli.main([*command, "--policy", "always"]) == 2
