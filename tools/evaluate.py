"""``python -m tools.evaluate``: see ``tools.quality.evaluate``."""

import sys

from tools.quality.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
