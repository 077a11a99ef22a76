"""The batch arithmetic is exact, or it is an error that names the nearest choices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.recipe.batch import BatchSizes, divide, nearest_divisors

sizes = st.integers(1, 4096)


@given(rank_batch=sizes, world_size=sizes, limit=sizes)
def test_the_product_of_the_parts_is_the_whole(rank_batch: int, world_size: int, limit: int) -> None:
    cut = divide(rank_batch * world_size, world_size, limit)
    assert cut.global_batch == rank_batch * world_size
    assert cut.rank_batch * world_size == cut.global_batch
    assert cut.micro_batch * cut.gradient_steps == cut.rank_batch
    assert cut.micro_batch <= limit


@given(rank_batch=sizes, world_size=sizes, limit=sizes)
def test_no_larger_micro_batch_fits(rank_batch: int, world_size: int, limit: int) -> None:
    cut = divide(rank_batch * world_size, world_size, limit)
    larger = range(cut.micro_batch + 1, min(limit, rank_batch) + 1)
    assert all(rank_batch % size for size in larger)


@given(global_batch=st.integers(1, 10**6), world_size=sizes, limit=sizes)
def test_a_global_batch_is_kept_or_refused(global_batch: int, world_size: int, limit: int) -> None:
    if global_batch % world_size:
        with pytest.raises(InputError):
            divide(global_batch, world_size, limit)
    else:
        assert divide(global_batch, world_size, limit).global_batch == global_batch


@given(rank_batch=sizes, world_size=sizes, steps=sizes, limit=sizes)
def test_given_sizes_are_obeyed_or_refused(rank_batch: int, world_size: int, steps: int, limit: int) -> None:
    if rank_batch % steps:
        with pytest.raises(InputError):
            divide(1, world_size, limit, rank_batch, steps)
    else:
        expected = BatchSizes(rank_batch * world_size, rank_batch, rank_batch // steps, steps)
        assert divide(1, world_size, limit, rank_batch, steps) == expected


@given(number=st.integers(1, 5000), target=st.integers(1, 6000))
def test_nearest_divisors_are_divisors_with_none_between(number: int, target: int) -> None:
    divisors = nearest_divisors(number, target)
    assert divisors
    assert all(number % n == 0 for n in divisors)
    between = range(divisors[0] + 1, divisors[-1])
    assert not any(number % n == 0 for n in between)
    assert divisors[0] <= target


def test_an_indivisible_global_batch_names_nodes_and_batches() -> None:
    with pytest.raises(InputError) as error:
        divide(65536, 24, 16, tasks_per_node=8)
    assert error.value.exit_code == 64
    assert "65536 cannot be divided over 24 ranks (3 nodes x 8 tasks)" in error.value.what
    assert error.value.hint is not None
    assert "8 tasks per node: 2 or 4;" in error.value.hint
    assert "65520 or 65544" in error.value.hint


def test_tasks_that_never_divide_name_world_sizes() -> None:
    with pytest.raises(InputError, match="nearest world sizes that divide it: 4 or 8"):
        divide(64, 6, 16, tasks_per_node=3)


def test_more_ranks_than_sequences_name_what_fits() -> None:
    with pytest.raises(InputError, match=r"divide it, with 8 tasks per node: 4; .* for 64 ranks: 64"):
        divide(32, 64, 16, tasks_per_node=8)


def test_indivisible_gradient_steps_name_the_nearest() -> None:
    with pytest.raises(InputError, match="nearest GRADIENT_STEPS that divide it: 64 or 128") as error:
        divide(65536, 32, 16, rank_batch=2048, gradient_steps=100)
    assert error.value.exit_code == 64


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ((0, 1, 1), "global batch"),
        ((1, 0, 1), "world size"),
        ((1, 1, 0), "micro-batch limit"),
        ((1, 1, 1, 0), "BATCHSIZE"),
        ((1, 1, 1, 1, -1), "GRADIENT_STEPS"),
    ],
)
def test_sizes_below_one_are_refused(sizes: tuple[int, ...], name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be at least 1"):
        divide(*sizes)
