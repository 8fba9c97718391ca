"""``python -m tools.bench_models``: see ``tools.bench.models``."""

import sys

from tools.bench.models import main

if __name__ == "__main__":
    sys.exit(main())
