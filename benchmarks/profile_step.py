"""Where the time of an optimizer step goes, in both phases, on two CPU threads.

    .venv/bin/python benchmarks/profile_step.py [--output FILE.json] [--phase 1|2] [--padded]

The model, the recipe and the shards are those of benchmarks/model.py. Shares are of the wall time of a rank's step:
attention, matrix products, elementwise work with normalisation and dropout, the losses of the heads, the optimizer,
data, and what is left. `bertjobs bench --profile` does the same with any recipe, also on a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from model import ROOT, benchmark_recipe

from bertjobs.bench.device import processor
from bertjobs.bench.profile import profile_phase
from bertjobs.bench.sequences import open_data
from bertjobs.bench.text import profile_text
from bertjobs.errors import BertjobsError
from bertjobs.files.atomic import write_json
from bertjobs.train.precision import use_precision


def main() -> int:
    """Profile both phases; returns the exit code."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    try:
        spec = replace(benchmark_recipe(args.work), unpad=not args.padded)
        use_precision(spec.precision)
        profiles = []
        for phase in spec.phases:
            if phase.phase in (args.phase or (1, 2)):
                data = open_data(spec, phase)
                device = torch.device("cpu")
                profiles.append(
                    profile_phase(spec, phase, data, device, micro_batch=phase.micro_batch, micro_batches=2)
                )
                print(profile_text(profiles[-1]), flush=True)
    except BertjobsError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            args.output,
            {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "machine": {"cpu": processor(), "cores": os.cpu_count(), "threads_used": args.threads},
                "torch": torch.__version__,
                "phases": [asdict(one) for one in profiles],
            },
        )
        print(f"-> {args.output}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--work", metavar="DIR", type=Path, default=ROOT / ".cache/articles", help="for the shards (%(default)s)")
    option("--threads", metavar="N", type=int, default=2, help="of torch (%(default)s)")
    option("--phase", metavar="N", type=int, action="append", choices=(1, 2), help="this phase alone")
    option("--padded", action="store_true", help="the padded path instead")
    option("--output", metavar="FILE", type=Path, help="write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
