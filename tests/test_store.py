"A store's file is whole whatever goes wrong, and is written by one process at a time"
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
import pytest
from aligners_nb import store as store_module
from aligners_nb.criterion import DataError
from aligners_nb.store import Memory, Store, is_store, lock_file, read_units

ROWS = [dict(question="Où est la gare?", n=1), dict(question="When?", n=2)]


def keys(path):
    return [line.get("unit") for line in read_units(path)]


def test_the_format_is_a_line_of_json_for_each_unit(tmp_path):
    with Store(tmp_path/"rows.jsonl", dict(seed=1)) as store:
        store.append("a", ROWS, dict(calls=2))
        store.append("b", [])
    lines = ['{"meta": {"seed": 1}}',
             '{"unit": "a", "rows": [{"question": "Où est la gare?", "n": 1}, {"question": "When?", "n": 2}], '
             '"used": {"calls": 2}}',
             '{"unit": "b", "rows": []}']
    assert (tmp_path/"rows.jsonl").read_text().splitlines() == lines


def test_memory_and_disk_hold_the_same(tmp_path):
    with Store(tmp_path/"rows.jsonl", dict(seed=1)) as store, Memory(dict(seed=1)) as memory:
        for kept in (store, memory):
            kept.append("a", ROWS, dict(calls=2))
            kept.append("b", [])
            with pytest.raises(DataError, match="already"):
                kept.append("a", [])
        assert list(store) == list(memory) == ROWS and len(store) == len(memory) == 2
        assert (store.units, store.used, store.meta) == (memory.units, memory.used, memory.meta)
        assert "b" in memory and "c" not in memory
    assert repr(store) == "Store('rows.jsonl', 2 units, 2 rows)"


BROKEN = ["7", "{", "null", "\xff", '{"meta": null}', '{"meta": []}', '{"unit": "a"}', '{"unit": ["a"], "rows": []}',
          '{"unit": "a", "rows": [7]}', '{"unit": "a", "rows": {}}', '{"unit": "a", "rows": [], "used": 7}']


@pytest.mark.parametrize("line", BROKEN)
def test_a_line_edited_by_hand_is_named(tmp_path, line):
    path = tmp_path/"rows.jsonl"
    path.write_bytes(b'{"meta": {}}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match="line 2 of .* restore it or delete it"):
        list(read_units(path))
    for _ in range(2):                                       # a store that can't be read is not left locked
        with pytest.raises(DataError, match="is no unit"):
            Store(path)


def test_rows_that_lack_a_key_are_named(tmp_path):
    with Store(tmp_path/"rows.jsonl") as store:
        store.append("a", ROWS)
        store.append("b", [dict(error="not parsed", raw="?")])
        store.append("c", [dict(error="not parsed")])
        assert store.rows("a", ["question"]) == ROWS
        assert store.rows("b", ["question"]) == [dict(error="not parsed", raw="?")]
        with pytest.raises(DataError, match="a row of unit 'a' lacks 'topic'"):
            store.rows("a", ("question", "topic"))
        with pytest.raises(DataError, match="lacks 'raw'"):
            store.rows("c")


@pytest.mark.parametrize("rows", [[dict(x={4})], [dict(x="half \ud83d")], [dict(x=object())]])
def test_what_is_no_json_leaves_no_trace(tmp_path, rows):
    with Store(tmp_path/"rows.jsonl") as store:
        store.append("a", ROWS)
        before = store.path.read_bytes()
        with pytest.raises(DataError, match="plain JSON types"):
            store.append("b", rows)
        assert store.path.read_bytes() == before and "b" not in store
        store.append("b", ROWS)
    assert keys(store.path) == ["a", "b"]


def test_meta_is_compared_as_json(tmp_path):
    path = tmp_path/"rows.jsonl"
    with Store(path, dict(size=(3, 4), none=None)):
        pass
    with Store(path, dict(size=[3, 4], none=None)) as store:
        assert store.meta == dict(size=[3, 4], none=None)
    with pytest.raises(DataError, match=r"with size=\[3, 4\], now it is 5; with seed=None, now it is 7: use another"):
        Store(path, dict(size=5, none=None, seed=7))
    with pytest.raises(DataError, match="plain JSON types"):
        Store(path, dict(size={3}))
    with Store(path) as store:
        assert len(store) == 0


@pytest.mark.parametrize("name", ["file/rows.jsonl", "file/below/rows.jsonl", "folder", "n"*300, "n"*300+"/rows.jsonl"])
def test_a_place_that_can_not_be_written_to_is_an_error_of_ours(tmp_path, name):
    (tmp_path/"file").write_text("x")
    (tmp_path/"folder").mkdir()
    with pytest.raises(DataError, match="choose another folder"):
        Store(tmp_path/name)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path/"home"))
    monkeypatch.chdir(tmp_path)
    with Store("~/run/rows.jsonl") as store:
        store.append("a", ROWS)
    assert keys(tmp_path/"home/run/rows.jsonl") == ["a"] and not (tmp_path/"~").exists()


def test_an_interrupted_write_is_taken_back(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with Store(tmp_path/"rows.jsonl") as store:
        store.append("a", ROWS)
        before = store.path.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(store_module.os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append("b", ROWS)
        assert store.path.read_bytes() == before
        store.append("b", ROWS)
    assert keys(store.path) == ["a", "b"]


def test_which_files_are_stores(tmp_path):
    path = tmp_path/"rows.jsonl"
    lines = {'{"meta": {"seed": 1}}': True, '{"unit": "a", "rows": []}': True, "question,response": False, "": False,
             '{"meta": {}, "question": "When?"}': False, '{"unit": "km", "question": "How far?"}': False}
    for line, is_one in lines.items():
        path.write_text(line+"\n")
        assert is_store(path) == is_one, line


def hold(path, started):
    with Store(path) as store:
        store.append("held", ROWS)
        started.set()
        signal.pause()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    path = tmp_path/"rows.jsonl"
    started = multiprocessing.Event()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(path, started))
    process.start()
    assert started.wait(30)
    with pytest.raises(DataError, match="is being written by another process"):
        Store(path)
    assert keys(path) == ["held"]                            # a reader disturbs nobody
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Store(path) as store:
        assert list(store) == ROWS
        with pytest.raises(DataError, match="another process"):
            Store(path)
    with lock_file(path):
        with pytest.raises(DataError, match="another process"):
            Store(path)


def test_two_names_of_one_file_are_one_file(tmp_path):
    (tmp_path/"real").mkdir()
    (tmp_path/"link").symlink_to("real")
    with Store(tmp_path/"real/rows.jsonl"), pytest.raises(DataError, match="another process"):
        Store(tmp_path/"link/rows.jsonl")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_disk_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, code):
    import fcntl

    def no_locks(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="can't lock files .* let no second process write"):
        with Store(tmp_path/"rows.jsonl") as store:
            store.append("a", ROWS)
    assert keys(store.path) == ["a"]


def test_a_disk_with_locks_is_written_in_silence(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Store(tmp_path/"rows.jsonl") as store:
            store.append("a", ROWS)


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None                                  # as on Windows
from aligners_nb.store import Store, read_units
with Store("rows.jsonl", dict(seed=1)) as store: store.append("a", [dict(x=1)])
print(len(list(read_units("rows.jsonl"))))
"""


def test_nothing_of_unix_is_needed(tmp_path):
    run = subprocess.run([sys.executable, "-c", WITHOUT_FCNTL], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "2\n", run.stderr


def test_a_store_cut_at_every_byte_goes_on(tmp_path):
    path = tmp_path/"rows.jsonl"
    units = {f"unit {n}": [dict(n=n, text="ü"*n)] for n in range(4)}

    def write():
        with Store(path, dict(seed=1)) as store:
            for unit, rows in units.items():
                if unit not in store:
                    store.append(unit, rows)

    write()
    whole = path.read_bytes()
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        write()
        assert path.read_bytes() == whole
    assert json.loads(whole.splitlines()[0]) == dict(meta=dict(seed=1))
