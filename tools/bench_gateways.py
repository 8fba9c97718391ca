"""``python -m tools.bench_gateways``: see ``tools.bench.gateways``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("all", "bench_gateways"):
        from tools.bench.gateways import main

        main()
