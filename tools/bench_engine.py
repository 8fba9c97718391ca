"""``python -m tools.bench_engine``: see ``tools.bench.engine``."""

from tools.bench.engine import main

if __name__ == "__main__":
    main()
