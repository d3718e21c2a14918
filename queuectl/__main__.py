"""Where `queuectl` and `python -m queuectl` begin."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it, which takes 5 ms to import
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; one interrupted while its modules load ends like a later one."""
    try:
        from queuectl.cli import main as run
    except KeyboardInterrupt:
        print("queuectl: interrupted", file=sys.stderr)  # noqa: T201 - click is not there
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
