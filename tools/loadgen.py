"""``python -m tools.loadgen``: see ``tools.client.loadgen``."""

import sys

from tools.client.loadgen import main

if __name__ == "__main__":
    sys.exit(main())
