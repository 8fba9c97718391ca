"""``python -m tools.bench_gateway``: see ``tools.bench.gateway``."""

from tools.bench.gateway import main

if __name__ == "__main__":
    main()
