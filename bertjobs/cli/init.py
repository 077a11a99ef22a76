"""`bertjobs init`: look at the cluster, and write its site file."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Add `init` to the command line."""
    parser = subparsers.add_parser(
        "init",
        help="look at the Slurm cluster and write a site file that plan and submit read",
        description="Ask Slurm for partitions, limits, GPUs, preemption, accounts and containers, and write the "
        "answers as a commented site file, ~/.config/bertjobs/sites/NAME.yml, to be read and edited. "
        "Nothing is queued.",
        allow_abbrev=False,
    )
    parser.add_argument("--site", metavar="NAME", help="the site's name (default: the cluster's own)")
    parser.add_argument(
        "--partition",
        metavar="NAME",
        help="partition to queue in (default: one with GPUs: the cluster's default one, else that with most)",
    )
    parser.add_argument("--yes", "--force", action="store_true", help="overwrite a site of this name")
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    parser.set_defaults(handler=_init)


def _init(args: argparse.Namespace) -> int:
    from bertjobs.launch.plan.site_file import DEFAULT_SITE, found_lines, render_site, site_file, site_names, write_site
    from bertjobs.slurm.cluster import choose_partition, describe_cluster
    from bertjobs.slurm.site import parse_site

    if args.site:
        site_file(args.site, os.environ)  # a bad name is reported before Slurm is asked
    folder = Path.cwd()
    cluster = describe_cluster(os.environ, folder)
    partition = choose_partition(cluster.partitions, args.partition)
    name = args.site or cluster.name
    file = site_file(name, os.environ)
    text = render_site(name, cluster, partition, folder)
    parse_site(text, name, file)
    write_site(text, file, overwrite=args.yes)
    if args.json:
        print(json.dumps({"site": name, "file": str(file), "partition": partition.name, **asdict(cluster)}, indent=2))
        return 0
    print("\n".join(found_lines(cluster)))
    print(f"\nsite {name} for partition {partition.name} written to {file}\nnext: read it, then")
    names = site_names(os.environ)
    chosen = "" if len(names) == 1 or name == DEFAULT_SITE else f" --site {name}"
    print(f"  bertjobs plan{chosen} --recipe NAME --nodes N")
    return 0
