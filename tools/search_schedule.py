"""``python -m tools.search_schedule``: see ``tools.quality.search_schedule``."""

from tools.quality.search_schedule import main

if __name__ == "__main__":
    main()
