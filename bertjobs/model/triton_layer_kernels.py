"""Triton kernels of what lies between a layer's matrix products. Imported only where Triton is.

Matrices are row-major without gaps, ``rows`` long and SIZE wide unless a stride says otherwise. Arithmetic is float32
whatever the tensors are. Sums over rows are made by each program over its own rows, always in the same order, into one
row of ``sums``; the rows of ``sums`` are then added by the caller. Nothing is added by atomics: equal inputs give equal
bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

PHILOX_ROUNDS = tl.constexpr(7)
"""As few as pass BigCrush (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""


@triton.jit
def _kept(seed, place, of_row, dropped, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[rows, COLUMNS] true where dropout keeps an element: 16 random bits are at least ``dropped``.

    A pure function of (seed, place, row, column). A draw of Philox has 128 bits: one serves 8 neighbours, which are the
    16 bytes that one thread loads, so that no draw has to move.
    """
    DRAWS: tl.constexpr = COLUMNS // 8
    draws = tl.arange(0, DRAWS)
    a, b, c, d = tl.philox(seed, of_row[:, None], draws[None, :], place, 0, n_rounds=PHILOX_ROUNDS)
    words = tl.join(tl.join(a, b), tl.join(c, d))
    bits = tl.reshape(tl.join(words, words << 16), [of_row.shape[0], COLUMNS])
    return bits >= (dropped.to(tl.uint32) << 16)


@triton.jit
def _tile(of_row, columns, rows, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of a tile of [rows, SIZE]: which elements are inside, and where all are; both [of_row, columns]."""
    inside = (of_row[:, None] < rows) & (columns[None, :] < SIZE)
    return inside, of_row.to(tl.int64)[:, None] * SIZE + columns[None, :]


@triton.jit(do_not_specialize=["dropped", "place"])
def add_norm(  # type: ignore[no-untyped-def]
    vectors,
    residual,
    weight,
    bias,
    output,
    normalised,
    scales,
    seed,
    rows,
    epsilon,
    dropped,
    kept_scale,
    place,
    DROPOUT: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """output = LayerNorm(dropout(vectors) + residual); normalised is it without weight and bias, scales [rows] 1 / sd.

    A program takes ROWS rows. COLUMNS is the power of two that is at least SIZE.
    """
    of_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside, at = _tile(of_row, columns, rows, SIZE)
    x = tl.load(vectors + at, mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        x = tl.where(_kept(tl.load(seed), place, of_row, dropped, COLUMNS), x * kept_scale, 0.0)
    total = x + tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=1) / SIZE
    centred = tl.where(columns[None, :] < SIZE, total - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / SIZE + epsilon)
    normal = centred * scale[:, None]
    w = tl.load(weight + columns, mask=columns < SIZE, other=0.0).to(tl.float32)
    b = tl.load(bias + columns, mask=columns < SIZE, other=0.0).to(tl.float32)
    tl.store(output + at, (normal * w[None, :] + b[None, :]).to(output.dtype.element_ty), mask=inside)
    tl.store(normalised + at, normal.to(normalised.dtype.element_ty), mask=inside)
    tl.store(scales + of_row, scale, mask=of_row < rows)


@triton.jit(do_not_specialize=["dropped", "place"])
def add_norm_backward(  # type: ignore[no-untyped-def]
    gradient,
    normalised,
    scales,
    weight,
    vectors_gradient,
    residual_gradient,
    sums,
    seed,
    rows,
    dropped,
    kept_scale,
    place,
    DROPOUT: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The gradients of what `add_norm` takes; sums [programs, 3, SIZE]: weight, bias, and sum of vectors_gradient.

    The last is the gradient of a bias that is part of ``vectors``. Without DROPOUT, vectors_gradient would be
    residual_gradient, and is not written.
    """
    columns = tl.arange(0, COLUMNS)
    w = tl.load(weight + columns, mask=columns < SIZE, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros([1, COLUMNS], dtype=tl.float32)
    of_bias = tl.zeros([1, COLUMNS], dtype=tl.float32)
    of_vectors = tl.zeros([1, COLUMNS], dtype=tl.float32)
    drawn_from = tl.load(seed)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        of_row = first + tl.arange(0, ROWS)
        inside, at = _tile(of_row, columns, rows, SIZE)
        g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        normal = tl.load(normalised + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scales + of_row, mask=of_row < rows, other=0.0)
        of_weight += tl.sum(g * normal, axis=0, keep_dims=True)
        of_bias += tl.sum(g, axis=0, keep_dims=True)
        g *= w
        mean = tl.sum(g, axis=1) / SIZE
        along = tl.sum(g * normal, axis=1) / SIZE
        d = (g - mean[:, None] - normal * along[:, None]) * scale[:, None]
        tl.store(residual_gradient + at, d.to(residual_gradient.dtype.element_ty), mask=inside)
        if DROPOUT:
            d = tl.where(_kept(drawn_from, place, of_row, dropped, COLUMNS), d * kept_scale, 0.0)
            tl.store(vectors_gradient + at, d.to(vectors_gradient.dtype.element_ty), mask=inside)
        of_vectors += tl.sum(d, axis=0, keep_dims=True)
    sums += tl.program_id(0) * 3 * SIZE + columns
    tl.store(sums, tl.sum(of_weight, axis=0), mask=columns < SIZE)
    tl.store(sums + SIZE, tl.sum(of_bias, axis=0), mask=columns < SIZE)
    tl.store(sums + 2 * SIZE, tl.sum(of_vectors, axis=0), mask=columns < SIZE)


@triton.jit
def _gelu_slope(x, TANH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The derivative of GELU (Hendrycks and Gimpel, arXiv 1606.08415), or of its approximation by tanh."""
    if TANH:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        tanh = 2.0 * tl.sigmoid(2.0 * inner) - 1.0
        slope = 0.7978845608028654 * (1.0 + 0.134145 * x * x)
        return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def gelu_backward(  # type: ignore[no-untyped-def]
    gradient,
    inputs,
    result,
    sums,
    rows,
    TANH: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """result = gradient times GELU's slope at ``inputs``; sums [programs along the rows, SIZE] of it over the rows.

    A program takes COLUMNS columns, and each so many-th group of ROWS rows.
    """
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        of_row = first + tl.arange(0, ROWS)
        inside, at = _tile(of_row, columns, rows, SIZE)
        g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(inputs + at, mask=inside, other=0.0).to(tl.float32)
        d = g * _gelu_slope(x, TANH)
        tl.store(result + at, d.to(result.dtype.element_ty), mask=inside)
        total += d
    tl.store(sums + tl.program_id(1) * SIZE + columns, tl.sum(total, axis=0), mask=columns < SIZE)


@triton.jit
def join(  # type: ignore[no-untyped-def]
    first_part,
    second_part,
    third_part,
    result,
    sums,
    first_stride,
    second_stride,
    third_stride,
    rows,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """result [rows, PARTS, SIZE]: two or three matrices side by side; sums [programs along the rows, PARTS, SIZE].

    Strides count numbers from row to row.
    """
    blocks: tl.constexpr = (SIZE + COLUMNS - 1) // COLUMNS
    part = tl.program_id(0) // blocks
    columns = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    source = first_part
    stride = first_stride
    if part == 1:
        source = second_part
        stride = second_stride
    elif part == 2:
        source = third_part
        stride = third_stride
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        of_row = (first + tl.arange(0, ROWS)).to(tl.int64)
        inside = (of_row[:, None] < rows) & (columns[None, :] < SIZE)
        x = tl.load(source + of_row[:, None] * stride + columns[None, :], mask=inside, other=0.0)
        at = of_row[:, None] * (PARTS * SIZE) + part * SIZE + columns[None, :]
        tl.store(result + at, x, mask=inside)
        total += x.to(tl.float32)
    sums += tl.program_id(1) * PARTS * SIZE + part * SIZE
    tl.store(sums + columns, tl.sum(total, axis=0), mask=columns < SIZE)
