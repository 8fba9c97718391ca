"""``python -m tools.bench_webrtc``: see ``tools.bench.webrtc``."""

from tools.bench.webrtc import main

if __name__ == "__main__":
    main()
