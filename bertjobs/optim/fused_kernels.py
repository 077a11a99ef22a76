"""Triton kernels of the fused LAMB. Imported only where Triton is.

A kernel works on a list of float32 tensors at once. An int64 table holds their addresses; each program takes one
block of one tensor: ``tensor_of[block]`` names it, ``first_block[tensor]`` is the number of its first block, and
``sizes[tensor]`` counts its elements. Sums go by block, then over blocks in a fixed order: equal inputs give equal
bits. ``scalars`` is what the step decided, float32: [1 if it is taken else 0, divisor of the gradients,
1 - b1^t, 1 - b2^t]. A step that is not taken stores no parameter and no moment.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_squares(gradients, tensor_of, first_block, sizes, squares, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """squares[block] = sum of g^2 over the block."""
    block = tl.program_id(0)
    tensor = tl.load(tensor_of + block)
    places = (block - tl.load(first_block + tensor)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < tl.load(sizes + tensor)
    g = tl.load(tl.load(gradients + tensor).to(tl.pointer_type(tl.float32)) + places, mask=inside, other=0.0)
    tl.store(squares + block, tl.sum(g * g, axis=0))


@triton.jit
def move_moments(  # type: ignore[no-untyped-def]
    parameters,
    gradients,
    firsts,
    seconds,
    tensor_of,
    first_block,
    sizes,
    scalars,
    weight_squares,
    update_squares,
    beta1,
    beta2,
    rest1,
    rest2,
    epsilon,
    weight_decay,
    BLOCK: tl.constexpr,
):
    """m and v are updated, g becomes the update u; *_squares[block] = sums of p^2 and u^2 over the block."""
    block = tl.program_id(0)
    tensor = tl.load(tensor_of + block)
    places = (block - tl.load(first_block + tensor)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < tl.load(sizes + tensor) * tl.load(scalars).to(tl.int64)
    p_at = tl.load(parameters + tensor).to(tl.pointer_type(tl.float32)) + places
    g_at = tl.load(gradients + tensor).to(tl.pointer_type(tl.float32)) + places
    m_at = tl.load(firsts + tensor).to(tl.pointer_type(tl.float32)) + places
    v_at = tl.load(seconds + tensor).to(tl.pointer_type(tl.float32)) + places

    p = tl.load(p_at, mask=inside, other=0.0)
    g = tl.div_rn(tl.load(g_at, mask=inside, other=0.0), tl.load(scalars + 1))
    m = beta1 * tl.load(m_at, mask=inside, other=0.0) + rest1 * g
    v = beta2 * tl.load(v_at, mask=inside, other=0.0) + rest2 * g * g
    root = tl.sqrt_rn(tl.div_rn(v, tl.load(scalars + 3)))
    u = tl.div_rn(tl.div_rn(m, tl.load(scalars + 2)), root + epsilon) + weight_decay * p
    u = tl.where(inside, u, 0.0)

    tl.store(m_at, m, mask=inside)
    tl.store(v_at, v, mask=inside)
    tl.store(g_at, u, mask=inside)
    tl.store(weight_squares + block, tl.sum(p * p, axis=0))
    tl.store(update_squares + block, tl.sum(u * u, axis=0))


@triton.jit
def trust_rates(  # type: ignore[no-untyped-def]
    first_block, weight_squares, update_squares, rates, lr, ADAPTS: tl.constexpr, BLOCK: tl.constexpr
):
    """rates[tensor] = lr |p| / |u|, or lr where a norm is 0 or the group does not adapt."""
    tensor = tl.program_id(0)
    if ADAPTS:
        start = tl.load(first_block + tensor)
        end = tl.load(first_block + tensor + 1)
        weights = tl.zeros([BLOCK], dtype=tl.float32)
        updates = tl.zeros([BLOCK], dtype=tl.float32)
        while start < end:
            blocks = start + tl.arange(0, BLOCK)
            weights += tl.load(weight_squares + blocks, mask=blocks < end, other=0.0)
            updates += tl.load(update_squares + blocks, mask=blocks < end, other=0.0)
            start += BLOCK
        weight = tl.sqrt_rn(tl.sum(weights, axis=0))
        update = tl.sqrt_rn(tl.sum(updates, axis=0))
        ratio = tl.where((weight != 0.0) & (update != 0.0), tl.div_rn(weight, update), 1.0)
        tl.store(rates + tensor, lr * ratio)
    else:
        tl.store(rates + tensor, lr)


@triton.jit
def apply_update(  # type: ignore[no-untyped-def]
    parameters, updates, tensor_of, first_block, sizes, scalars, rates, BLOCK: tl.constexpr
):
    """p -= rate u."""
    block = tl.program_id(0)
    tensor = tl.load(tensor_of + block)
    places = (block - tl.load(first_block + tensor)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < tl.load(sizes + tensor) * tl.load(scalars).to(tl.int64)
    p_at = tl.load(parameters + tensor).to(tl.pointer_type(tl.float32)) + places
    u_at = tl.load(updates + tensor).to(tl.pointer_type(tl.float32)) + places
    p = tl.load(p_at, mask=inside, other=0.0) - tl.load(rates + tensor) * tl.load(u_at, mask=inside, other=0.0)
    tl.store(p_at, p, mask=inside)
