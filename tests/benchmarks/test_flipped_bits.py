"""Single bits flipped in data folders of each kind, as benchmarks/flipped_bits.py does by the thousand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.benchmarks.test_data import BENCHMARKS, load

FLIPS = 40


def test_every_flipped_bit_is_noticed_by_verify_and_none_ends_in_a_traceback(tmp_path: Path) -> None:
    script = load("flipped_bits", BENCHMARKS / "flipped_bits.py")
    for folder in script.made(tmp_path):
        assert script.after_verify(folder) == script.after_inspect(folder) == "missed"  # nothing is wrong with it
        counts = script.flip(folder, FLIPS, seed=3)
        assert counts["verify noticed"] == FLIPS, (folder.name, counts)
        assert counts["inspect failed"] == 0, (folder.name, counts)


def test_a_bit_that_nobody_looks_at_would_be_counted(tmp_path: Path) -> None:
    script = load("flipped_bits", BENCHMARKS / "flipped_bits.py")
    folder = next(script.made(tmp_path))
    script.after_verify = lambda _folder: "missed"
    assert script.flip(folder, 3, seed=3) >= Counter({"verify missed": 3})
