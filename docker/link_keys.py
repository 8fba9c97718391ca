"""CURVE keys of the link for compose.yaml, made once: the gateway's in /keys/gateway, the workers' in /keys/worker.

Each side gets its own secret and the other's public key, nothing more.
"""

import shutil
from pathlib import Path

import zmq.auth

GATEWAY, WORKER = Path("/keys/gateway"), Path("/keys/worker")


def main() -> None:
    """Make what is missing, and hand public keys over."""
    for folder, name in ((GATEWAY, "gateway"), (WORKER, "worker")):
        if not (folder / f"{name}.key_secret").exists():
            zmq.auth.create_certificates(folder, name)
            print(f"keys: made {folder / name}.key_secret")
    (GATEWAY / "workers").mkdir(exist_ok=True)
    shutil.copy(WORKER / "worker.key", GATEWAY / "workers")
    shutil.copy(GATEWAY / "gateway.key", WORKER)
    for secret in (GATEWAY / "gateway.key_secret", WORKER / "worker.key_secret"):
        secret.chmod(0o600)


if __name__ == "__main__":
    main()
