"""``python -m tools.bench_door``: see ``tools.bench.door``."""

from tools.bench.door import main

if __name__ == "__main__":
    main()
