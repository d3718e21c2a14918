"""Settings are followed, even while they are being written."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from queuectl.pool.live_config import LiveConfig
from queuectl.workers.worklog import WorkLog

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support import SpoolDir


def test_each_time_an_editor_saves_the_file_it_is_waited_for(
    spool: SpoolDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.configure(max_retries=9)
    settings, clock = f"{spool.path}/config.json", [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    api = spool.api
    live = LiveConfig(api, WorkLog(-1))
    for _ in range(2):
        live.follow()
        os.rename(settings, f"{settings}~")  # as vim does, for an instant
        live.follow()
        assert api.config.max_retries == 9
        os.rename(f"{settings}~", settings)
        clock[0] += 60
    live.follow()
    os.unlink(settings)
    live.follow()
    assert live.wait_s is not None
    clock[0] += live.wait_s
    live.follow()
    assert api.config.max_retries == 3


def test_sighup_has_settings_read_that_were_refused_for_what_was_not_there(
    spool: SpoolDir, tmp_path: Path
) -> None:
    with spool.pool() as pool:
        shell = tmp_path / "shell"
        with open(f"{spool.path}/config.json", "w") as file:
            file.write(f'{{"shell": "{shell}"}}')
        pool.wait_for("warning")
        shell.symlink_to("/bin/sh")
        pool.signal(signal.SIGHUP)
        pool.wait_for("config")
