"""Files of torch.save: nothing in them is executed, and what is refused is told in words."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from bertjobs.conversion.torch_file import read_torch_file
from bertjobs.errors import InputError
from tests.conversion.programs import Programs, write_hetseq, write_nvidia


class Payload:
    """A pickle that would run code."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_what_nvidias_older_versions_write_is_read(plain: Programs, tmp_path: Path) -> None:
    """Masters as parameters, names of files, and the form of before torch 1.6."""
    masters = [torch.nn.Parameter(torch.zeros(2))]
    path = write_nvidia(tmp_path / "new.pt", plain.nvidia(), **{"master params": masters, "files": [3, "part_0.hdf5"]})
    checkpoint = read_torch_file(path)
    assert set(checkpoint.others) == {"optimizer", "grad_scaler", "epoch", "master params", "files"}
    torch.save({"model": plain.nvidia(), "optimizer": {}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = read_torch_file(tmp_path / "old.pt")
    assert old.tensors.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(old.tensors[name], tensor) for name, tensor in checkpoint.tensors.items())


def test_code_is_refused_unrun_and_its_classes_are_named(plain: Programs, tmp_path: Path) -> None:
    path = write_nvidia(tmp_path / "bad.pt", plain.nvidia(), more=Payload(tmp_path / "ran"))
    with pytest.raises(InputError, match=r"would run code: builtins\.getattr, pathlib\.Path"):
        read_torch_file(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("today", [True, False])
def test_meters_of_hetseqs_older_versions_are_named_with_a_way_out(
    plain: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, today: bool
) -> None:
    """In today's form of files, and in that of before torch 1.6."""
    module = types.ModuleType("meters")
    module.AverageMeter = type("AverageMeter", (), {"__module__": "meters"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meters", module)
    path = tmp_path / "old 1.pt"
    content = {"model": plain.nvidia(), "extra_state": {"train_meters": {"wps": module.AverageMeter()}}}
    torch.save(content, path, _use_new_zipfile_serialization=today)
    with pytest.raises(InputError, match=r"would run code: meters\.AverageMeter") as caught:
        read_torch_file(path)
    assert "weights_only=False" in str(caught.value.hint)
    assert str(path) in str(caught.value.hint)


def test_hetseqs_arguments_name_its_files(plain: Programs, tmp_path: Path) -> None:
    path = write_hetseq(
        tmp_path / "last.pt", plain.nvidia(), config_file="here/bert_config.json", dict="here/vocab.txt"
    )
    checkpoint = read_torch_file(path)
    assert (checkpoint.config, checkpoint.vocabulary) == (Path("here/bert_config.json"), Path("here/vocab.txt"))


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, -1])
def test_truncated_files_are_refused(plain: Programs, tmp_path: Path, kept: int) -> None:
    path = write_nvidia(tmp_path / "ckpt.pt", plain.nvidia())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_torch_file(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"a": "b"}, torch.zeros(3)])
def test_files_of_something_else_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match="no named tensors"):
        read_torch_file(tmp_path / "x.pt")
