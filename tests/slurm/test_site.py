"""Site files: which is read, what it may hold, and what `bertjobs init` writes into a new one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.files.file_system import FileSystem
from bertjobs.launch.plan.site_file import preemption, read_site, render_site, site_file, write_site
from bertjobs.slurm.cluster import Association, Cluster, Gpus, NodeKind, Partition
from bertjobs.slurm.notify import ALL_EVENTS, NOBODY, Notify, RunEvent
from bertjobs.slurm.site import KEYS, Site, parse_site

FILE = Path("/home/me/.config/bertjobs/sites/juno.yml")

FULL = """\
partition: gpu,gpu-long
account: proj@a100
qos: high
gpu_type: a100
time: 4:00:00          # as Slurm writes it: YAML would make 14400 of it
image: nvcr.io#nvidia/pytorch:26.01-py3
mounts: [/scratch:/scratch, "/home/me:/code:ro"]
container: pyxis
data: /lustre/wiki
results: /lustre/runs
environment: [WANDB_API_KEY, NCCL_DEBUG]
sbatch:
  constraint: a100&ib
  exclude: node[1-3,7]
  exclusive: true
  mem: 0
"""

BATCH = Partition("batch", True, True, 172800, 3600, (NodeKind(4, 64, 515000, (Gpus(8, "a100"),)),), "REQUEUE", 1)
URGENT = replace(BATCH, name="urgent", default=False, preempt_mode="OFF", tier=10)
JUNO = Cluster(
    config={"ClusterName": "juno", "SLURM_VERSION": "24.05.2", "PreemptType": "preempt/partition_prio",
            "MaxArraySize": "1001"},
    partitions=(BATCH, URGENT),
    sacct=True,
    pyxis=True,
    apptainer=False,
    associations=(Association("bio", "", ("normal", "high"), "normal"), Association("phys", "", ("normal",), "")),
    default_account="bio",
    file_system=FileSystem("/lustre", "lustre", True),
)  # fmt: skip


def parsed(text: str) -> Site:
    return parse_site(text, "juno", FILE)


def test_all_keys_are_read() -> None:
    site = parsed(FULL)
    assert site.settings() == {
        "image": "nvcr.io#nvidia/pytorch:26.01-py3",
        "mounts": "/scratch:/scratch,/home/me:/code:ro",
        "container": "pyxis",
        "data": "/lustre/wiki",
        "results": "/lustre/runs",
        "gpu_type": "a100",
    }
    assert site.sbatch_options() == [
        "--partition=gpu,gpu-long", "--account=proj@a100", "--qos=high", "--time=4:00:00", "--constraint=a100&ib",
        "--exclude=node[1-3,7]", "--exclusive", "--mem=0",
    ]  # fmt: skip
    assert site.environment == ("WANDB_API_KEY", "NCCL_DEBUG")
    assert site.origin == "site juno"


def test_what_is_given_to_sbatch_replaces_the_site_s() -> None:
    options = parsed(FULL).sbatch_options(["--time=30", "--constraint=h100", "--exclusive=user"])
    assert options == [
        "--partition=gpu,gpu-long", "--account=proj@a100", "--qos=high", "--exclude=node[1-3,7]", "--mem=0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "account:\nsbatch: ~\nmounts: null\n", "time: ''\nmounts: ''\nenvironment: ''\n"]
)
def test_an_empty_value_is_unset(text: str) -> None:
    assert parsed(text) == Site("juno", FILE)
    assert parsed(text).settings() == {}
    assert parsed(text).sbatch_options() == []


def test_lists_may_be_written_with_commas() -> None:
    site = parsed("mounts: /a:/a,/b:/b:ro\nenvironment: A, B\n")
    assert site.mounts == ("/a:/a", "/b:/b:ro")
    assert site.environment == ("A", "B")


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("time: 60\npartion: gpu\n", "unknown key 'partion'", 2),
        ("partition: a b\n", "cannot be written in a batch script's header", 1),
        ("qos: x\naccount: a#b\n", "cannot be written in a batch script's header", 2),
        ("partition: [a, b]\n", "partition must be one value", 1),
        ("time: ٣٠\n", "not a time as Slurm writes it", 1),
        ("time: soon\n", "not a time as Slurm writes it: 'soon'", 1),
        ("time: 1:2:3:4\n", "not a time", 1),
        ("data: data/prepared\n", "data must be an absolute path here", 1),
        ("results: ~/runs\n", "results must be an absolute path here", 1),
        ("image: my.sqsh\n", "image must be an absolute path here", 1),
        ('data: "/a\\tb"\n', "is not allowed in a path", 1),
        ("image: my.sif\n", "image must be an absolute path here", 1),
        ("container: docker\n", "container must be one of auto, pyxis, apptainer, not 'docker'", 1),
        ("results: /scratch/$USER\n", "contains '$'", 1),
        ("mounts: /scratch\n", "mounts must be SRC:DST", 1),
        ("mounts: {/a: /b}\n", "mounts must be a list", 1),
        ("environment: [LR]\n", "LR is not passed on", 1),
        ("sbatch: high\n", "sbatch must consist of lines like `key: value`", 1),
        ("sbatch:\n  --gres: x\n", "not a long option of sbatch", 2),
        ("sbatch: {C: a100}\n", "not a long option of sbatch", 1),
        ("sbatch:\n  nodes: 4\n", "nodes is set by bertjobs", 2),
        ("sbatch: {export: ALL}\n", "export is set by bertjobs", 1),
        ("sbatch: {qos: x}\n", "qos has a key of its own", 1),
        ("sbatch: {comment: my job}\n", "cannot be written in a batch script's header", 1),
        ("sbatch: {exclusive: false}\n", "sbatch.exclusive is false", 1),
        ("sbatch: {exclusive: }\n", "sbatch.exclusive has no value", 1),
        ("time: 60\n\ntime: 30\n", "key 'time' is given twice", 3),
        ("- a\n", "a site file must consist of lines like `key: value`", 1),
        ("time: 60\n  x: [\n", "not valid YAML", 2),
        ("? [a]\n: b\n", "a key must be one word", 1),
        ("data: !!python/object/apply:os.system [id]\n", "data must be one value", 1),
    ],
)
def test_what_is_wrong_is_reported_with_its_line(text: str, message: str, line: int) -> None:
    with pytest.raises(InputError) as error:
        parsed(text)
    assert message in error.value.what
    assert f"{FILE}, line {line}" in error.value.render()


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InputError) as error:
        parsed("acount: x\n")
    assert error.value.hint == "did you mean 'account'?"


@pytest.mark.parametrize(
    "entry", ["WANDB_API_KEY=s3cr3t", "[A, 'TOKEN=s3cr3t']", "{WANDB_API_KEY: s3cr3t}", "s3cr3t-key", "[[s3cr3t]]"]
)
def test_a_secret_in_place_of_a_name_is_not_shown(entry: str) -> None:
    with pytest.raises(InputError) as error:
        parsed(f"environment: {entry}\n")
    assert "s3cr3t" not in error.value.render()


HOSTILE = ["a b", "it's", 'say "hi"', "two\nlines", "$(touch x)", "`id`", "a;b", "back\\slash", "a#b", "é ", "-\x85x"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["partition", "account", "qos", "time", "sbatch"])
def test_what_a_script_s_header_cannot_hold_is_refused(key: str, text: str) -> None:
    document = {"sbatch": {"comment": text}} if key == "sbatch" else {key: text}
    with pytest.raises(InputError):
        parsed(yaml.safe_dump(document))


# ---- who is told ----


def test_notify_is_read_with_all_events_unless_some_are_named() -> None:
    site = parsed("notify:\n  mail: me@example.org\n  webhook: /home/me/.config/bertjobs/webhook\n")
    assert site.notify == Notify("me@example.org", "/home/me/.config/bertjobs/webhook", ALL_EVENTS)
    few = parsed("notify: {webhook: CHAT_HOOK, events: [stopped, done]}").notify
    assert few == Notify("", "CHAT_HOOK", (RunEvent.DONE, RunEvent.STOPPED))
    assert parsed("notify:").notify == NOBODY
    assert NOBODY.variables() == {}
    assert Notify.of(few.variables()) == few


@pytest.mark.parametrize(
    ("events", "types"),
    [("", "FAIL,REQUEUE"), ("done", "NONE"), ("stopped", "FAIL"), ("restarted,done", "REQUEUE")],
)
def test_slurm_mails_what_it_knows_of_a_link(events: str, types: str) -> None:
    site = parsed(f"notify:\n  mail: me\n  events: {events}\n" if events else "notify: {mail: me}")
    assert site.sbatch_options() == ["--mail-user=me", f"--mail-type={types}"]
    assert site.sbatch_options(["--mail-type=END"]) == ["--mail-user=me"], "a flag wins"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notify: {mial: me}", "did you mean 'mail'?"),
        ("notify: me@example.org", "line 1"),
        ("notify: {events: [finished]}", "'finished' is not an event"),
        ("notify: {mail: 'a b'}", "cannot be written in a batch script's header"),
        ("notify: {mail: me}\nsbatch: {mail-type: ALL}", "and so does sbatch.mail-type"),
    ],
)
def test_what_is_wrong_with_notify_is_said(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed(text)
    assert words in caught.value.render()


@pytest.mark.parametrize(
    "address", ["https://chat.example.org/s3cret", "chat.example.org/s3cret", "s3cret-words", "~/x"]
)
def test_a_webhook_s_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(InputError, match="not the address") as caught:
        parsed(f"notify: {{webhook: '{address}'}}")
    assert address not in caught.value.render()


# ---- which site ----


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"}


def keep(environ: dict[str, str], *names: str) -> None:
    for name in names:
        write_site(f"account: {name}-account\n", site_file(name, environ), overwrite=False)


def test_without_a_site_there_is_none(environ: dict[str, str]) -> None:
    assert read_site(None, environ) is None
    assert read_site(None, {}) is None


def test_the_only_site_is_the_default(environ: dict[str, str]) -> None:
    keep(environ, "juno")
    site = read_site(None, environ)
    assert site is not None
    assert (site.name, site.account) == ("juno", "juno-account")
    assert read_site("none", environ) is None


def test_of_several_sites_the_one_named_default_is_used(environ: dict[str, str]) -> None:
    keep(environ, "juno", "levante")
    with pytest.raises(InputError, match="several sites: juno, levante"):
        read_site(None, environ)
    assert getattr(read_site("levante", environ), "account", None) == "levante-account"
    keep(environ, "default")
    assert getattr(read_site(None, environ), "account", None) == "default-account"


def test_a_site_that_does_not_exist_names_the_nearest(environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="make one with: bertjobs init"):
        read_site("juno", environ)
    keep(environ, "juno", "levante")
    with pytest.raises(InputError, match="did you mean 'levante'"):
        read_site("levant", environ)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "none"])
def test_a_site_s_name_cannot_leave_the_folder(environ: dict[str, str], name: str) -> None:
    with pytest.raises(InputError):
        site_file(name, environ)


def test_the_folder_is_the_users_configuration() -> None:
    assert site_file("a", {"HOME": "/home/me"}) == Path("/home/me/.config/bertjobs/sites/a.yml")
    assert site_file("a", {"HOME": "/home/me", "XDG_CONFIG_HOME": "/x"}) == Path("/x/bertjobs/sites/a.yml")
    with pytest.raises(InputError, match="set HOME or XDG_CONFIG_HOME"):
        site_file("a", {})


def test_a_file_that_is_not_text_is_an_input_error(environ: dict[str, str]) -> None:
    keep(environ, "juno")
    site_file("juno", environ).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_site(None, environ)


def test_a_file_is_the_owners_alone_and_not_overwritten_unasked(environ: dict[str, str]) -> None:
    keep(environ, "juno")
    file = site_file("juno", environ)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="overwrite it with --yes"):
        write_site("account: other\n", file, overwrite=False)
    assert file.read_text() == "account: juno-account\n"
    write_site("account: other\n", file, overwrite=True)
    assert file.read_text() == "account: other\n"
    assert file.stat().st_mode & 0o777 == 0o600


# ---- a new one ----


def test_a_new_file_holds_what_slurm_reported() -> None:
    text = render_site("juno", JUNO, BATCH, Path("/lustre/me"))
    expected = {
        "partition": "batch",
        "account": "bio",
        "time": "1-00:00:00",
        "data": "/lustre/me/data/prepared",
        "results": "/lustre/me/results",
    }
    assert yaml.safe_load(text) == expected
    assert parsed(text) == Site("juno", FILE, **expected)
    for line in (
        "Slurm 24.05.2, cluster juno",
        "batch (default)  2-00:00:00  4      64    503 GiB  8 a100         queued again",
        "urgent           2-00:00:00  4      64    503 GiB  8 a100         never",
        "Jobs preempted by those of urgent are queued again.",
        "Yours: bio (default), phys.",
        "Yours: normal, high.",
        "# qos: ",
        "srun has pyxis; no Apptainer is on the PATH here",
        "on /lustre (lustre), which other machines can see",
        "job arrays: indices below 1001",
    ):
        assert line in text


def test_every_key_is_in_a_new_file_and_its_examples_are_valid() -> None:
    text = render_site("juno", JUNO, BATCH, Path("/lustre/me"))
    lines = text.splitlines()
    keys = [line for line in lines if line.removeprefix("# ").split(":")[0] in KEYS and line[-1] in '"]}']
    assert [line.removeprefix("# ").split(":")[0] for line in keys] == list(KEYS)
    uncommented = "\n".join(line.removeprefix("# ") for line in keys)
    site = parsed(uncommented)
    assert site.qos == "normal"
    assert site.image.endswith(".sqsh")
    assert len(site.sbatch) == len(site.environment) == 2


def test_where_there_is_only_apptainer_the_examples_are_its_own() -> None:
    text = render_site("juno", replace(JUNO, pyxis=False, apptainer=True), BATCH, Path("/lustre/me"))
    assert "srun has no pyxis (--container-image); Apptainer is on the PATH here" in text
    assert '# image: "/path/to/image.sif"\n' in text
    assert '# container: "apptainer"\n' in text


def test_what_is_uncertain_is_left_to_the_user() -> None:
    bare = replace(
        JUNO,
        sacct=False,
        pyxis=False,
        associations=(),
        default_account="",
        file_system=FileSystem("/", "ext4", False),
        config={},
    )
    text = render_site("here", bare, replace(BATCH, limit_s=None), Path("/home/me"))
    assert yaml.safe_load(text) == {"partition": "batch", "time": "1-00:00:00"}
    assert '# data: "/home/me/data/prepared"' in text
    assert "sacct does not answer" in text
    assert "this machine's own: choose folders that all nodes see" in text
    assert "Accounting does not say which are yours." in text
    assert "Its jobs are not preempted." in text


def test_a_folder_that_no_run_can_be_in_is_not_proposed() -> None:
    text = render_site("juno", JUNO, BATCH, Path("/lustre/my\\files"))
    assert set(yaml.safe_load(text)) == {"partition", "account", "time"}
    assert "my files" not in text


@pytest.mark.parametrize(
    ("limit_s", "time"), [(3600, "1:00:00"), (86400, "1-00:00:00"), (604800, "1-00:00:00"), (None, "1-00:00:00")]
)
def test_a_job_asks_for_a_day_or_what_the_partition_allows(limit_s: int | None, time: str) -> None:
    assert parsed(render_site("juno", JUNO, replace(BATCH, limit_s=limit_s), Path("/lustre"))).time == time


@pytest.mark.parametrize(
    ("preempt_type", "mode", "words"),
    [
        ("preempt/none", "REQUEUE", "Its jobs are not preempted."),
        ("preempt/partition_prio", "OFF", "Its jobs are not preempted."),
        ("preempt/partition_prio", "CANCEL", "Jobs preempted by those of urgent are cancelled."),
        ("preempt/qos", "GANG,SUSPEND", "Jobs preempted are suspended, and resume in place."),
        ("preempt/qos", "REQUEUE", "Jobs preempted are queued again."),
        ("preempt/qos", "WITHIN", "Jobs preempted are treated as WITHIN says."),
    ],
)
def test_preemption_is_put_into_words(preempt_type: str, mode: str, words: str) -> None:
    cluster = replace(JUNO, config={"PreemptType": preempt_type})
    assert preemption(cluster, replace(BATCH, preempt_mode=mode)) == words


@given(partition=st.text(), account=st.text(), qos=st.text(), version=st.text(), mount=st.text())
def test_whatever_slurm_calls_things_a_new_file_is_valid(
    partition: str, account: str, qos: str, version: str, mount: str
) -> None:
    strange = replace(
        JUNO,
        config={"SLURM_VERSION": version, "ClusterName": "x"},
        partitions=(replace(BATCH, name=partition),),
        associations=(Association(account, "", (qos,), qos),),
        default_account=account,
        file_system=FileSystem(mount, "nfs", True),
    )
    text = render_site("x", strange, strange.partitions[0], Path("/lustre"))
    site = parsed(text)
    assert site.partition in ("", partition)
    assert site.account in ("", account)
    assert site.qos == ""
    assert set(yaml.safe_load(text)) <= set(KEYS)
