"""``python -m tools.check_parity``: see ``tools.parity.check``."""

import sys

from tools.parity.check import main

if __name__ == "__main__":
    sys.exit(main())
