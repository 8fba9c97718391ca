"""``python -m tools.evaluate_shift``: see ``tools.quality.evaluate_shift``."""

from tools.quality.evaluate_shift import main

if __name__ == "__main__":
    main()
