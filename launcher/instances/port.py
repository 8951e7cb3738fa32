"""A port is free only if binding it works: an invisible holder is still a holder."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import REPEAT, ExitStatus, LauncherError
from .process import psutil_module
from .proof import pids

_EVERY = ("0.0.0.0", "::")
_ANY = "any"  # a host name may mean any address
_MOST = (1 << 16) - 1
_TRIED = 100


class Listener(NamedTuple):
    """Hold one listening socket: its address, its owner's uid, and the process if it is visible."""

    address: str
    uid: int | None
    pid: int | None


class Connection(NamedTuple):
    """Hold a connection with a local port: its two ends, and its process if it is visible."""

    address: str
    remote: str
    pid: int | None


class _Socket(NamedTuple):
    address: str
    port: int
    uid: int
    inode: str


def probe(host: str | None, port: int, bad_host: ExitStatus = ExitStatus.CONFIG) -> Literal["free", "taken"]:
    """Bind the exact address that the app will bind, without listening, and release it.

    An unknown host means every IPv4 interface, which conflicts with a listener on any of them (ip(7)). SO_REUSEADDR is
    set as in Gradio; otherwise a connection in TIME_WAIT would look like a holder. Raises LauncherError if the address
    is not this machine's (with status `bad_host`) or if the port needs a privilege.
    """
    address = host or "0.0.0.0"
    try:
        probing = _probing_socket(address)
    except OSError as error:
        raise LauncherError(
            f"host {address}: this machine has no IPv6", f"start_app.py --host 0.0.0.0{REPEAT}", bad_host
        ) from error
    with probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probing.bind((address, port))
        except (socket.gaierror, UnicodeError) as error:
            raise LauncherError(
                f"host {address} cannot be resolved", f"start_app.py --host 127.0.0.1{REPEAT}", bad_host
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "taken"
            if error.errno == errno.EADDRNOTAVAIL:
                raise LauncherError(
                    f"host {address} is not an address of this machine",
                    f"start_app.py --host 0.0.0.0{REPEAT}, or --host 127.0.0.1",
                    bad_host,
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise LauncherError(
                    f"port {port} may not be bound by user {os.geteuid()}: {os.strerror(error.errno).lower()}",
                    f"start_app.py --port 7860{REPEAT}, or put a reverse proxy in front for a port below 1024",
                    ExitStatus.DENIED,
                ) from error
            raise LauncherError(f"cannot bind {address} port {port}: {error.strerror}", "ip address") from error
    return "free"


def another(besides: Collection[int], port: int) -> int:
    """Return a free port near this one that is none of `besides`; the next one if no port is free."""
    near: tuple[int, ...] = (
        *range(port + 1, min(port + _TRIED, _MOST) + 1),
        *range(port - 1, max(port - _TRIED, 1) - 1, -1),
    )
    for number in near:
        try:
            if number not in besides and probe(None, number) == "free":
                return number
        except LauncherError:
            continue  # it needs a privilege that this user lacks
    return near[0]


def is_free_for_a_plain_bind(host: str | None, port: int) -> bool:
    """Return whether an app without SO_REUSEADDR could bind the port now; closed connections prevent it."""
    address = host or "0.0.0.0"
    try:
        with _probing_socket(address) as probing:
            probing.bind((address, port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def _probing_socket(address: str) -> socket.socket:
    probing = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    if probing.family == socket.AF_INET6:
        probing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return probing


def connections(host: str | None, port: int) -> tuple[Connection, ...]:
    """Return the connections with (host, port) as their own end: an outgoing one blocks its port."""
    psutil = psutil_module()
    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ()
    passing = (psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT, psutil.CONN_NONE)
    return tuple(
        Connection(c.laddr.ip, f"{c.raddr.ip}:{c.raddr.port}", c.pid)
        for c in sockets
        if c.status not in passing and c.raddr and c.laddr.port == port and _conflict(host, c.laddr.ip)
    )


def listeners(host: str | None, port: int, known: Collection[int] = ()) -> tuple[Listener, ...]:
    """Return the listeners in our network namespace that block an app on (host, port), except `known` processes.

    A socket is free when its last holder has ended, so every process that has inherited it counts; psutil names one.
    """
    sockets = _sockets(host, port)
    if sockets is None:
        return tuple(_listeners_of_psutil(host, port, known))
    holders = _holders(frozenset(listening.inode for listening in sockets))
    return tuple(
        Listener(listening.address, listening.uid, pid)
        for listening in sockets
        for pid in holders.get(listening.inode, (None,))
        if pid not in known
    )


def _listeners_of_psutil(host: str | None, port: int, known: Collection[int]) -> Iterator[Listener]:
    psutil = psutil_module()
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):  # macOS shows them only to root; a unit with ProcSubset=pid has no /proc/net
        return
    for c in connections:
        mine = c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port
        if mine and c.pid not in known and _conflict(host, c.laddr.ip):
            yield Listener(c.laddr.ip, None, c.pid)


def _holders(inodes: frozenset[str]) -> Mapping[str, Sequence[int]]:
    """Return the visible processes that hold these sockets, by inode; only their descriptors show that."""
    holders: dict[str, list[int]] = {}
    for pid in pids() if inodes else ():
        for inode in inodes.intersection(_inodes(pid)):
            holders.setdefault(inode, []).append(pid)
    return holders


def listening(pids: Sequence[int]) -> frozenset[int]:
    """Return the TCP ports on which any of these processes listens; an ended or hidden process has none."""
    return frozenset(addresses(pids))


def listening_inodes(pid: int) -> frozenset[str]:
    """Return the inodes of the listening TCP sockets of a process in our network namespace, also of inherited ones."""
    held = frozenset(_inodes(pid))
    return held.intersection(listening.inode for listening in _listening() or ()) if held else held


def addresses(pids: Sequence[int]) -> Mapping[int, tuple[str, ...]]:
    """Return the addresses on which any of these processes listens, by TCP port."""
    sockets = _listening()
    if sockets is None:
        listed = [place for pid in pids for place in _listening_by_psutil(pid)]
    else:
        own = frozenset(inode for pid in pids for inode in _inodes(pid)) if sockets else frozenset()
        listed = [(listening.port, listening.address) for listening in sockets if listening.inode in own]
    ports: dict[int, dict[str, None]] = {}
    for port, address in listed:
        ports.setdefault(port, {})[address] = None
    return {port: tuple(present) for port, present in ports.items()}


def _listening_by_psutil(pid: int) -> list[tuple[int, str]]:
    psutil = psutil_module()
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except (psutil.Error, OSError):
        return []
    return [(c.laddr.port, c.laddr.ip) for c in connections if c.status == psutil.CONN_LISTEN and c.laddr]


def mismatch(asked: str | None, addresses: Collection[str]) -> str | None:
    """Return in words how the app's listening addresses differ from the requested one."""
    if asked is None or not addresses:
        return None
    present = tuple(address.removeprefix("::ffff:") for address in addresses)
    every = next((address for address in present if address in _EVERY), None)
    listed = ", ".join(present)
    if asked in _EVERY:
        return None if every else f"it listens on {listed} only, not on every interface ({asked})"
    if every:
        return f"it listens on every interface ({every}), not on {asked} only"
    wanted = ("127.0.0.1", "::1") if asked == "localhost" else (asked,)
    is_literal = asked == "localhost" or ":" in asked or asked.replace(".", "").isdigit()
    return f"it listens on {listed}, not on {asked}" if is_literal and not {*wanted} & {*present} else None


def is_listened_to(port: int) -> bool:
    """Return whether any process listens on a port, on any address; true if that is unknown."""
    sockets = _sockets(_ANY, port)
    return sockets is None or bool(sockets)


def _conflict(host: str | None, address: str) -> bool:
    # A ::1 listener does not block IPv4; a host name may resolve to any address, so it conflicts with everything.
    if address in ("0.0.0.0", "::") or host == "::":
        return True
    if host is None or host == "0.0.0.0":
        return ":" not in address or address.startswith("::ffff:")
    is_literal = ":" in host or host.replace(".", "").isdigit()
    return not is_literal or address in (host, f"::ffff:{host}")


def _sockets(host: str | None, port: int) -> list[_Socket] | None:
    """Return the blocking listeners; None without /proc."""
    sockets = _listening()
    if sockets is None:
        return None
    return [listening for listening in sockets if listening.port == port and _conflict(host, listening.address)]


def _listening() -> list[_Socket] | None:
    """Return every listener in our network namespace, from proc_net(5); None without /proc.

    psutil reads /proc/net, which ProcSubset=pid hides, and reads it again for each process.
    """
    sockets = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
        except OSError:
            if family == socket.AF_INET:
                return None
            continue  # a kernel without IPv6
        for line in lines:
            fields = line.split()
            hexadecimal, _, number = fields[1].partition(":")
            if fields[3] != "0A":
                continue
            words = (int(hexadecimal[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(hexadecimal), 8))
            address = socket.inet_ntop(family, b"".join(words))
            sockets.append(_Socket(address, int(number, 16), int(fields[7]), fields[9]))
    return sockets


def _inodes(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{folder}/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
