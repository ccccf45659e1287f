"Folders are written whole or not at all, also where they can't be renamed, and lose nothing that was there"
import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from aligners_nb import folders
from aligners_nb.criterion import Criterion, DataError
from aligners_nb.folders import find_folder, is_finished, model_card, new_folder, read_meta, save_adapter, write_file


def save(folder, text):
    with new_folder(folder, "marker.json", is_own=lambda name: name in ("a", "deep")) as scratch:
        write_file(scratch / "a", text)
        (scratch / "deep").mkdir()
        write_file(scratch / "deep/b", text)
        write_file(scratch / "marker.json", "{}")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole(text):
    return {"a": text, "deep/b": text, "marker.json": "{}"}


def test_nested_folders_replace_an_earlier_one_and_leave_nothing_behind(tmp_path):
    save(tmp_path / "x/y/folder", "one")
    save(tmp_path / "x/y/folder", "two")
    assert contents(tmp_path / "x/y") == {f"folder/{name}": text for name, text in whole("two").items()}
    assert [path.name for path in (tmp_path / "x/y").iterdir()] == ["folder"]


@pytest.mark.parametrize("step", ["write", "rename"])
def test_an_error_on_the_way_leaves_the_earlier_folder(tmp_path, monkeypatch, step):
    save(tmp_path / "folder", "one")
    if step == "write":
        def fail(*args):
            raise OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(os, "fsync", fail)
    else:
        real = Path.rename
        def fail(path, target):
            if Path(target).name == "folder":
                raise OSError(errno.EIO, "Input/output error")
            return real(path, target)
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError):
        save(tmp_path / "folder", "two")
    monkeypatch.undo()
    held = contents(tmp_path)
    kept = {name.split("/", 1)[1]: text for name, text in held.items()}
    assert kept == whole("one")                       # under its own name, or beside it as `…-earlier`


def test_a_folder_that_cant_be_renamed_is_filled_in_place(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    real = Path.rename
    def busy(path, target):
        if path.name == "volume" or Path(target).name == "volume":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(path, target)
    monkeypatch.setattr(Path, "rename", busy)
    for text in ("one", "two"):
        save(tmp_path / "volume", text)
        assert contents(tmp_path) == {f"volume/{name}": text for name, text in whole(text).items()}


def test_a_mount_point_is_written_to_inside(tmp_path, monkeypatch):
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == volume)
    for text in ("one", "two"):
        save(volume, text)
        assert contents(tmp_path) == {f"volume/{name}": text for name, text in whole(text).items()}


def test_other_things_are_refused_before_the_work(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.jpg").write_text("…")
    ran = []
    with pytest.raises(DataError, match="holds me.jpg"):
        with new_folder(tmp_path / "photos", "marker.json"):
            ran.append(1)
    assert not ran and contents(tmp_path) == {"photos/me.jpg": "…"}
    with pytest.raises(DataError, match="holds me.jpg"):
        is_finished(tmp_path / "photos", "key", "aligner.json")
    with pytest.raises(TypeError, match="no folder"):
        is_finished(3, "key", "aligner.json")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save("~/folder", "one")
    assert contents(tmp_path / "folder") == whole("one")


def test_an_adapters_files_have_the_mode_that_the_umask_gives(tmp_path):
    sizes = dict(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"), adapter_name="mine")
    before = os.umask(0o022)
    try:
        folder = save_adapter(peft_model, "mine", tmp_path / "mine", "my/base", {}, "aligner.json", "")
    finally:
        os.umask(before)
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()} == {"0o644"}


def killed_at(call, work):
    "Run `work` in a child process that is killed at its `call`-th change to the disk; was it killed?"
    child = os.fork()
    if child == 0:
        n_calls = 0
        def count(change):
            def counted(*args, **kwargs):
                nonlocal n_calls
                n_calls += 1
                if n_calls == call:
                    os._exit(9)
                return change(*args, **kwargs)
            return counted
        for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink"):
            setattr(os, name, count(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("kind", ["renamed", "mounted", "busy"])
def test_killed_at_any_moment_nothing_is_lost_or_in_the_way(tmp_path, monkeypatch, kind):
    folder = tmp_path / "folder"
    folder.mkdir()
    if kind == "mounted":
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    if kind == "busy":
        real = Path.rename
        def busy(path, target):
            if path == folder or Path(target) == folder:
                raise OSError(errno.EBUSY, "Device or resource busy")
            return real(path, target)
        monkeypatch.setattr(Path, "rename", busy)
    call, was_killed = 0, True
    while was_killed:
        save(folder, "one")
        call += 1
        was_killed = killed_at(call, lambda: save(folder, "two"))
        if kind == "renamed" or (folder / "marker.json").exists():
            files = contents(find_folder(folder))
            visible = {name: text for name, text in files.items() if ".scratch" not in name}
            assert visible in (whole("one"), whole("two"))
        monkeypatch.setattr(folders, "SCRATCH_AGE", -1)
        save(folder, "three")                         # by another program, later
        assert contents(tmp_path) == {f"folder/{name}": text for name, text in whole("three").items()}
    assert call > 10


def test_scratch_folders_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "SCRATCH_AGE", -1)
    (tmp_path / ".scratch-a-b-1-2-earlier").mkdir()   # of the folder "a-b", not of "a"
    with pytest.raises(DataError, match="no folder"):
        find_folder(tmp_path / "a")
    save(tmp_path / "a", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".scratch-a-b-1-2-earlier", "a"]


def test_a_young_scratch_folder_stays(tmp_path):
    (tmp_path / ".scratch-a-1-2").mkdir()             # another program saves to the same folder right now
    save(tmp_path / "a", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".scratch-a-1-2", "a"]


def test_a_local_base_stays_private():
    criterion = Criterion("civil", ["Be polite."])
    for base in ("/home/me/base", "~/base", "~nobody/base", "models/of/mine", "C:\\models\\base"):
        assert base not in model_card("A title", base, criterion, {}, "")
    assert "base_model: you/base" in model_card("A title", "you/base", criterion, {}, "")


def test_a_rank_from_numpy_can_be_saved(tmp_path):
    sizes = dict(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = LoraConfig(r=np.int64(2), lora_alpha=np.float32(8), target_modules="all-linear")
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), config, adapter_name="mine")
    folder = save_adapter(model, "mine", tmp_path / "mine", "my/base", dict(lr=np.float32(.5)), "aligner.json", "")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], read_meta(folder, "aligner.json")["lr"]) == (2, 8, .5)


@pytest.mark.parametrize("number, is_known", [(1, True), (2, True), (3, False), (None, False), ("1", False)])
def test_formats(tmp_path, number, is_known):
    write_file(tmp_path / "squad.json", json.dumps(dict(format=number)))
    if is_known:
        assert read_meta(tmp_path, "squad.json") == dict(format=number)
    else:
        with pytest.raises(DataError, match="update aligners-nb"):
            read_meta(tmp_path, "squad.json")
