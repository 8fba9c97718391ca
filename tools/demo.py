"""`make run`: the service with its bundled defaults, a sample streamed through it, and then it keeps serving.

Starts ``fast-vc serve``, waits until it is ready, sends the bundled sample in real time, writes ``outputs/demo.wav``,
prints the latency report and serves until Ctrl-C.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from shared.config import ROOT, ConfigError, load
from shared.supervisor import base_url

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
OUTPUT = "outputs/demo.wav"
READY_TIMEOUT_S = 120.0


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> bool:
    """Whether `url`/ready answered 200 before the service ended or the time was over."""
    end = time.monotonic() + READY_TIMEOUT_S
    while service.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url + "/ready", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def stream_sample(url: str, api_key: str) -> int:
    """Stream the sample with the client that users have; its exit code."""
    command = [sys.executable, "-m", "tools.ws_client", "--url", url.replace("http", "ws", 1) + "/ws"]
    command += ["--api-key", api_key, "--source-wav-path", str(SAMPLE), "--output", OUTPUT, "--real-time"]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Exit code: the service's own, or 1 if the demonstration failed."""
    try:
        config = load()
    except ConfigError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    url = base_url(config)
    service = subprocess.Popen([sys.executable, "-m", "shared.cli", "serve"], start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.send_signal(signal.SIGTERM))
    if not wait_until_ready(url, service):
        if service.poll() is None:
            print(f"demo: the service is not ready after {READY_TIMEOUT_S:g} s; see logs/", file=sys.stderr)
            service.terminate()
        return service.wait() or 1
    keys = config.auth.api_keys
    code = stream_sample(url, keys[0] if keys else "")
    if code == 0:
        print(f"\nThe sample in the default voice is in {OUTPUT}. Serving at {url}/ until Ctrl-C.", flush=True)
    elif service.poll() is None:
        print("demo: the sample did not come through; the service keeps running", file=sys.stderr)
    return service.wait()


if __name__ == "__main__":
    sys.exit(main())
