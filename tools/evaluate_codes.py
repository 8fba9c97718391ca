"""``python -m tools.evaluate_codes``: see ``tools.quality.evaluate_codes``."""

from tools.quality.evaluate_codes import main

if __name__ == "__main__":
    main()
