"""`bertjobs image`: whether a container image holds what a run needs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from bertjobs.cli.arguments import add_site_argument, chosen_container, chosen_site


def register(subparsers: Any) -> None:
    """Add `image` to the command line."""
    parser = subparsers.add_parser(
        "image",
        help="check that a container image holds what a run needs",
        description="Start a container image on one node, the way a run would, and check inside it: Python, torch and "
        "its CUDA, further packages, the GPU, this version of bertjobs, a folder for caches, the mounts. Says what to "
        "add to a Dockerfile, and ends with code 64 if something is missing.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option(
        "image",
        metavar="IMAGE",
        nargs="?",
        default=argparse.SUPPRESS,
        help="the image (default: IMAGE, else the site's)",
    )
    option("--here", action="store_true", help="check the environment that this command runs in; start nothing")
    option("--mounts", metavar="SRC:DST", default=argparse.SUPPRESS,
           help="further mounts, separated by commas (default: MOUNTS, else the site's)")  # fmt: skip
    option("--container", metavar="NAME", default=argparse.SUPPRESS,
           help="what starts the image: pyxis, apptainer or auto (default: CONTAINER, else the site's)")  # fmt: skip
    option("--data", metavar="DIR", action="append", default=[], help="a folder that must be readable inside")
    option("--results", metavar="DIR", action="append", default=[], help="a folder that must be writable inside")
    option("--gpus", metavar="N", type=int, default=0, help="GPUs to ask Slurm for and to see inside (default: 0)")
    option("--partition", metavar="NAME", help="Slurm partition (default: the site's, else the cluster's)")
    option("--account", metavar="NAME", help="Slurm account (default: the site's, else your own)")
    add_site_argument(parser)
    parser.set_defaults(handler=_image)


def _image(args: argparse.Namespace) -> int:
    from bertjobs import __version__
    from bertjobs.errors import EXIT_BAD_INPUT, EXIT_DONE, BertjobsError, InputError
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.container import step_script
    from bertjobs.slurm.environment import clean_environment
    from bertjobs.slurm.image import check_container

    asked = ["--expect", __version__, *(["--gpus", str(args.gpus)] if args.gpus else [])]
    asked += [word for folder in args.data for word in ("--reads", str(Path(folder).absolute()))]
    asked += [word for folder in args.results for word in ("--writes", str(Path(folder).absolute()))]
    if args.here:
        from bertjobs.train.image_check import main

        return main(asked)
    site = chosen_site(args)
    container = chosen_container(args, site)
    if container is None:
        raise InputError(
            "no image is named", where="IMAGE", hint="bertjobs image IMAGE; inside one: bertjobs image --here"
        )
    slurm = Slurm(clean_environment(os.environ))
    slurm.require(["srun"], "log in to a submit host of the cluster; inside an image: bertjobs image --here")
    starter = check_container(container, slurm)
    options = ["--nodes=1", "--ntasks=1", "--job-name=bertjobs-image"]
    options += [f"--gpus-per-node={args.gpus}"] if args.gpus else []
    for name in ("partition", "account"):
        if value := getattr(args, name) or getattr(site, name, ""):
            options.append(f"--{name}={value}")
    script = step_script(container, srun=options, readable=args.data, writable=args.results, gpus=args.gpus)
    print(f"starting {container.image} on one node, by {starter}", flush=True)
    code = slurm.shown(script, ["-m", "bertjobs.train.image_check", *asked])
    if code not in (EXIT_DONE, EXIT_BAD_INPUT):
        raise BertjobsError(
            f"the image did not start, or has no usable Python (code {code}); the lines above say why",
            where=container.image,
            hint="BERTJOBS_PYTHON names the interpreter inside, by default python3",
        )
    return code
