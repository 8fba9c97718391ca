"""``python -m tools.bench_webrtc``: see ``tools.bench.webrtc``."""

from shared.extras import needing

if __name__ == "__main__":
    with needing("all,webrtc", "bench_webrtc"):
        from tools.bench.webrtc import main

        main()
