"""``python -m fastgen`` and the ``fastgen`` command. Help and light commands import no torch."""

from __future__ import annotations

import sys

from fastgen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
