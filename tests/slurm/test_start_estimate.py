"""What `sbatch --test-only` says."""

from __future__ import annotations

import pytest

from bertjobs.slurm.start_estimate import StartEstimate, parse_start_estimate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sbatch: Job 2 to start at 2026-11-21T18:25:23 using 2 processors on nodes node[1-2] in partition batch\n",
            StartEstimate("2026-11-21T18:25:23", "node[1-2]"),
        ),
        ("Job 7 to start at 2026-11-22T01:02:03 using 64 processors on n1", StartEstimate("2026-11-22T01:02:03", "n1")),
        (
            "sbatch: error: NOTE from the site\nsbatch: Job 2 to start at 2026-01-01T00:00:00 using 2 processors on n1",
            StartEstimate("2026-01-01T00:00:00", "n1"),
        ),
        (
            "allocation failure: Requested node configuration is not available\n",
            StartEstimate(refusal="Requested node configuration is not available"),
        ),
        (
            "sbatch: error: invalid partition specified: x\nallocation failure: Invalid partition name specified\n",
            StartEstimate(refusal="invalid partition specified: x; Invalid partition name specified"),
        ),
        (
            "sbatch: unrecognized option '--nosuch=1'\nTry \"sbatch --help\" for more information\n",
            StartEstimate(refusal="unrecognized option '--nosuch=1'"),
        ),
        ("allocation failure: Unable to contact slurm controller (connect failure)", StartEstimate()),
        ("", StartEstimate()),
    ],
)  # fmt: skip
def test_the_output_of_sbatch_test_only(text: str, expected: StartEstimate) -> None:
    """As Slurm 22.05 wrote them."""
    assert parse_start_estimate(text) == expected
