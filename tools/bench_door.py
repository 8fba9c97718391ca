"""``python -m tools.bench_door``: see ``tools.bench.door``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("all", "bench_door"):
        from tools.bench.door import main

        main()
