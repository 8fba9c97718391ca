"""``python -m tools.search_schedule``: see ``tools.quality.search_schedule``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "search_schedule"):
        from tools.quality.search_schedule import main

        main()
