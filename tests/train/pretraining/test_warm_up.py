"""Ranks compile together or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bertjobs.launch.local import free_port
from bertjobs.model.attention import choose_attention
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.packed import EAGER, TokenWise, embed
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.ranks import Ranks, joined
from tests.cluster.slurm import PATIENCE_S
from tests.forkserver import CONTEXT, preload
from tests.model.packs import make_pack

preload(__name__)
CPU = torch.device("cpu")
BROKEN = "rank 1: warning: nothing can be compiled: Failed to find C compiler."
SAID = "all ranks continue without compiled kernels, more slowly: 1 of 2 have none"


def broken(*_: object) -> torch.Tensor:
    raise RuntimeError("Failed to find C compiler.\nPlease specify one via CC")


def full(*_: object) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


PARTS: Mapping[str, TokenWise] = {
    "compiled": replace(EAGER, fixed_shapes=True),
    "broken": replace(EAGER, embed=broken),
    "full": replace(EAGER, embed=full),
    "eager": EAGER,
}


def warmed_up(ranks: Ranks, kind: str) -> Forward:
    spec = replace(load_catalogue([builtin_file()]).model("bert-nano", "test"), vocab_size=41)
    torch.manual_seed(0)
    attention = choose_attention("per_sequence", CPU, torch.float32, spec.hidden_size // spec.num_attention_heads)
    forward = Forward(BertForPreTraining(spec), attention, PARTS[kind])
    pack = make_pack([16, 7], tokens=48, slots=8, predictions=16, max_length=16, vocabulary=41)
    forward.warm_up(pack, "fp32", ranks)
    assert all(parameter.grad is None for parameter in forward.parameters())
    forward(pack)
    return forward


def one_of_two(rank: int, kinds: tuple[str, str], port: int, folder: Path) -> None:
    os.dup2(os.open(folder / f"{rank}.out", os.O_WRONLY | os.O_CREAT, 0o600), 1)
    torch.set_num_threads(1)
    environ = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    with joined(read_placement(environ)) as ranks:
        forward = warmed_up(ranks, kinds[rank])
        ranks.sum_on_host(0)
        result = {"eager": forward.parts is EAGER, "embeds": forward.parts.embed is embed}
        (folder / f"{rank}.json").write_text(json.dumps(result))
    os._exit(0)


@pytest.mark.parametrize(
    ("kinds", "eager", "first_says", "second_says"),
    [
        (("compiled", "compiled"), False, "", ""),
        (("eager", "eager"), True, "", ""),
        (("compiled", "broken"), True, f"{SAID}\n", f"{BROKEN}\n"),
        (("eager", "compiled"), True, f"{SAID}\n", ""),
    ],
)
def test_what_one_rank_cannot_compile_none_does(
    kinds: tuple[str, str], eager: bool, first_says: str, second_says: str, tmp_path: Path
) -> None:
    port = free_port()
    processes = [CONTEXT.Process(target=one_of_two, args=(rank, kinds, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0]
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result == {"eager": eager, "embeds": True}
    assert [(tmp_path / f"{rank}.out").read_text() for rank in range(2)] == [first_says, second_says]


def test_a_rank_alone_falls_back_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert warmed_up(Ranks(read_placement({})), "broken").parts is EAGER
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "all ranks continue without compiled kernels, more slowly: 1 of 1 have none"


def test_a_full_gpu_is_not_a_failure_to_compile() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        warmed_up(Ranks(read_placement({})), "full")
