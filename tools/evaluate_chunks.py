"""``python -m tools.evaluate_chunks``: see ``tools.quality.evaluate_chunks``."""

from tools.quality.evaluate_chunks import main

if __name__ == "__main__":
    main()
