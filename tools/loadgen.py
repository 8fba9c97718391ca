"""``python -m tools.loadgen``, or ``python tools/loadgen.py`` from anywhere: see ``tools.client.loadgen``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # as a path: the packages lie one folder higher
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    from shared.extras import needing

    with needing("client", "loadgen"):
        from tools.client.loadgen import main

        main()
