"""``python -m tools.ws_client``: see ``tools.client.ws_client``."""

from tools.client.ws_client import main

if __name__ == "__main__":
    main()
