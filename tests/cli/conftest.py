"""The documents are written last: until they are there, nothing is held against them."""

from __future__ import annotations

import os

from tests.support import ROOT

THERE = all(os.path.exists(f"{ROOT}/{name}") for name in ("README.md", "spool-layout.md"))
collect_ignore = [] if THERE else ["test_docs.py"]
