"""Joining the process group, gradients over ranks, and which rank reports a failure."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from bertjobs.data.batches.batches import Batch
from bertjobs.errors import EXIT_FAILURE, BertjobsError, InputError
from bertjobs.launch.local import free_port
from bertjobs.model.bert import BertForPreTraining
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.pretraining.objective import probe
from bertjobs.train.ranks import MARGIN_S, FirstRankFailedError, Ranks, joined
from tests.cluster.slurm import PATIENCE_S
from tests.forkserver import CONTEXT, preload
from tests.train.conftest import Trial, truncate

preload(__name__)
CPU = torch.device("cpu")
SMALLEST = 6e-8  # the smallest number in fp16
TOO_LARGE = 1e12  # for fp16, as a factor on the loss
WAYS = {
    "plain": {},
    "small buckets": {"bucket_mb": 0.05},
    "fp16": {"compression": "fp16"},
    "bf16": {"compression": "bf16"},
}


@pytest.fixture
def silent_listener() -> Iterator[int]:
    """A port with a listener that never sends anything."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def join_in_vain(host: str, port: int, rank: int = 1, timeout_s: float = 1.0) -> BertjobsError:
    began = time.monotonic()
    environ = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    placement = read_placement({**environ, "WORLD_SIZE": "2"})
    with pytest.raises(BertjobsError) as caught, joined(placement, timeout_s):
        pass
    assert time.monotonic() - began < timeout_s + 200, "torch would wait forever, or for minutes"
    assert caught.value.exit_code == EXIT_FAILURE
    assert f"rank {rank} of 2 cannot join the others" in caught.value.what
    assert f"MASTER_ADDR={host} MASTER_PORT={port}" in str(caught.value.where)
    return caught.value


def test_a_closed_port_is_named() -> None:
    assert "Connection refused" in join_in_vain("127.0.0.1", free_port()).what


def test_a_name_without_an_address_is_named() -> None:
    assert "not known" in join_in_vain("nosuchhost.invalid", 29400).what


def test_an_address_that_never_answers_is_named() -> None:
    join_in_vain("192.0.2.1", 29400)  # for documentation (RFC 5737): no host has it


def test_a_listener_that_is_not_a_rank_is_named(silent_listener: int) -> None:
    assert "another program, not rank 0, is listening on that port" in join_in_vain("127.0.0.1", silent_listener).what


def test_rank_0_says_how_many_came() -> None:
    assert "1/2 clients joined" in join_in_vain("127.0.0.1", free_port(), rank=0).what


def gradients(
    ranks: Ranks, rank: int, *, checkpointing: bool = False, scale: float = 1.0, **way: object
) -> dict[str, Tensor]:
    """Gradients of one backward pass on random tokens, different on each rank: the mean over ranks."""
    spec = load_catalogue([builtin_file()]).model("bert-nano", "test")
    spec = replace(spec, vocab_size=100, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(0)
    model = BertForPreTraining(spec, activation_checkpointing=checkpointing)
    wrapped = ranks.wrapped(Forward(model), probe(CPU), **way)  # type: ignore[arg-type]
    if ranks.size == 1:
        assert all(parameter.grad is None for parameter in model.parameters())
    else:
        assert not any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)
    draw = torch.Generator().manual_seed(rank)
    tokens = torch.randint(5, 100, (2, 16), generator=draw)
    mlm, nsp = wrapped(Batch(tokens, torch.zeros_like(tokens), torch.ones_like(tokens), tokens, torch.tensor([0, 1])))
    ((mlm.loss_sum + nsp.loss_sum) * scale).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def raised(ranks: Ranks, error: Exception | None) -> Exception:
    """What `Ranks.raise_first` raises."""
    with pytest.raises((BertjobsError, KeyError, FirstRankFailedError)) as caught:
        ranks.raise_first(error)
    return caught.value


def check_errors(ranks: Ranks) -> None:
    """Rank 0 raises the error of any rank."""
    own = InputError(f"wrong on rank {ranks.rank}", where="shard", hint="mend it")
    first, second = raised(ranks, own if ranks.rank == 1 else None), raised(ranks, own)
    strange = raised(ranks, KeyError("x") if ranks.rank == 1 else None)
    plain = raised(ranks, KeyError("x") if ranks.rank == 0 else None)
    if ranks.is_first:
        assert str(first) == str(InputError("wrong on rank 1", where="shard", hint="mend it"))
        assert isinstance(first, InputError)
        assert second is own
        assert "KeyError('x')" in str(strange)
        assert "rank 1" in str(strange)
        assert isinstance(plain, KeyError)
    else:
        assert all(isinstance(error, FirstRankFailedError) for error in (first, second, strange, plain))


def two_ranks(rank: int, port: int, folder: Path) -> None:
    placement = read_placement(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    )
    torch.set_num_threads(1)
    with joined(placement) as ranks:
        ranks.set_timeout(7)
        group = distributed.group.WORLD
        assert group is not None
        assert group._get_backend(CPU).options._timeout.total_seconds() == 7 + MARGIN_S
        before = ranks.arrivals()
        ranks.sum_on_host(1)
        assert ranks.arrivals() == before + 1
        averaged = {name: gradients(ranks, rank, **way) for name, way in WAYS.items()}  # type: ignore[arg-type]
        averaged["checkpointing"] = gradients(ranks, rank, checkpointing=True)
        averaged["too large"] = gradients(ranks, rank, compression="fp16", scale=TOO_LARGE)
        arrivals = ranks.arrivals()
        assert arrivals > before + len(averaged), "what DDP sends is counted"
        assert ranks.sum_on_host(arrivals) == [2 * arrivals]
        check_errors(ranks)
        for name, tensors in averaged.items():
            save_file(tensors, folder / f"{name}-{rank}")
    os._exit(0)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The gradients by the way they were sent; the same on both ranks."""
    folder, port = tmp_path_factory.mktemp("gradients"), free_port()
    processes = [CONTEXT.Process(target=two_ranks, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0]
    both = [{name: load_file(folder / f"{name}-{rank}") for name in (*WAYS, "checkpointing", "too large")}
            for rank in range(2)]  # fmt: skip
    for name, tensors in both[0].items():
        for key, value in tensors.items():
            torch.testing.assert_close(both[1][name][key], value, rtol=0, atol=0, equal_nan=True)
    return both[0]


def test_gradients_are_the_mean_over_ranks(averaged: dict[str, dict[str, Tensor]]) -> None:
    alone = Ranks(read_placement({}))
    first, second = (gradients(alone, rank) for rank in range(2))
    assert averaged["plain"].keys() == first.keys()
    for name, value in averaged["plain"].items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["small buckets", "checkpointing"])
def test_buckets_and_activation_checkpointing_change_no_gradient(
    averaged: dict[str, dict[str, Tensor]], way: str
) -> None:
    for name, value in averaged["plain"].items():
        torch.testing.assert_close(averaged[way][name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("way", "bits"), [("fp16", 11), ("bf16", 8)])
def test_compression_rounds_gradients_and_no_more(averaged: dict[str, dict[str, Tensor]], way: str, bits: int) -> None:
    assert any(not torch.equal(averaged[way][name], value) for name, value in averaged["plain"].items())
    for name, value in averaged["plain"].items():
        largest = float(value.abs().max())
        torch.testing.assert_close(
            averaged[way][name], value, rtol=2 * 2.0**-bits, atol=largest * 2 * 2.0**-bits + 2 * SMALLEST
        )


def test_what_overflows_in_fp16_is_infinite_on_all_ranks(averaged: dict[str, dict[str, Tensor]]) -> None:
    assert not all(value.isfinite().all() for value in averaged["too large"].values())


def test_a_port_that_is_taken_is_named(trial: Trial) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (end,) = trial.having(MASTER_PORT=port, WORLD_SIZE=2).run(1, 1)
    assert end.code == 70, end
    assert "rank 0 of 2 cannot join the others" in end.err
    assert f"MASTER_PORT={port}" in end.err
    assert "Traceback" not in end.err


def test_a_rank_that_fails_alone_says_why_and_all_end(trial: Trial) -> None:
    """Rank 1 sees different data from rank 0: a truncated shard."""
    damaged = trial.results.parent / "damaged"
    shutil.copytree(trial.data, damaged)
    truncate(next((damaged / "phase1" / "train").iterdir()))
    first, second = trial.run(1, 2, {1: {"DATADIR": str(damaged)}})
    assert second.code == 64
    assert second.err.startswith("rank 1: error: shard ")
    assert first.code == 70
    assert "another rank is gone" in first.err
    assert "Traceback" not in first.err + second.err
