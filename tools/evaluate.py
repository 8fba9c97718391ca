"""``python -m tools.evaluate``: see ``tools.quality.evaluate``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("all,train", "evaluate"):
        from tools.quality.evaluate import main

        main()
