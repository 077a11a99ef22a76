"""What is in shards, and what is wrong with them."""

from bertjobs.data.check.facts import Facts, RowKeys
from bertjobs.data.check.inspect import Inspection, inspect_target, read_samples
from bertjobs.data.check.samples import DynamicDraw, Sample, choose_rows, join_pieces, read_sample
from bertjobs.data.check.target import CheckTarget, Expected, ShardToCheck, TargetPart, find_target, length_range

__all__ = [
    "CheckTarget",
    "DynamicDraw",
    "Expected",
    "Facts",
    "Inspection",
    "RowKeys",
    "Sample",
    "ShardToCheck",
    "TargetPart",
    "choose_rows",
    "find_target",
    "inspect_target",
    "join_pieces",
    "length_range",
    "read_sample",
    "read_samples",
]
