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
USUAL_TIME_S = 86400  # asked for where a partition allows it: longer jobs wait longer


def sites_folder(environ: Mapping[str, str]) -> Path | None:
    """Where site files lie; None for a user without a home."""
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
        raise InputError("site files have no folder", where="HOME", hint="set HOME or XDG_CONFIG_HOME")
    if name == NO_SITE:
        raise InputError(f"no site can be called {NO_SITE!r}: that asks for none", where="--site")
    return folder / f"{check_name(name, '--site')}.yml"


def site_names(environ: Mapping[str, str]) -> list[str]:
    """The sites that there are, sorted."""
    folder = sites_folder(environ)
    return sorted(file.stem for file in folder.glob("*.yml")) if folder else []


def read_site(name: str | None, environ: Mapping[str, str]) -> Site | None:
    """The site of this name; without one, that called "default", or the only one there is, or None.

    The name "none" asks for none.

    Raises:
        InputError: there is no such site, several and none is the default, or its file is not right: names the line.
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
            hint="give another name with --site, or write over it with --yes",
        )
    file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with new_file(file) as handle:
        os.fchmod(handle.fileno(), 0o600)
        handle.write(text.encode("utf-8"))


def render_site(name: str, cluster: Cluster, partition: Partition, folder: Path) -> str:
    """The text of a new site file: what was found as comments, what follows from it as values.

    Args:
        name: the site's.
        cluster: what was found.
        partition: the one to queue in.
        folder: absolute; data and results are proposed below it where nodes may see it.
    """
    account, accounts = _account(cluster)
    told = [
        f"Site {name}: what `bertjobs plan` and `submit` take where no flag, --set, variable or recipe says otherwise.",
        "Remove the `# ` in front of a key to set it. Made by `bertjobs init`, which found:",
        "",
        *(f"  {line}" for line in found_lines(cluster)),
    ]
    seen = cluster.file_system.shared is not False
    data, results = _below(folder, "data/prepared"), _below(folder, "results")
    blocks = [
        _comment(told),
        _entry("partition", partition.name, "NAME", [preemption(cluster, partition)]),
        _entry("account", account, "NAME", [accounts]),
        _entry("qos", "", _usual_qos(cluster, account) or "NAME", [_qos(cluster, account)]),
        _entry("time", _time(partition), "1-00:00:00", [f"This partition's limit: {format_time(partition.limit_s)}."]),
        _entry("image", "", "/path/to/image.sqsh", [_pyxis(cluster)]),
        _entry("mounts", "", ["/scratch:/scratch"]),
        _entry("data", data if seen else "", data or "/path/all/nodes/see/data", [_seen(cluster)]),
        _entry("results", results if seen else "", results or "/path/all/nodes/see/results"),
        _entry("environment", "", ["NCCL_DEBUG", "WANDB_API_KEY"]),
        _entry("sbatch", "", {"constraint": "infiniband", "mail-type": "END,FAIL"}),
    ]
    return "\n".join(blocks)


def found_lines(cluster: Cluster) -> list[str]:
    """What was found, for people: the cluster, its partitions, accounting, containers, the file system."""
    config = cluster.config
    heads = ["partition", "time limit", "nodes", "CPUs", "memory", "GPUs a node", "preempted jobs are"]
    rows = [row for partition in cluster.partitions for row in _rows(cluster, partition)]
    array = config.get("MaxArraySize", "")
    return [
        f"Slurm {config.get('SLURM_VERSION', 'of unknown version')}, cluster {cluster.name}, "
        f"{config.get('SelectType', 'unknown selection')}",
        *columns([heads, *rows]),
        "accounting: "
        + ("sacct answers" if cluster.sacct else "sacct does not answer; states come from squeue and the run's files"),
        f"job arrays: {f'indices below {array}' if array else 'limit unknown'}",
        f"containers: {_pyxis(cluster)}",
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
        ("SUSPEND", "suspended, and go on in place"),
    ):
        if mode in modes:
            return words
    return f"treated as {partition.preempt_mode} says"


def _rows(cluster: Cluster, partition: Partition) -> list[list[str]]:
    """A row for each kind of node; what is the partition's own stands in the first."""
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
    """The account to charge, "" where that is not sure, and in words which there are."""
    accounts = list(dict.fromkeys(association.account for association in cluster.associations))
    usual = cluster.default_account or (accounts[0] if len(accounts) == 1 else "")
    if not accounts and not usual:
        return "", "Accounting does not tell which are yours."
    listed = [f"{account} (default)" if account == usual else account for account in accounts or [usual]]
    return usual, f"Yours: {', '.join(listed)}."


def _usual_qos(cluster: Cluster, account: str) -> str:
    return next((a.default_qos for a in cluster.associations if a.account == account and a.default_qos), "")


def _qos(cluster: Cluster, account: str) -> str:
    names = dict.fromkeys(name for a in cluster.associations if account in ("", a.account) for name in a.qos)
    return f"Yours: {', '.join(names)}." if names else "Accounting does not tell which are yours."


def _time(partition: Partition) -> str:
    return format_time(min(partition.limit_s or USUAL_TIME_S, USUAL_TIME_S))


def _pyxis(cluster: Cluster) -> str:
    return "srun has pyxis" if cluster.pyxis else "srun has no pyxis (--container-image)"


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
    except InputError:  # a blank, say: no run can be there
        return ""


def _entry(key: str, value: str, example: str | list[str] | dict[str, str], notes: Sequence[str] = ()) -> str:
    """A key under its comments; as a comment itself where it has no value that the file may hold."""
    set_ = bool(value) and (key in ("data", "results") or is_option(value))
    shown = json.dumps(value if set_ else example, ensure_ascii=False)
    text = KEYS[key][0].upper() + KEYS[key][1:] + "."
    line = f"{key}: {shown}"
    return _comment([text, *notes]) + (f"{line}\n" if set_ else _comment([line]))


def _comment(lines: Sequence[str]) -> str:
    """Lines as comments; what Slurm names cannot end one."""
    clean = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "".join(f"# {line}".rstrip() + "\n" for line in clean)
