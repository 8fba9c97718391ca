"""``python -m tools.bench_gateways``: see ``tools.bench.gateways``."""

from tools.bench.gateways import main

if __name__ == "__main__":
    main()
