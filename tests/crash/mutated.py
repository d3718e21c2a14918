"""A program: queuectl with the mutation that the environment names."""

from __future__ import annotations

from queuectl.cli import main
from tests.crash import mutations

if __name__ == "__main__":
    mutations.apply_named()
    main()
