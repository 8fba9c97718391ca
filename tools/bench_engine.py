"""``python -m tools.bench_engine``: see ``tools.bench.engine``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "bench_engine"):
        from tools.bench.engine import main

        main()
