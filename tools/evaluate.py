"""``python -m tools.evaluate``: see ``tools.quality.evaluate``."""

from tools.quality.evaluate import main

if __name__ == "__main__":
    main()
