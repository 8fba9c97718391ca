"""``python -m tools.bench_engine``: see ``tools.bench.engine``."""

import sys

from tools.bench.engine import main

if __name__ == "__main__":
    sys.exit(main())
