"""Triton kernels of attention with dropout on concatenated sequences. Imported only where Triton is.

The plan is FlashAttention-2's (Dao, arXiv 2307.08691): probabilities are never stored, the backward pass computes them
again from the rows' log-sum-exp. Sequence s owns queries ``query_starts[s]`` to ``query_starts[s + 1]`` and keys
``key_starts[s]`` to ``key_starts[s + 1]``. The grid has one sequence more than there are, which owns the rows after
the last: its programs write zeros there. Strides count numbers, from row to row and from head to head.

No sum depends on which program is first: equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

PHILOX_ROUNDS = tl.constexpr(7)
"""As few as pass BigCrush (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""


@triton.jit
def _kept(seed, sequence, head, queries, first_key, dropped, KEYS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[queries, KEYS] true where dropout keeps a probability: 16 random bits are at least ``dropped``.

    A pure function of (seed, sequence, head, query, key), so the backward pass draws what the forward pass drew,
    whatever the tiles. A draw of Philox has 128 bits: one serves the 8 keys that lie 8 apart in 64. Those are the ones
    that one thread holds in a tile of the tensor cores, so that no draw has to move.
    """
    DRAWS: tl.constexpr = KEYS // 8
    draws = first_key // 8 + tl.arange(0, DRAWS)
    a, b, c, d = tl.philox(seed, queries[:, None], draws[None, :], sequence, head, n_rounds=PHILOX_ROUNDS)
    words = tl.join(tl.join(a, b), tl.join(c, d))
    bits = tl.reshape(tl.join(words, words << 16), [queries.shape[0], DRAWS // 8, 8, 8])
    bits = tl.reshape(tl.permute(bits, (0, 1, 3, 2)), [queries.shape[0], KEYS])
    return bits >= (dropped.to(tl.uint32) << 16)


@triton.jit
def _clear(rows, stride, first, step, end, ROWS: tl.constexpr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes zeros to ROWS rows from ``first`` on, then to those ``step`` rows on, up to ``end``."""
    sizes = tl.arange(0, SIZE)
    while first < end:
        places = first.to(tl.int64) + tl.arange(0, ROWS)
        at = rows + places[:, None] * stride + sizes[None, :]
        tl.store(at, tl.zeros([ROWS, SIZE], dtype=rows.dtype.element_ty), mask=places[:, None] < end)
        first += step


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    output,
    log_sums,
    query_starts,
    key_starts,
    seed,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    rows,
    scale,
    dropped,
    kept_scale,
    DROPOUT: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """output [rows, heads, SIZE], log_sums [heads, rows]: log2 of the sums of 2^scores, where ``scale`` has log2(e)."""
    head = tl.program_id(1)
    sequence = tl.program_id(2)
    first_query = tl.program_id(0) * QUERIES
    stride = tl.num_programs(1) * SIZE
    output += head * SIZE
    query_start = tl.load(query_starts + sequence)
    if sequence == tl.num_programs(2) - 1:
        _clear(output, stride, query_start + first_query, tl.num_programs(0) * QUERIES, rows, QUERIES, SIZE)
        return
    queries = tl.load(query_starts + sequence + 1) - query_start
    if first_query >= queries:
        return
    key_start = tl.load(key_starts + sequence)
    keys = tl.load(key_starts + sequence + 1) - key_start

    sizes = tl.arange(0, SIZE)
    of_query = first_query + tl.arange(0, QUERIES)
    query_inside = of_query[:, None] < queries
    query += query_start.to(tl.int64) * query_stride + head * query_head_stride
    key += key_start.to(tl.int64) * key_stride + head * key_head_stride
    value += key_start.to(tl.int64) * value_stride + head * value_head_stride
    q = tl.load(query + of_query[:, None] * query_stride + sizes[None, :], mask=query_inside, other=0.0)

    highest = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    sums = tl.zeros([QUERIES, SIZE], dtype=tl.float32)
    drawn_from = tl.load(seed)
    for first_key in range(0, keys, KEYS):
        of_key = first_key + tl.arange(0, KEYS)
        key_inside = of_key[:, None] < keys
        k = tl.load(key + of_key[:, None] * key_stride + sizes[None, :], mask=key_inside, other=0.0)
        v = tl.load(value + of_key[:, None] * value_stride + sizes[None, :], mask=key_inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(of_key[None, :] < keys, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1) * scale)
        p = tl.exp2(scores * scale - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(p, axis=1)
        if DROPOUT:
            p = tl.where(_kept(drawn_from, sequence, head, of_query, first_key, dropped, KEYS), p, 0.0)
        sums = tl.dot(p.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
        highest = higher

    # A query that has no keys attends to nothing: its output is zero.
    total = tl.where(total > 0.0, total, 1.0)
    output += query_start.to(tl.int64) * stride
    result = sums * (kept_scale / total)[:, None]
    tl.store(
        output + of_query[:, None] * stride + sizes[None, :], result.to(output.dtype.element_ty), mask=query_inside
    )
    log_sums += head.to(tl.int64) * rows + query_start
    tl.store(log_sums + of_query, highest + tl.log2(total), mask=of_query < queries)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    output,
    log_sums,
    output_gradient,
    query_gradient,
    key_gradient,
    value_gradient,
    key_sums,
    value_sums,
    query_starts,
    key_starts,
    seed,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    output_gradient_stride,
    output_gradient_head_stride,
    query_gradient_stride,
    key_gradient_stride,
    value_gradient_stride,
    query_rows,
    key_rows,
    scale,
    score_scale,
    dropped,
    kept_scale,
    DROPOUT: tl.constexpr,
    ONE_TILE: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """The three gradients; heads lie SIZE apart in each. A program takes one head of one sequence.

    So probabilities are computed once for all three. Where the queries are more than a tile (not ONE_TILE), the
    gradients of keys and values are summed over their tiles in ``key_sums`` and ``value_sums``, float32 [key_rows,
    heads, SIZE], of which no other program touches this one's part.
    """
    head = tl.program_id(0)
    sequence = tl.program_id(1)
    query_gradient += head * SIZE
    key_gradient += head * SIZE
    value_gradient += head * SIZE
    query_start = tl.load(query_starts + sequence)
    key_start = tl.load(key_starts + sequence)
    if sequence == tl.num_programs(1) - 1:
        _clear(query_gradient, query_gradient_stride, query_start, QUERIES, query_rows, QUERIES, SIZE)
        _clear(key_gradient, key_gradient_stride, key_start, KEYS, key_rows, KEYS, SIZE)
        _clear(value_gradient, value_gradient_stride, key_start, KEYS, key_rows, KEYS, SIZE)
        return
    key_end = tl.load(key_starts + sequence + 1)
    keys = key_end - key_start
    queries = tl.load(query_starts + sequence + 1) - query_start
    if queries == 0:
        _clear(key_gradient, key_gradient_stride, key_start, KEYS, key_end, KEYS, SIZE)
        _clear(value_gradient, value_gradient_stride, key_start, KEYS, key_end, KEYS, SIZE)
        return

    stride = tl.num_programs(0) * SIZE
    sizes = tl.arange(0, SIZE)
    query += query_start.to(tl.int64) * query_stride + head * query_head_stride
    key += key_start.to(tl.int64) * key_stride + head * key_head_stride
    value += key_start.to(tl.int64) * value_stride + head * value_head_stride
    output += query_start.to(tl.int64) * stride + head * SIZE
    output_gradient += query_start.to(tl.int64) * output_gradient_stride + head * output_gradient_head_stride
    query_gradient += query_start.to(tl.int64) * query_gradient_stride
    key_gradient += key_start.to(tl.int64) * key_gradient_stride
    value_gradient += key_start.to(tl.int64) * value_gradient_stride
    log_sums += head.to(tl.int64) * query_rows + query_start
    key_sums += key_start.to(tl.int64) * stride + head * SIZE
    value_sums += key_start.to(tl.int64) * stride + head * SIZE
    drawn_from = tl.load(seed)

    for first_query in range(0, queries, QUERIES):
        of_query = first_query + tl.arange(0, QUERIES)
        inside = of_query[:, None] < queries
        to_add = tl.where(first_query > 0, keys, 0)
        to_keep = tl.where(first_query + QUERIES < queries, keys, 0)
        q = tl.load(query + of_query[:, None] * query_stride + sizes[None, :], mask=inside, other=0.0)
        do_at = output_gradient + of_query[:, None] * output_gradient_stride + sizes[None, :]
        do = tl.load(do_at, mask=inside, other=0.0)
        o = tl.load(output + of_query[:, None] * stride + sizes[None, :], mask=inside, other=0.0)
        log_sum = tl.load(log_sums + of_query, mask=of_query < queries, other=float("inf"))
        delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), axis=1)
        dq = tl.zeros([QUERIES, SIZE], dtype=tl.float32)
        for first_key in range(0, keys, KEYS):
            of_key = first_key + tl.arange(0, KEYS)
            key_inside = of_key[:, None] < keys
            k = tl.load(key + of_key[:, None] * key_stride + sizes[None, :], mask=key_inside, other=0.0)
            v = tl.load(value + of_key[:, None] * value_stride + sizes[None, :], mask=key_inside, other=0.0)
            dk = tl.zeros([KEYS, SIZE], dtype=tl.float32)
            dv = tl.zeros([KEYS, SIZE], dtype=tl.float32)
            if not ONE_TILE:
                sums_at = of_key[:, None] * stride + sizes[None, :]
                dk = tl.load(key_sums + sums_at, mask=of_key[:, None] < to_add, other=0.0)
                dv = tl.load(value_sums + sums_at, mask=of_key[:, None] < to_add, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            scores = tl.where(of_key[None, :] < keys, scores, float("-inf"))
            p = tl.exp2(scores * score_scale - log_sum[:, None])
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            dropped_p = p
            if DROPOUT:
                kept = _kept(drawn_from, sequence, head, of_query, first_key, dropped, KEYS)
                dropped_p = tl.where(kept, p, 0.0)
                dp = tl.where(kept, dp * kept_scale, 0.0)
            ds = (p * (dp - delta[:, None])).to(q.dtype)
            dv = tl.dot(tl.trans(dropped_p.to(do.dtype)), do, dv, input_precision="ieee")
            dk = tl.dot(tl.trans(ds), q, dk, input_precision="ieee")
            dq = tl.dot(ds, k, dq, input_precision="ieee")

            if not ONE_TILE:
                tl.store(key_sums + sums_at, dk, mask=of_key[:, None] < to_keep)
                tl.store(value_sums + sums_at, dv, mask=of_key[:, None] < to_keep)
            given = of_key[:, None] < keys - to_keep
            dk_at = key_gradient + of_key[:, None] * key_gradient_stride + sizes[None, :]
            dv_at = value_gradient + of_key[:, None] * value_gradient_stride + sizes[None, :]
            tl.store(dk_at, (dk * scale).to(key_gradient.dtype.element_ty), mask=given)
            tl.store(dv_at, (dv * kept_scale).to(value_gradient.dtype.element_ty), mask=given)
        dq_at = query_gradient + of_query[:, None] * query_gradient_stride + sizes[None, :]
        tl.store(dq_at, (dq * scale).to(query_gradient.dtype.element_ty), mask=inside)
        if not ONE_TILE:
            tl.debug_barrier()  # what one thread added to the sums of this tile, another one reads for the next
