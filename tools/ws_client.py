"""``python -m tools.ws_client``, or ``python tools/ws_client.py`` from anywhere: see ``tools.client.ws_client``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # as a path: the packages lie one folder higher
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    from shared.extras import needing

    with needing("client", "ws_client"):
        from tools.client.ws_client import main

        main()
