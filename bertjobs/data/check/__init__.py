"""What is in shards, and what is wrong with them."""

from bertjobs.data.check.facts import Facts, RowKeys
from bertjobs.data.check.inspect import Inspection, inspect_scope, read_samples
from bertjobs.data.check.samples import DynamicDraw, Sample, choose_rows, join_pieces, read_sample
from bertjobs.data.check.target import Expected, Listed, Part, Scope, find_shards, length_range

__all__ = [
    "DynamicDraw",
    "Expected",
    "Facts",
    "Inspection",
    "Listed",
    "Part",
    "RowKeys",
    "Sample",
    "Scope",
    "choose_rows",
    "find_shards",
    "inspect_scope",
    "join_pieces",
    "length_range",
    "read_sample",
    "read_samples",
]
