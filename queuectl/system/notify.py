"""Tell systemd that this service is up, stopping or alive, as sd_notify(3) does.

Only the standard library is needed. A message is one datagram of `NAME=value` lines, sent to the
socket that $NOTIFY_SOCKET names. If that is not set, nobody listens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOCKET, _WATCHDOG_US, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
VARIABLES = (_SOCKET, _WATCHDOG_US, _WATCHDOG_PID)


class Notifier:
    """Sends messages to the service manager that started this process.

    A message that cannot be delivered is dropped. A manager that is being restarted must not stop
    a job, and a manager that misses heartbeats acts as its unit file says.

    Args:
        address: a path, or `@name` in the abstract namespace; with any other, nothing is sent.
        beat_s: seconds between two heartbeats, None if the manager expects none.
    """

    def __init__(self, address: str, beat_s: float | None = None) -> None:
        self.beat_s = beat_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._heard = address.startswith(("/", "@"))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Return the notifier that the environment asks for."""
        return cls(environment.get(_SOCKET, ""), _beat_s(environment))

    def ready(self) -> None:
        """Report that the service is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """Report that the service reads its settings again, until `ready` is called."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def beat(self) -> None:
        """Send a heartbeat, which is due every `beat_s` seconds."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._heard:
            return
        with (
            contextlib.suppress(OSError),  # see the class; also if no descriptor is left
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        ):
            datagrams.setblocking(False)  # noqa: FBT003
            datagrams.sendto(message.encode(), self._address)


def _beat_s(environment: Mapping[str, str]) -> float | None:
    """Return half of the watchdog timeout in seconds, as sd_watchdog_enabled(3) advises."""
    allowed_us = environment.get(_WATCHDOG_US, "")
    meant_for = environment.get(_WATCHDOG_PID) or str(os.getpid())
    if not allowed_us.isdecimal() or int(allowed_us) == 0 or meant_for != str(os.getpid()):
        return None
    return int(allowed_us) / 2_000_000
