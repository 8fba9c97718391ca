"""``python -m tools.evaluate_codes``: see ``tools.quality.evaluate_codes``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "evaluate_codes"):
        from tools.quality.evaluate_codes import main

        main()
