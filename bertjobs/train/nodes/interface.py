"""The network interface that this rank should use: the one that leads to the other nodes.

gloo, left alone, takes the address that this host's name resolves to. Debian's installer writes ``127.0.1.1 NAME`` into
/etc/hosts: then it tells the other nodes an address at which each of them reaches only itself.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

from torch import distributed

from bertjobs.train.placement import Placement

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_OTHER = "ranks/address"
"""Key of the store: an address of a node other than rank 0's."""


def interface_variables(placement: Placement, store: distributed.Store, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that make gloo and NCCL use the interface to the other nodes; all ranks call it.

    Empty on a single node, and where all "nodes" are one machine. A variable that is set already is the user's, and
    stays. NCCL chooses InfiniBand's own interfaces by itself; elsewhere it needs the name to meet, not to send.

    Args:
        store: the one that rank 0 hosts. A rank on rank 0's node cannot see the way out by MASTER_ADDR, which may be
            this node's own name: it gets an address from a rank of another node.
    """
    if placement.nodes == 1:
        return {}
    address = address_towards(placement.master)
    if placement.local_rank == 0 and not placement.is_first:
        store.set(_OTHER, address)
    if is_loopback(address):
        address = address_towards(store.get(_OTHER).decode())
    names = own_addresses()
    interface = names.get(address, "")
    if not interface or is_loopback(address):
        return {}
    wanted = {GLOO: interface}
    if not any(name.startswith("ib") for name in names.values()):
        wanted[NCCL] = f"={interface}"  # exactly this one: eth1 alone would mean eth10 too
    return {name: value for name, value in wanted.items() if not environ.get(name)}


def address_towards(host: str) -> str:
    """This machine's own address on the way to ``host``, IPv4 or IPv6; "" if there is no way or no such host.

    Of several addresses of the host, one that leads out of this machine counts. Nothing is sent.
    """
    own = ""
    with suppress(OSError):
        for family, kind, protocol, _, target in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # of a datagram socket: only looks up the route
                own = probe.getsockname()[0].partition("%")[0]
                if not is_loopback(own):
                    return own
    return own


def is_loopback(address: str) -> bool:
    """Whether an address leads back to the machine that uses it, or nowhere ("")."""
    return not address or ipaddress.ip_address(address).is_loopback


def trap(placement: Placement) -> str:
    """Why ranks of several nodes may not find each other: a name of one that leads back to whoever asks; "" if no name
    does."""
    if placement.nodes == 1:
        return ""
    host = socket.gethostname()
    for name in (placement.master, host):
        with suppress(OSError):
            address = str(socket.getaddrinfo(name, None)[0][4][0]).partition("%")[0]
            if is_loopback(address):
                return f"on {host} the name {name} resolves to {address} (/etc/hosts), a loopback address"
    return ""


class _Entry(ctypes.Structure):
    """getifaddrs(3)'s ``struct ifaddrs``, of Linux."""


_Entry._fields_ = [
    ("next", ctypes.POINTER(_Entry)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("other_end", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]
_PLACES = {int(socket.AF_INET): (4, 4), int(socket.AF_INET6): (8, 16)}
"""Family -> offset and length of the address in its ``sockaddr``."""


def own_addresses() -> dict[str, str]:
    """This machine's addresses, each with its interface's name, as gloo and NCCL read them; {} if that fails."""
    libc, first = ctypes.CDLL(None), ctypes.POINTER(_Entry)()
    if sys.platform != "linux" or libc.getifaddrs(ctypes.byref(first)):
        return {}
    try:
        return dict(_addresses(first))
    finally:
        libc.freeifaddrs(first)


def _addresses(first: ctypes._Pointer[_Entry]) -> Iterator[tuple[str, str]]:
    pointer = first
    while pointer:
        entry = pointer.contents
        if entry.address:
            family = ctypes.c_ushort.from_address(entry.address).value
            if place := _PLACES.get(family):
                raw = ctypes.string_at(entry.address + place[0], place[1])
                yield socket.inet_ntop(family, raw), entry.name.decode()
        pointer = entry.next
