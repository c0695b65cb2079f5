import errno
import os
import pickle

import pytest
import torch

from supernet import files
from supernet.errors import UserError
from supernet.training import checkpoint


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
