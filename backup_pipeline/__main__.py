"""``python -m backup_pipeline``: the same as the command ``backup-pipeline``."""

from __future__ import annotations

import sys

from backup_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
