"""``python -m tools.bench_gateway``: see ``tools.bench.gateway``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("all", "bench_gateway"):
        from tools.bench.gateway import main

        main()
