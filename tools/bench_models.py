"""``python -m tools.bench_models``: see ``tools.bench.models``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "bench_models"):
        from tools.bench.models import main

        main()
