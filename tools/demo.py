"""`make run`: the service with its bundled defaults, a sample streamed through it, and then it keeps serving.

Starts ``fast-vc serve``, waits until it is ready, sends the bundled sample in real time, writes ``outputs/demo.wav``,
prints the latency report and serves until Ctrl-C.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from shared.addresses import base_url, wait_until_ready
from shared.config import ROOT
from shared.errors import ConfigError
from shared.options import load_options
from tools.service.supervisor import PortTaken, check_link_ports, check_port, start_child

SAMPLE = ROOT / "worker" / "assets" / "samples" / "sample.flac"
OUTPUT = "outputs/demo.wav"


def stream_sample(url: str, api_key: str) -> int:
    """Stream the sample with the client that users have; its exit code."""
    command = [sys.executable, "-P", "-m", "tools.ws_client", "--url", url.replace("http", "ws", 1) + "/ws"]
    command += ["--api-key", api_key, "--source-wav-path", str(SAMPLE), "--output", OUTPUT, "--real-time"]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Exit code: the service's own, or 1 if the demonstration failed."""
    try:
        config = load_options()
        check_link_ports(config, config.gateway.processes)
        check_port(config)  # else the demonstration would talk to whoever listens there
    except ConfigError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except PortTaken as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    url = base_url(config)
    service = start_child([sys.executable, "-P", "-m", "tools.service.cli", "serve"])
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        service.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if not wait_until_ready(url, lambda: service.poll() is None, config.serve.ready_timeout_s):
        if service.poll() is None:
            print(f"demo: not ready after {config.serve.ready_timeout_s:g} s; see {config.log.dir}/", file=sys.stderr)
            service.terminate()
        code = service.wait()
        return code if stopping else code or 1
    keys = config.auth.api_keys
    code = stream_sample(url, keys[0] if keys else "")
    if stopping:
        pass
    elif code == 0:
        print(f"\nThe sample in the default voice is in {OUTPUT}. Serving at {url}/ until Ctrl-C.", flush=True)
    elif service.poll() is None:
        print("demo: the sample did not come through; the service keeps running", file=sys.stderr)
    return service.wait()


if __name__ == "__main__":
    sys.exit(main())
