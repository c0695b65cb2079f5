import errno
import os
import pickle
import resource

import numpy as np
import pytest
import torch

from supernet import files
from supernet.errors import UserError
from supernet.training import checkpoint
from tests.conftest import refused


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "checkpoint.pt"
    state = {"model": {"w": torch.arange(4.0)}, "step": 7, "meta": {"arch": [1, 2]}}
    checkpoint.save(path, state)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert (loaded["step"], loaded["meta"]) == (7, {"arch": [1, 2]})
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_one_line(tmp_path, share):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"model": {"w": torch.zeros(1000)}})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="damaged or not a checkpoint: delete it"):
        checkpoint.load(path)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    path, trace = tmp_path / "checkpoint.pt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"schema": checkpoint.SCHEMA, "model": Evil()}, path)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    assert not trace.exists()


def test_another_schema_is_named(tmp_path):
    torch.save({"schema": 99}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"schema {checkpoint.SCHEMA}, found 99"):
        checkpoint.load(tmp_path / "x.pt")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "lut.json"
    files.write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path, "table", "x") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["lut.json"]


def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def broken(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, broken)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.write_json(tmp_path / "file" / "run" / "x.json", {})
    with pytest.raises(UserError, match="cannot write"):
        files.JsonLines(tmp_path / "file" / "x.jsonl").append({})


def test_json_lines_drop_what_a_kill_cut_off(tmp_path):
    log = files.JsonLines(tmp_path / "metrics.jsonl")
    assert log.read() == []
    for epoch in range(4):
        log.append({"epoch": epoch})
    with log.path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert log.read() == [{"epoch": e} for e in range(4)]
    log.keep(lambda line: line["epoch"] < 2)
    log.append({"epoch": 2})
    assert log.read() == [{"epoch": e} for e in range(3)]


def test_a_cut_off_line_is_not_glued_to_the_next(tmp_path):
    log = files.JsonLines(tmp_path / "metrics.jsonl")
    log.append({"epoch": 0})
    for cut in (b'{"epoch": 1, "lo', b"\0" * 5000):
        with log.path.open("ab") as file:
            file.write(cut)
        log.append({"epoch": 2}, {"epoch": 3})
        assert [line["epoch"] for line in log.read()][-2:] == [2, 3]
    assert log.path.read_bytes().count(b"\n") == len(log.read()) == 5


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part(tmp_path, monkeypatch):
    log = files.JsonLines(tmp_path / "metrics.jsonl")
    log.append({"epoch": 0})
    before = log.path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        log.append({"epoch": 1})
    assert log.path.read_bytes() == before


def test_damaged_lines_between_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2, "x": NaN}\n' + "[" * 100_000 + '\n{"epoch": "3"}\n{"epoch": 4}\n')
    assert files.JsonLines(path, {"epoch": int}).read() == [{"epoch": 1}, {"epoch": 4}]


def test_what_a_killed_process_left_is_removed(tmp_path):
    dead = tmp_path / f".x.json.{2**22 + 1}.tmp"
    other = tmp_path / ".y.json.1.tmp"  # of another file
    alive = tmp_path / f".x.json.{os.getppid()}.tmp"
    for path in (dead, other, alive):
        path.touch()
    files.write_json(tmp_path / "x.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", other.name, alive.name}


def saved_twice(path):
    for value in (1.0, 2.0):
        checkpoint.save(path, {"model": {"w": torch.full((1000,), value)}}, keep=True)


def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path, caplog):
    path = tmp_path / "checkpoint.pt"
    saved_twice(path)
    assert checkpoint.load(path)["model"]["w"][0] == 2
    assert not caplog.messages
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # within the weights
    path.write_bytes(content)
    assert checkpoint.load(path)["model"]["w"][0] == 1
    assert "damaged" in caplog.text
    assert "the one before is used" in caplog.text
    checkpoint.save(path, {"model": {"w": torch.full((1000,), 3.0)}}, keep=True)
    assert checkpoint.load(checkpoint.previous(path))["model"]["w"][0] == 1  # not the damaged one
    path.unlink()
    assert checkpoint.load(path)["model"]["w"][0] == 1
    checkpoint.delete(path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_reads_otherwise_does_not_replace_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    saved_twice(path)
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint, "intact", lambda path: False)
    with pytest.raises(UserError, match="reads otherwise"):
        checkpoint.save(path, {"model": {}}, keep=True)
    assert path.read_bytes() == before


def test_equal_states_make_equal_files(tmp_path):
    """Whatever of their texts is one object, as it is after a load."""
    state = {"model": {"w": torch.ones(3)}, "meta": {"kind": "a network", "also": "a network"}}
    checkpoint.save(tmp_path / "a.pt", state)
    loaded = {name: value for name, value in checkpoint.load(tmp_path / "a.pt").items() if name != "schema"}
    loaded["meta"]["also"] = "".join(["a ", "network"])
    checkpoint.save(tmp_path / "b.pt", loaded)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 17).round(3).tolist())
def test_a_disk_that_is_full_anywhere_in_the_file_is_told_in_a_line(tmp_path, share):
    """By the limit on the size of files, which the system reports as it does a full disk."""
    path, state = tmp_path / "checkpoint.pt", {"model": {f"w{i}": torch.zeros(10_000) for i in range(10)}}
    checkpoint.save(path, state)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), hard))
        told = refused(checkpoint.save, path, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.startswith(f"cannot write {path}")
    assert path.read_bytes() == before
