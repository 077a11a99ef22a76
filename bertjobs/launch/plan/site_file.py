"""Site files: one for each cluster, kept beside the user's other configuration.

`bertjobs init` writes ``~/.config/bertjobs/sites/NAME.yml``; plan and submit read it. Its values are weaker than
flags, ``--set``, the environment and recipes, and stronger than defaults.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bertjobs.errors import InputError, nearest
from bertjobs.files.atomic import PRIVATE_FOLDER, new_file
from bertjobs.recipe.schema import check_name, check_path
from bertjobs.slurm.cluster import Cluster, Partition
from bertjobs.slurm.options import is_option
from bertjobs.slurm.site import KEYS, Site, parse_site
from bertjobs.slurm.times import format_time
from bertjobs.wording import columns

NO_SITE = "none"
DEFAULT_SITE = "default"
USUAL_TIME_S = 86400  # asked for if a partition allows it: longer jobs wait longer


def sites_folder(environ: Mapping[str, str]) -> Path | None:
    """Where site files are kept; None for a user without a home."""
    home = environ.get("HOME")
    config = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return Path(config) / "bertjobs" / "sites" if config else None


def site_file(name: str, environ: Mapping[str, str]) -> Path:
    """The file of a site, which need not exist.

    Raises:
        InputError: this cannot be a site's name, or the user has no home.
    """
    folder = sites_folder(environ)
    if folder is None:
        raise InputError("there is no folder for site files", where="HOME", hint="set HOME or XDG_CONFIG_HOME")
    if name == NO_SITE:
        raise InputError(f"a site cannot be called {NO_SITE!r}: that means no site", where="--site")
    return folder / f"{check_name(name, '--site')}.yml"


def site_names(environ: Mapping[str, str]) -> list[str]:
    """The names of the existing sites, sorted."""
    folder = sites_folder(environ)
    return sorted(file.stem for file in folder.glob("*.yml")) if folder else []


def read_site(name: str | None, environ: Mapping[str, str]) -> Site | None:
    """The site of this name; without a name, the one called "default", or the only one, or None.

    The name "none" means no site.

    Raises:
        InputError: there is no such site; there are several, but no default; or its file has an error: names the line.
    """
    if name == NO_SITE:
        return None
    names = site_names(environ)
    if name is None:
        if not names:
            return None
        if len(names) > 1 and DEFAULT_SITE not in names:
            raise InputError(
                f"there are several sites: {', '.join(names)}",
                where=str(sites_folder(environ)),
                hint=f"name one with --site, or call one {DEFAULT_SITE!r}; --site {NO_SITE} uses none",
            )
        name = names[0] if len(names) == 1 else DEFAULT_SITE
    file = site_file(name, environ)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = nearest(name, names) if names else "make one with: bertjobs init"
        raise InputError(f"there is no site {name!r}", where=str(file), hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the site file cannot be read: {error}", where=str(file)) from error
    return parse_site(text, name, file)


def write_site(text: str, file: Path, *, overwrite: bool) -> None:
    """Write a site file, readable by its owner alone.

    Raises:
        InputError: it exists, and is not to be overwritten.
    """
    if file.exists() and not overwrite:
        raise InputError(
            f"site {file.stem!r} exists",
            where=str(file),
            hint="give another name with --site, or overwrite it with --yes",
        )
    file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with new_file(file) as handle:
        os.fchmod(handle.fileno(), 0o600)
        handle.write(text.encode("utf-8"))


def render_site(name: str, cluster: Cluster, partition: Partition, folder: Path) -> str:
    """The text of a new site file: the cluster's properties as comments, what follows from them as values.

    Args:
        name: the site's.
        cluster: as `bertjobs init` saw it.
        partition: the one to queue in.
        folder: absolute; data and results are proposed below it if nodes may see it.
    """
    account, accounts = _account(cluster)
    head = [
        f"Site {name}: what `bertjobs plan` and `submit` use unless a flag, --set, variable or recipe says otherwise.",
        "Remove the `# ` in front of a key to set it. Made by `bertjobs init`, which found:",
        "",
        *(f"  {line}" for line in found_lines(cluster)),
    ]
    seen = cluster.file_system.shared is not False
    data, results = _below(folder, "data/prepared"), _below(folder, "results")
    blocks = [
        _comment(head),
        _entry("partition", partition.name, "NAME", [preemption(cluster, partition)]),
        _entry("account", account, "NAME", [accounts]),
        _entry("qos", "", _usual_qos(cluster, account) or "NAME", [_qos(cluster, account)]),
        _entry("time", _time(partition), "1-00:00:00", [f"This partition's limit: {format_time(partition.limit_s)}."]),
        _entry("gpu_type", "", next(iter(partition.gpu_types), "a100"), [_gpu_types(partition)]),
        _entry(
            "image",
            "",
            "/path/to/image.sif" if _only_apptainer(cluster) else "/path/to/image.sqsh",
            [_containers(cluster)],
        ),
        _entry("mounts", "", ["/scratch:/scratch"]),
        _entry("container", "", "apptainer" if _only_apptainer(cluster) else "pyxis"),
        _entry("data", data if seen else "", data or "/path/all/nodes/see/data", [_seen(cluster)]),
        _entry("results", results if seen else "", results or "/path/all/nodes/see/results"),
        _entry("environment", "", ["NCCL_DEBUG", "WANDB_API_KEY"]),
        _entry("sbatch", "", {"constraint": "infiniband", "exclude": "node17"}),
        _entry("notify", "", {"mail": "me@example.org", "webhook": "/home/me/.config/bertjobs/webhook"}),
    ]
    return "\n".join(blocks)


def found_lines(cluster: Cluster) -> list[str]:
    """The cluster for people: its partitions, accounting, containers and file system."""
    config = cluster.config
    heads = ["partition", "time limit", "nodes", "CPUs", "memory", "GPUs per node", "preempted jobs are"]
    rows = [row for partition in cluster.partitions for row in _rows(cluster, partition)]
    array = config.get("MaxArraySize", "")
    return [
        f"Slurm {config.get('SLURM_VERSION', 'of unknown version')}, cluster {cluster.name}, "
        f"{config.get('SelectType', 'unknown selection')}",
        *columns([heads, *rows]),
        "accounting: "
        + ("sacct answers" if cluster.sacct else "sacct does not answer; states come from squeue and the run's files"),
        f"job arrays: {f'indices below {array}' if array else 'limit unknown'}",
        f"containers: {_containers(cluster)}",
        f"this folder: {_seen(cluster)}",
    ]


def preemption(cluster: Cluster, partition: Partition) -> str:
    """What happens to this partition's jobs when more urgent ones need their nodes, in one sentence."""
    fate = _fate(cluster, partition)
    if fate == "never":
        return "Its jobs are not preempted."
    above = [p.name for p in cluster.partitions if p.tier > partition.tier]
    by_tier = cluster.config.get("PreemptType") == "preempt/partition_prio"
    who = f" by those of {', '.join(above)}" if by_tier and above else ""
    return f"Jobs preempted{who} are {fate}."


def _fate(cluster: Cluster, partition: Partition) -> str:
    modes = set(partition.preempt_mode.upper().split(","))
    if not cluster.preempts or modes <= {"OFF", "GANG"}:
        return "never"
    for mode, words in (
        ("REQUEUE", "queued again"),
        ("CANCEL", "cancelled"),
        ("SUSPEND", "suspended, and resume in place"),
    ):
        if mode in modes:
            return words
    return f"treated as {partition.preempt_mode} says"


def _rows(cluster: Cluster, partition: Partition) -> list[list[str]]:
    """A row for each kind of node; the partition's own values are in the first."""
    name = partition.name + (" (default)" if partition.default else "") + ("" if partition.up else " (down)")
    own = [name, format_time(partition.limit_s)]
    rows = []
    for kind in partition.kinds:
        gpus = ", ".join(f"{gpus.count} {gpus.kind}".strip() for gpus in kind.gpus) or "none"
        memory = f"{kind.memory_mb / 1024:.0f} GiB"
        rows.append([*own, str(kind.nodes), str(kind.cpus), memory, gpus, _fate(cluster, partition)])
        own = ["", ""]
    return rows or [[*own, "0", "", "", "", ""]]


def _account(cluster: Cluster) -> tuple[str, str]:
    """The account to charge, "" if that is not certain, and in words which ones there are."""
    accounts = list(dict.fromkeys(association.account for association in cluster.associations))
    usual = cluster.default_account or (accounts[0] if len(accounts) == 1 else "")
    if not accounts and not usual:
        return "", "Accounting does not say which are yours."
    listed = [f"{account} (default)" if account == usual else account for account in accounts or [usual]]
    return usual, f"Yours: {', '.join(listed)}."


def _usual_qos(cluster: Cluster, account: str) -> str:
    return next((a.default_qos for a in cluster.associations if a.account == account and a.default_qos), "")


def _qos(cluster: Cluster, account: str) -> str:
    names = dict.fromkeys(name for a in cluster.associations if account in ("", a.account) for name in a.qos)
    return f"Yours: {', '.join(names)}." if names else "Accounting does not say which are yours."


def _time(partition: Partition) -> str:
    return format_time(min(partition.limit_s or USUAL_TIME_S, USUAL_TIME_S))


def _gpu_types(partition: Partition) -> str:
    types = ", ".join(partition.gpu_types)
    return f"This partition's: {types}." if types else "This partition's GPUs have no types."


def _containers(cluster: Cluster) -> str:
    pyxis = "srun has pyxis" if cluster.pyxis else "srun has no pyxis (--container-image)"
    return f"{pyxis}; {'Apptainer is' if cluster.apptainer else 'no Apptainer is'} on the PATH here"


def _only_apptainer(cluster: Cluster) -> bool:
    return cluster.apptainer and not cluster.pyxis


def _seen(cluster: Cluster) -> str:
    system = cluster.file_system
    seen = {
        True: "which other machines can see",
        False: "which is this machine's own: choose folders that all nodes see",
        None: "make sure that all nodes see it",
    }[system.shared]
    return f"on {system.mount} ({system.kind}), {seen}"


def _below(folder: Path, name: str) -> str:
    path = str(folder / name)
    try:
        return check_path(path, "folder")
    except InputError:  # it has a line break, for example: no run can be there
        return ""


def _entry(key: str, value: str, example: str | list[str] | dict[str, str], notes: Sequence[str] = ()) -> str:
    """A key below its comments; itself a comment if it has no value that the file may hold."""
    set_ = bool(value) and (key in ("data", "results") or is_option(value))
    shown = json.dumps(value if set_ else example, ensure_ascii=False)
    text = KEYS[key][0].upper() + KEYS[key][1:] + "."
    line = f"{key}: {shown}"
    return _comment([text, *notes]) + (f"{line}\n" if set_ else _comment([line]))


def _comment(lines: Sequence[str]) -> str:
    """Lines as comments; no name from Slurm can break out of one."""
    clean = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "".join(f"# {line}".rstrip() + "\n" for line in clean)
