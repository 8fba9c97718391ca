"""``python -m tools.evaluate_chunks``: see ``tools.quality.evaluate_chunks``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "evaluate_chunks"):
        from tools.quality.evaluate_chunks import main

        main()
