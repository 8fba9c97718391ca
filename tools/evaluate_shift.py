"""``python -m tools.evaluate_shift``: see ``tools.quality.evaluate_shift``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker,dev", "evaluate_shift"):
        from tools.quality.evaluate_shift import main

        main()
