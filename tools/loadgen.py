"""``python -m tools.loadgen``: see ``tools.client.loadgen``."""

from tools.client.loadgen import main

if __name__ == "__main__":
    main()
