"""``python -m tools.decrypt_session``: see ``tools.recordings.decrypt``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("gateway", "decrypt_session"):
        from tools.recordings.decrypt import main

        main()
