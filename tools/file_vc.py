"""``python -m tools.file_vc``: see ``tools.files.convert``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("worker", "file_vc"):
        from tools.files.convert import main

        main()
