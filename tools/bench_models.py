"""``python -m tools.bench_models``: see ``tools.bench.models``."""

from tools.bench.models import main

if __name__ == "__main__":
    main()
