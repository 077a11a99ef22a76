"""The interface to the other nodes: found by the route, told to gloo and NCCL, on machines with real addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import distributed

from bertjobs.launch.local import free_port
from bertjobs.train.nodes import interface
from bertjobs.train.nodes.interface import (
    GLOO,
    NCCL,
    address_towards,
    interface_variables,
    is_loopback,
    own_addresses,
)
from bertjobs.train.placement import Placement, read_placement
from tests.train.conftest import Trial, ended
from tests.train.forked import Ended

ETHERNET = {"127.0.0.1": "lo", "::1": "lo", "10.0.0.1": "eth0", "10.1.0.1": "eth1"}


def placement(rank: int = 0, nodes: int = 2, master: str = "10.0.0.1") -> Placement:
    """One rank per node."""
    environ = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": nodes, "NODES": nodes}
    return read_placement({**{name: str(value) for name, value in environ.items()}, "MASTER_ADDR": master})


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with two networks, at 10.0.0.1; the name of its own that others know leads back to it."""
    ways = {
        "10.0.0.1": "10.0.0.1",
        "10.0.0.2": "10.0.0.1",
        "10.1.0.2": "10.1.0.1",
        "one": "127.0.1.1",
        "127.0.1.1": "127.0.1.1",
        "gone": "",
    }
    monkeypatch.setattr(interface, "address_towards", ways.__getitem__)
    monkeypatch.setattr(interface, "own_addresses", lambda: ETHERNET)


def test_this_machine_s_own_addresses() -> None:
    assert own_addresses()["127.0.0.1"] == "lo"
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert is_loopback(address_towards("localhost"))
    assert address_towards("nosuchhost.invalid") == ""


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.1.1", True), ("::1", True), ("", True), ("10.0.0.1", False), ("fd00::1", False)]
)
def test_what_leads_back(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(("master", "name"), [("10.0.0.1", "eth0"), ("10.1.0.2", "eth1")])
@pytest.mark.usefixtures("routes")
def test_the_interface_is_the_one_that_leads_to_rank_0(master: str, name: str) -> None:
    found = interface_variables(placement(1, master=master), distributed.HashStore(), {})
    assert found == {GLOO: name, NCCL: f"={name}"}


@pytest.mark.usefixtures("routes")
def test_rank_0_s_own_name_leads_nowhere_and_another_node_s_address_shows_the_way_out() -> None:
    store = distributed.HashStore()
    store.set("ranks/address", "10.1.0.2")
    assert interface_variables(placement(master="one"), store, {}) == {GLOO: "eth1", NCCL: "=eth1"}


@pytest.mark.usefixtures("routes")
def test_a_rank_of_another_node_tells_its_address_and_others_do_not() -> None:
    store = distributed.HashStore()
    interface_variables(placement(), store, {})
    assert store.num_keys() == 0
    interface_variables(placement(1, master="10.1.0.2"), store, {})
    assert store.get("ranks/address") == b"10.1.0.1"


@pytest.mark.usefixtures("routes")
def test_the_user_s_own_choice_stays() -> None:
    store = distributed.HashStore()
    assert interface_variables(placement(), store, {GLOO: "eth7"}) == {NCCL: "=eth0"}
    assert interface_variables(placement(), store, {GLOO: "eth7", NCCL: "ib"}) == {}


@pytest.mark.usefixtures("routes")
def test_nccl_chooses_infiniband_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "own_addresses", lambda: {**ETHERNET, "10.9.0.1": "ib0"})
    assert interface_variables(placement(), distributed.HashStore(), {}) == {GLOO: "eth0"}


@pytest.mark.usefixtures("routes")
def test_nothing_is_set_on_one_node_or_one_machine_or_without_a_way() -> None:
    store = distributed.HashStore()
    assert interface_variables(placement(nodes=1), store, {}) == {}
    store.set("ranks/address", "gone")
    assert interface_variables(placement(master="one"), store, {}) == {}
    assert interface_variables(placement(1, master="one"), store, {}) == {}  # "nodes" of one machine


@dataclass(frozen=True)
class Machines:
    """Two machines on one network, ``one`` and ``two``, each a network namespace with its own host name and hosts file.

    Attributes:
        spaces: the namespaces' names.
        folder: of the hosts files.
        addresses: of the two.
    """

    spaces: Sequence[str]
    folder: Path
    addresses: Sequence[str]

    def run(self, trial: Trial, hosts: Sequence[str], **settings: str) -> list[Ended]:
        """A rank on each machine, to train phase 1 together; ``hosts`` are the lines of each one's /etc/hosts."""
        port = free_port()
        ranks = []
        for rank, (space, name) in enumerate(zip(self.spaces, ("one", "two"), strict=True)):
            file = self.folder / name
            file.write_text(f"127.0.0.1 localhost\n{hosts[rank]}\n")
            script = f'hostname {name} && mount --bind {file} /etc/hosts && exec "$@"'
            environ = trial.environment(1, rank, 2, port)
            environ |= {"LOCAL_RANK": "0", "NODES": "2", "MASTER_ADDR": "one", **settings}
            ranks.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", space, "unshare", "--mount", "--uts", "bash", "-c", script, "bash",
                     sys.executable, "-m", "bertjobs.train"],
                    env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        return ended(ranks)


@pytest.fixture(
    params=[pytest.param("10.77.0.{}/24", id="IPv4", marks=pytest.mark.slow), pytest.param("fd77::{}/64", id="IPv6")]
)
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machines]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two machines on one network: making network namespaces needs root and iproute2")
    spaces = [f"bertjobs-{os.getpid()}-{name}" for name in ("one", "two")]
    ends = [f"bj{os.getpid() % 10**9}{letter}" for letter in "ab"]
    with_bits = [request.param.format(number) for number in (1, 2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for space in spaces:
            ip("netns", "add", space)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for space, end, address in zip(spaces, ends, with_bits, strict=True):
            ip("link", "set", end, "netns", space, "name", "lan0")
            ip("-n", space, "addr", "add", address, "dev", "lan0", *(["nodad"] if ":" in address else []))
            for name in ("lo", "lan0"):
                ip("-n", space, "link", "set", name, "up")
        yield Machines(spaces, tmp_path, [address.partition("/")[0] for address in with_bits])
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


@pytest.mark.slow
def test_hosts_whose_names_mean_themselves_train_together(machines: Machines, trial: Trial) -> None:
    """As Debian's installer leaves them: each knows the other's address, and calls itself 127.0.1.1."""
    one, two = machines.addresses
    ranks = machines.run(trial, [f"127.0.1.1 one\n{two} two", f"127.0.1.1 two\n{one} one"])
    assert [rank.code for rank in ranks] == [0, 0], ranks
    assert "2 nodes x 1 task" in ranks[0].out
    assert trial.phase(1).done() is not None


def test_a_name_that_leads_back_is_the_cause_that_the_error_names(machines: Machines, trial: Trial) -> None:
    """Rank 1's node takes rank 0's name for its own, as on a copied disk."""
    _, two = machines.addresses
    first, second = machines.run(trial, [f"127.0.1.1 one\n{two} two", "127.0.1.1 one two"], BERTJOBS_JOIN_TIMEOUT_S="4")
    assert (first.code, second.code) == (70, 70)
    assert "rank 1 of 2 cannot join the others" in second.err
    assert "on two the name one resolves to 127.0.1.1 (/etc/hosts), a loopback address" in second.err
    assert "GLOO_SOCKET_IFNAME" in second.err
