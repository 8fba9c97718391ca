"""``python -m tools.bench_gateway``: see ``tools.bench.gateway``."""

import sys

from tools.bench.gateway import main

if __name__ == "__main__":
    sys.exit(main())
