"""``python -m tools.check_parity``: see ``tools.parity.check``."""

import sys

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "check_parity"):
        from tools.parity.check import main

        sys.exit(main())
