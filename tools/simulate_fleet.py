"""``python -m tools.simulate_fleet``: see ``tools.fleet.simulate``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("all", "simulate_fleet"):
        from tools.fleet.simulate import main

        main()
