"""Start a worker process: run by its path, since only the parent's `sys.path` may lead here."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from clearway.offload.child import main

    main(*map(int, sys.argv[1:4]))
