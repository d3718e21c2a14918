from __future__ import annotations

import os
import resource
import secrets
import socket
import time
from typing import TYPE_CHECKING

import pytest

from queuectl.system.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """Return a socket in place of systemd's, and the environment that names it to a service."""
    name = f"@queuectl-{secrets.token_hex(8)}"
    address = name if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        heard.settimeout(20)
        yield heard, {"NOTIFY_SOCKET": address}


def test_each_message_arrives_as_a_datagram_of_its_own(
    manager: tuple[socket.socket, dict[str, str]],
) -> None:
    heard, environment = manager
    notifier = Notifier.from_environment(environment)
    notifier.ready()
    notifier.beat()
    notifier.stopping()
    assert [heard.recv(100) for _ in range(3)] == [
        b"READY=1",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]
    earlier_us = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, _, at_us = heard.recv(100).partition(b"\nMONOTONIC_USEC=")
    assert reloading == b"RELOADING=1"
    assert earlier_us <= int(at_us) <= time.monotonic_ns() // 1000


def test_a_beat_is_due_at_half_of_what_the_watchdog_allows() -> None:
    mine = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    for environment in (mine, {"WATCHDOG_USEC": "30000000"}):
        notifier = Notifier.from_environment(environment)
        assert notifier.beat_s == 15


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_beats_are_due_where_nobody_counts_ours(environment: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environment)
    assert notifier.beat_s is None


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "/" + "x" * 200])
def test_a_manager_that_cannot_be_reached_stops_nothing(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.beat()


def test_a_manager_that_does_not_read_stops_nothing(
    manager: tuple[socket.socket, dict[str, str]],
) -> None:
    heard, environment = manager
    notifier = Notifier.from_environment(environment)
    for _ in range(5000):  # far more than a socket holds
        notifier.beat()
    assert heard.recv(100) == b"WATCHDOG=1"


def test_a_message_for_which_no_descriptor_is_left_stops_nothing(
    manager: tuple[socket.socket, dict[str, str]],
) -> None:
    heard, environment = manager
    notifier = Notifier.from_environment(environment)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # open descriptors stay open
    try:
        notifier.beat()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    notifier.ready()
    assert heard.recv(100) == b"READY=1"
