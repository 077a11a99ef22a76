"""`bertjobs serve`."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_results_arguments, results_folder
from bertjobs.cli.interrupts import EXIT_INTERRUPTED, interrupts_held
from bertjobs.cli.model_arguments import add_compute_arguments, add_pack_argument, chosen_budget, prepared_device
from bertjobs.errors import EXIT_DONE, InputError, install_hint
from bertjobs.serve.limits import Limits, check_limits

if TYPE_CHECKING:
    from bertjobs.serve.models import Models, Observer
    from bertjobs.serve.served import Served
    from bertjobs.serve.server import ServerOptions

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
LIMITS = {
    "body_bytes": "bytes of a request",
    "rows": "texts, or sequences of ids, in a request",
    "tokens": "tokens in a request",
    "queue_tokens": "tokens that wait for the model; a request that would add to more gets 429",
    "requests": "requests at a time; more get 429",
    "body_s": "how long a client may take to send a request",
    "drain_s": "how long the end waits for answers that are due",
}
"""The fields of `bertjobs.serve.limits.Limits`, whose flags they are."""


def register(subparsers: Any) -> None:
    """Add `serve` to the command line."""
    parser = subparsers.add_parser(
        "serve",
        usage="%(prog)s [NAME=]RUN|DIR ... [--host HOST] [--port PORT] [--token-env NAME] [FLAG ...]",
        help="answer over HTTP with one or several models",
        description="An HTTP server for fine-tuned models and plain BERTs: KServe v2, TensorFlow Serving's predict, "
        "/classify, /ner, /qa, /rerank, /fill-mask, /v1/embeddings, metrics for Prometheus, and a page for people. "
        "Models that change on disk are loaded again. TERM and ctrl-C end it once its answers are given.",
        allow_abbrev=False,
    )
    parser.add_argument("models", metavar="[NAME=]RUN|DIR", nargs="+",
                        help="a run, by its name or folder, or a model's folder; NAME is what clients call "
                        "it")  # fmt: skip
    add_results_arguments(parser)
    where = parser.add_argument_group("where it listens")
    where.add_argument("--host", metavar="HOST", default="127.0.0.1",
                       help="address of this machine; by default only programs on it reach the server")  # fmt: skip
    where.add_argument("--port", metavar="PORT", type=int, default=8000, help="0: a free one (default: 8000)")
    where.add_argument("--token-env", metavar="NAME", help="environment variable with the token that requests have to "
                       "show (Authorization: Bearer ...)")  # fmt: skip
    add_compute_arguments(parser)
    add_pack_argument(parser)
    parser.add_argument("--watch-seconds", metavar="N", type=float, default=5.0,
                        help="how often the models' folders are looked at; 0: never (default: 5)")  # fmt: skip
    _add_limits(parser)
    parser.set_defaults(handler=_serve)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    for name, words in LIMITS.items():
        default = getattr(Limits, name)  # its type is that of the flag
        words = f"{words} (default: {default:,.0f})"
        group.add_argument(_flag(name), dest=f"limit_{name}", metavar="N", type=type(default), help=words)


def _flag(name: str) -> str:
    """A limit's flag: --max-rows, --drain-seconds."""
    return f"--{name[:-2]}-seconds" if name.endswith("_s") else f"--max-{name.replace('_', '-')}"


def _serve(args: argparse.Namespace) -> int:
    _check_extra()
    token = _token(args.token_env)
    with interrupts_held():
        from bertjobs.run.result import weights_of
        from bertjobs.serve.models import Models, source_of
        from bertjobs.serve.served import load_served
        from bertjobs.serve.server import STOPPED_BY_A_PERSON, serve

    options = _options(args, token)
    results = results_folder(args)
    find, look = (partial(weights_of, results=results, is_read=is_read) for is_read in (True, False))
    sources = [source_of(words, find, look, os.path.exists) for words in args.models]
    device = prepared_device(args)

    def load(name: str, version: int, folder: Path) -> Served:
        # A thread that computes keeps a team of OpenMP's: the engine's must be the only one that lasts, as the threads
        # of several teams take turns on the cores (small packs took twice the time).
        with ThreadPoolExecutor(1, thread_name_prefix="load") as own:
            return own.submit(load_served, name, version, folder, device, args.precision).result()

    def models_of(observer: Observer) -> Models:
        return Models(sources, load, observer)

    if not token and not options.address.is_local:
        print(f"note: everybody who reaches {args.host} can use the models: no --token-env was given", file=sys.stderr)
    stopped_by = serve(options, models_of, _print_ready)
    return EXIT_INTERRUPTED if stopped_by == STOPPED_BY_A_PERSON else EXIT_DONE


def _check_extra() -> None:
    """Make sure that what only the server needs is installed.

    Raises:
        InputError: it is not; says how to install it.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here",
            where="bertjobs serve",
            hint=install_hint("serve"),
        )


def _token(name: str | None) -> str:
    """The token in an environment variable, "" without one.

    Raises:
        InputError: the variable is not set, or holds what no header can.
    """
    if name is None:
        return ""
    token = os.environ.get(name, "").strip()
    if not token:
        raise InputError(f"the environment has no {name}, or it is empty", where="--token-env",
                         hint=f"export {name}=$(openssl rand -hex 32)")  # fmt: skip
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"the value of {name} cannot be a token", where="--token-env", hint="letters and digits")
    return token


def _options(args: argparse.Namespace, token: str) -> ServerOptions:
    from bertjobs.serve.server import Address, ServerOptions

    if not 0 <= args.port < 65536:
        raise InputError(f"{args.port} is not a port: 0 to 65535", where="--port")
    if not 0 <= args.watch_seconds < float("inf"):
        raise InputError(f"{args.watch_seconds:g} is not a number of seconds, 0 or more", where="--watch-seconds")
    return ServerOptions(Address(args.host, args.port), _limits(args), chosen_budget(args), token, args.watch_seconds)


def _limits(args: argparse.Namespace) -> Limits:
    given = {name: value for name in LIMITS if (value := getattr(args, f"limit_{name}")) is not None}
    limits = Limits(**given)
    check_limits(limits, _flag)
    return limits


def _print_ready(url: str) -> None:
    print(f"serving at {url}/ (ctrl-C ends it)", flush=True)
