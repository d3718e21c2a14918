"""Where `queuectl` and `python -m queuectl` begin."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; one interrupted while its modules load ends like a later one."""
    try:
        from queuectl.cli import main as run
    except KeyboardInterrupt:
        print("queuectl: interrupted", file=sys.stderr)  # noqa: T201 - click is not there
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
