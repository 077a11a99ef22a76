"""What `bertjobs bench` measures: rates that follow from the clock, and files that `bertjobs plan` reads."""

from __future__ import annotations

import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bertjobs.bench import compare as comparison
from bertjobs.bench import sweep as bench
from bertjobs.bench.compare import EAGER, NVIDIA, OURS, PADDED, SDPA, Comparison, Result, _check, compare
from bertjobs.bench.cuts import TimedSequences
from bertjobs.bench.device import Device, open_bench_device
from bertjobs.bench.profile import ATTENTION, KINDS, PRODUCTS, profile_phase
from bertjobs.bench.sequences import BenchData, synthetic_data
from bertjobs.bench.sweep import Measurement, Rank, Sweep, keep, measure, micro_batch_sizes, rank_step, sweep
from bertjobs.bench.text import compared_json, compared_text, comparison_text, suggestion, sweep_text
from bertjobs.data.batches.packed_batches import packing_limits
from bertjobs.errors import BertjobsError, InputError
from bertjobs.launch.plan.estimate import earlier_runs, estimate_phase, measured_peaks
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import PhaseSpec, RunSpec

CPU = torch.device("cpu")
SLOW_S = 0.05

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(*sets: str, recipe: str = "laptop", **flags: object) -> RunSpec:
    """A recipe whose model is as small as possible, on data that do not exist."""
    sets = ("model=bert-nano", "vocabulary=any", *sets) if recipe == "laptop" else sets
    catalogue = load_catalogue([builtin_file()])
    spec = resolve(catalogue, flags={"recipe": recipe, "data": "/no/such/folder", **flags}, environ={}, sets=sets).spec
    return spec if spec.model.vocab_size else replace(spec, model=replace(spec.model, vocab_size=500))


@pytest.fixture(params=["unpad=true", "unpad=false"])
def spec(request: pytest.FixtureRequest) -> RunSpec:
    return tiny(request.param, "phase1.global_batch=64", "phase1.micro_batch=4")


def one_phase(spec: RunSpec) -> tuple[PhaseSpec, BenchData]:
    return spec.phases[0], synthetic_data(spec, spec.phases[0], rows=512)


def test_rates_follow_from_the_clock_and_the_work(spec: RunSpec) -> None:
    phase, data = one_phase(spec)
    rank = Rank(spec, phase, CPU)
    started = time.perf_counter()
    measurement = measure(rank, data, 4, peak=1e12, seconds=0.2, repeats=2)
    took = time.perf_counter() - started
    a_micro_batch = measurement.forward_backward_s / phase.rank_batch * 4
    assert 0 < a_micro_batch * measurement.measured_micro_batches < took
    assert measurement.sequences_per_s == pytest.approx(
        phase.rank_batch / (measurement.forward_backward_s + measurement.optimizer_s)
    )
    lengths = torch.from_numpy(data.shards.lengths(data.shards.kept) + 3).double()
    masked = int(data.masking.predictions(data.shards, data.shards.kept).sum())
    counts = StepCounts(len(lengths), masked, int(lengths.sum()), int(lengths.square().sum()))
    flops = step_flops(spec.model, spec.model.vocab_size, counts) / len(lengths)
    assert measurement.flops_per_s / measurement.sequences_per_s == pytest.approx(
        flops, rel=0.2
    )  # 32 sequences stand for 512
    assert measurement.peak_share == pytest.approx(measurement.flops_per_s / 1e12)
    assert measurement.tokens_per_s / measurement.sequences_per_s == pytest.approx(float(lengths.mean()), rel=0.15)
    assert 0.5 < measurement.efficiency <= 1
    assert 0 < measurement.peak_memory_gb < 30


class Clock:
    """A millisecond passes between two readings, plus the time slept."""

    seconds = 0.0

    def perf_counter(self) -> float:
        self.sleep(0.001)
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Slow(torch.nn.Module):
    """A forward pass that waits before each micro-batch."""

    def __init__(self, inner: torch.nn.Module, clock: Clock):
        super().__init__()
        self.inner, self.clock = inner, clock

    def forward(self, batch: Any) -> Any:
        self.clock.sleep(SLOW_S)
        return self.inner(batch)


def test_a_slow_forward_pass_and_a_slow_optimizer_each_show_in_their_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    spec = tiny("unpad=true", "phase1.global_batch=64", "phase1.micro_batch=4")
    phase, data = one_phase(spec)
    rank = Rank(spec, phase, CPU)
    micro_batches = len(rank_step(spec, phase, data, 4, CPU))
    rank.forward = Slow(rank.forward, clock)  # type: ignore[assignment]
    measurement = measure(rank, data, 4, peak=1e12, seconds=0.3, repeats=2)
    assert measurement.forward_backward_s >= 0.8 * micro_batches * SLOW_S  # packs hold different numbers of sequences
    assert measurement.optimizer_s < SLOW_S

    rank = Rank(spec, phase, CPU)
    update = rank.optimizer.optimizer.step
    rank.optimizer.optimizer.step = lambda scale: (clock.sleep(SLOW_S), update(scale))[1]  # type: ignore[method-assign]
    assert measure(rank, data, 4, peak=1e12, seconds=0.3, repeats=2).optimizer_s >= SLOW_S


def test_a_rank_s_step_is_its_share_of_the_recipe_s_packs() -> None:
    spec = tiny("unpad=true", "phase1.global_batch=512", "phase1.micro_batch=16")
    phase, data = one_phase(spec)
    limits = packing_limits(data.shards, data.masking, most=16 * 128, max_length=128, global_batch=512)
    assert spec.world_size == 2
    assert limits.packs == 32
    assert limits.tokens < 16 * 128
    micro_batches = rank_step(spec, phase, data, 16, CPU)
    assert [len(batch.input_ids) for batch in micro_batches] == [limits.tokens] * 16
    assert sum(batch.sequences for batch in micro_batches) == pytest.approx(phase.rank_batch, rel=0.1)


def test_a_step_takes_as_long_as_the_rank_with_most_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    spec = tiny("unpad=true", "phase1.global_batch=15", "phase1.micro_batch=15", tasks_per_node=5, phase=1)
    phase, data = one_phase(spec)
    rank = Rank(spec, phase, CPU)
    rank.forward = Slow(rank.forward, clock)  # type: ignore[assignment]
    assert len(rank_step(spec, phase, data, 15, CPU)) == 1, "one pack for five ranks: four of them have an empty one"
    measurement = measure(rank, data, 15, peak=1e12, seconds=0.3, repeats=1)
    assert measurement.forward_backward_s >= 0.9 * SLOW_S


def test_a_sweep_tries_what_divides_the_rank_batch() -> None:
    phase = replace(tiny().phases[0], rank_batch=96, micro_batch=8)
    assert micro_batch_sizes(phase) == [2, 4, 8, 16, 32]
    assert micro_batch_sizes(replace(phase, micro_batch=48)) == [12, 24, 48, 96]
    assert micro_batch_sizes(replace(phase, micro_batch=3)) == [3, 6, 12, 24, 48, 96]


def test_a_sweep_ends_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch, spec: RunSpec) -> None:
    real = bench.measure

    def limited(rank: Rank, data: BenchData, size: int, **others: Any) -> Measurement:
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(rank, data, size, **others)

    monkeypatch.setattr(bench, "measure", limited)
    reported: list[Measurement] = []
    result = sweep(spec, spec.phases[0], CPU, seconds=0.05, repeats=1, report=lambda _, one: reported.append(one))
    assert [one.micro_batch for one in result.measurements] == [1, 2, 4] == [one.micro_batch for one in reported]
    assert result.ended == "8 sequences ran out of memory"
    assert "<- best" in sweep_text(spec, result)
    assert "out of memory" in sweep_text(spec, result)
    asked = sweep(spec, spec.phases[0], CPU, sizes=[2, 1, 2], seconds=0.05, repeats=1)
    assert [one.micro_batch for one in asked.measurements] == [1, 2]
    assert asked.ended == "no larger one was asked for"
    assert "was not measured" in suggestion(spec, asked)
    with pytest.raises(BertjobsError, match="16 sequences ran out of memory"):
        sweep(spec, spec.phases[0], CPU, sizes=[16], seconds=0.05, repeats=1)


def test_a_recipe_for_gpus_is_refused_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="torch sees none"):
        open_bench_device(tiny(recipe="h200"))


def measured(size: int, rate: float, phase: PhaseSpec) -> Measurement:
    return Measurement(
        phase=phase.phase,
        micro_batch=size,
        gradient_steps=phase.rank_batch // size,
        token_budget=size * phase.sequence_length,
        pack_tokens=1.0,
        efficiency=1.0,
        sequences_per_s=rate,
        tokens_per_s=rate,
        flops_per_s=rate,
        peak_share=0.5,
        peak_memory_gb=60.0 + size / 100,
        forward_backward_s=9.9,
        optimizer_s=0.1,
        spread=0.0,
        measured_micro_batches=1,
    )


def sweep_of(spec: RunSpec, device: Device, rates: dict[int, float]) -> Sweep:
    phase = spec.phases[0]
    measurements = tuple(measured(size, rate, phase) for size, rate in rates.items())
    return Sweep(phase, device, "data", "forward", "lamb", 1e12, measurements, "")


H200 = Device("cuda", "NVIDIA H200", 150.1, 0)


def test_plan_reads_what_a_sweep_wrote(tmp_path: Path) -> None:
    spec = tiny(recipe="h200", nodes=2)
    phase = spec.phases[0]
    rates = {phase.micro_batch // 2: 2000.0, phase.micro_batch: 2500.0}
    keep(spec, sweep_of(spec, H200, rates), tmp_path)
    runs = earlier_runs(tmp_path)
    estimate = estimate_phase(spec, phase, 30522, None, runs)
    assert estimate
    assert 0.9 * 16 * 2500 < estimate.sequences_per_s < 16 * 2500, "less what is lost between ranks"
    assert estimate.source.startswith("bertjobs bench, this recipe's model on NVIDIA H200: 2,500 sequences/s")
    assert measured_peaks(spec, runs)[1].tensors_gb == 60.0 + phase.micro_batch / 100
    assert list(measured_peaks(spec, runs)) == [1]
    assert measured_peaks(replace(spec, teacher="/teacher"), runs) == {}
    assert estimate_phase(spec, spec.phases[1], 30522, None, runs) is None
    padded = tiny("unpad=false" if spec.unpad else "unpad=true", recipe="h200", nodes=2)
    assert estimate_phase(padded, phase, 30522, None, runs) is None


def test_the_best_is_suggested_in_the_words_of_a_recipe() -> None:
    spec = tiny(recipe="h200")
    phase, own = spec.phases[0], spec.phases[0].micro_batch
    assert sweep_of(spec, H200, {own // 2: 990.0, own: 1000.0}).best.micro_batch == own // 2  # within 1%
    result = sweep_of(spec, H200, {own // 2: 1200.0, own: 1000.0})
    text = suggestion(spec, result)
    assert f"GRADIENT_STEPS={2 * phase.gradient_steps}" in text
    assert "20.0% faster" in text
    again = tiny(f"phase1.micro_batch={own // 2}", recipe="h200").phases[0]
    assert again.gradient_steps == 2 * phase.gradient_steps
    assert "nothing to set" in suggestion(spec, sweep_of(spec, H200, {own // 2: 900.0, own: 1000.0}))


@pytest.mark.parametrize(("number", "mean"), [(1, 106), (2, 254)])
def test_synthetic_sequences_are_as_long_as_articles(number: int, mean: int) -> None:
    spec = tiny()
    phase = spec.phase(number)
    data = synthetic_data(spec, phase)
    lengths = data.shards.lengths(data.shards.kept) + 3
    assert lengths.mean() == pytest.approx(mean, rel=0.02)
    assert lengths.max() == phase.sequence_length
    assert f"{mean} tokens" in data.source or f"{lengths.mean():.0f} tokens" in data.source


@pytest.mark.parametrize("by_length", [False, True])
def test_all_cuts_hold_the_same_sequences_and_masks(by_length: bool) -> None:
    spec = tiny()
    phase = spec.phases[1]
    work = TimedSequences.of(synthetic_data(spec, phase, rows=512), phase, 21, by_length)
    packs, padded, fixed = work.packed(8), work.padded(8), work.fixed(8)
    labels = sorted(torch.cat([pack.labels[: pack.masked] for pack in packs]).tolist())
    for batches in (padded, fixed):
        assert sum(batch.sequences for batch in batches) == 21
        assert sum(batch.tokens for batch in batches) == work.counts().tokens == sum(pack.tokens for pack in packs)
        assert sorted(torch.cat([b.labels[b.labels >= 0] for b in batches]).tolist()) == labels
    assert {batch.input_ids.shape[1] for batch in fixed} == {512}
    assert all(len(pack.input_ids) <= 8 * 512 for pack in packs)
    assert sum(batch.input_ids.numel() for batch in padded) <= sum(batch.input_ids.numel() for batch in fixed)


class Comparing:
    """A comparison, and what was reported on the way: the results so far."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        spec = tiny("phase1.micro_batch=4")
        data = synthetic_data(spec, spec.phases[0], rows=512)
        names = (PADDED, NVIDIA, SDPA, EAGER)
        self.result = compare(spec, spec.phases[0], data, CPU, micro_batch=4, sequences=12, rounds=2, names=names,
                              report=self.report)  # fmt: skip

    def report(self, so_far: Comparison, result: Result) -> None:
        assert result is so_far.results[-1]
        assert len(result.sequences_per_s) == 2
        self.names.append([result.name for result in so_far.results])


@pytest.fixture(scope="module")
def comparing() -> Comparing:
    pytest.importorskip("transformers")
    return Comparing()


@pytest.fixture
def compared(comparing: Comparing) -> Comparison:
    return comparing.result


def test_each_variant_is_reported_as_soon_as_it_is_measured_the_cheapest_first(comparing: Comparing) -> None:
    order = [OURS, PADDED, SDPA, NVIDIA, EAGER]
    assert comparing.names == [order[: number + 1] for number in range(len(order))]


def test_variants_compute_the_same_loss_and_are_timed_in_turn_with_ours(compared: Comparison) -> None:
    losses = [result.loss for result in compared.results]
    assert max(losses) - min(losses) < 1e-4
    assert losses[0] == pytest.approx(6.2 + 0.7, abs=0.5)  # ln 500 + ln 2
    assert all(len(result.sequences_per_s) == len(result.ours_sequences_per_s) == 2 for result in compared.results)
    own = {result.ours_sequences_per_s for result in compared.results}
    assert len(own) == len(compared.results)  # ours is timed anew with each
    places = [compared.result(name).places for name in (OURS, PADDED, NVIDIA)]
    assert compared.tokens <= places[0] < places[1] <= places[2] == 12 * 128
    theirs = compared.result(SDPA)
    ratios = sorted(a / b for a, b in zip(theirs.ours_sequences_per_s, theirs.sequences_per_s, strict=True))
    assert ratios[0] <= compared.ratio(SDPA) <= ratios[1]
    assert compared.ratio(OURS) == 1
    best = compared.best_of()
    assert best is not None
    assert f"{compared.ratio(best):.2f} times as fast as {best}" in comparison_text(compared)


def test_a_slow_other_variant_shows_in_its_own_ratio_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(comparison, "time", clock)
    spec = tiny("phase1.micro_batch=4")
    data = synthetic_data(spec, spec.phases[0], rows=512)
    plain = comparison._loss_of_all_tokens
    monkeypatch.setattr(comparison, "_loss_of_all_tokens", lambda *a: (clock.sleep(SLOW_S), plain(*a))[1])
    result = compare(
        spec, spec.phases[0], data, CPU, micro_batch=4, sequences=12, rounds=1, names=(PADDED, NVIDIA)
    )  # fmt: skip
    packs, batches = (result.result(name).micro_batches for name in (OURS, NVIDIA))
    # A turn takes a millisecond on this clock, and one of the slow variant what it waits in addition.
    assert result.ratio(NVIDIA) == pytest.approx(batches * (SLOW_S + 0.001) / (0.001 * packs))
    assert result.ratio(PADDED) == pytest.approx(result.result(PADDED).micro_batches / packs)


def test_at_most_two_models_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    build, alive = comparison._hugging_face, []

    def remembered(*arguments: Any) -> torch.nn.Module:
        assert [model() for model in alive] == [None] * len(alive)
        theirs = build(*arguments)
        alive.append(weakref.ref(theirs))
        return theirs

    monkeypatch.setattr(comparison, "_hugging_face", remembered)
    spec = tiny("phase1.micro_batch=4")
    data = synthetic_data(spec, spec.phases[0], rows=512)
    compare(spec, spec.phases[0], data, CPU, micro_batch=4, sequences=8, rounds=1, names=(SDPA, EAGER))
    assert len(alive) == 2


def test_foreign_code_that_fails_costs_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such kernel\nin a long story")

    monkeypatch.setattr(comparison, "_hugging_face", refuse)
    spec = tiny("phase1.micro_batch=4")
    data = synthetic_data(spec, spec.phases[0], rows=512)
    result = compare(spec, spec.phases[0], data, CPU, micro_batch=4, sequences=8, rounds=1, names=(SDPA, NVIDIA))
    assert [one.failed for one in result.results] == ["", "RuntimeError: no such kernel", ""]
    assert result.ratio(SDPA) is None
    assert result.best_of() is None
    assert "did not run: RuntimeError: no such kernel" in comparison_text(result)
    words = [compared_text(result, one) for one in result.results]
    assert "failed: RuntimeError: no such kernel" in words[1]
    assert "ours is" in words[2]
    row = compared_json(result, result.results[1])
    assert (row["ours_is_times_as_fast"], row["peak_share"], row["loss"]) == (None, None, None)


def test_variants_that_compute_something_else_are_refused(compared: Comparison) -> None:
    other = replace(compared.results[1], loss=compared.results[1].loss + 0.01)
    with pytest.raises(BertjobsError, match="do not compute the same"):
        _check([compared.results[0], other], "fp32")
    _check([compared.results[0], Result("other", failed="no compiler")], "fp32")


def test_shares_of_a_profile_add_up_to_the_whole_step() -> None:
    spec = tiny("unpad=true", "phase1.global_batch=64", "phase1.micro_batch=4")
    phase, data = one_phase(spec)
    profile = profile_phase(spec, phase, data, CPU, micro_batch=4, micro_batches=2)
    assert list(profile.shares) == list(KINDS)
    assert sum(profile.shares.values()) == pytest.approx(1)
    assert min(profile.shares.values()) >= 0
    assert profile.shares[ATTENTION] > 0
    assert profile.shares[PRODUCTS] > 0
    assert 0 < profile.wall_s < 30
