"""``fast-vc keys``: pairs for the link that a gateway and its workers really use."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner, Result

from shared.curve import authenticator, fingerprint, load_keys, read_public
from shared.link import bind_router, connect_dealer
from shared.settings import LinkConfig
from tests.support.sockets import TidyContext, port_of
from tools.service.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments])


def heard(worker: str) -> bool:
    """Whether a gateway with the keys of this folder hears `worker`."""
    keys = Path("keys")
    gateway = LinkConfig(port=0, secret_key_file=keys / "gateway.key_secret", allowed_workers_dir=keys / "workers")
    own = LinkConfig(secret_key_file=keys / f"{worker}.key_secret", server_key_file=keys / "gateway.key")
    with TidyContext.opened() as context:
        guard = authenticator(context, gateway)
        assert guard is not None
        try:
            router = bind_router(context, gateway)
            endpoint = f"tcp://127.0.0.1:{port_of(router)}"
            dealer = connect_dealer(context, endpoint, load_keys(own, need_server=True), "worker")
            dealer.setsockopt(zmq.SNDTIMEO, 5000)
            with suppress(zmq.Again):  # refused before there was anywhere to send to
                dealer.send(b"hello")
            return bool(router.poll(1000))
        finally:
            guard.stop()


def test_the_pairs_that_are_made_let_a_worker_in_until_it_is_revoked() -> None:
    assert run("link", "gateway", "--gateway").exit_code == 0
    assert run("link", "worker-1").exit_code == 0
    assert heard("worker-1")
    assert not heard("gateway")  # the gateway's own pair is not a worker's
    assert run("revoke", "worker-1").exit_code == 0
    assert not heard("worker-1")


def test_nobody_else_reads_a_pair(home: Path) -> None:
    result = run("link", "w")
    assert "link.secret_key_file" in result.output
    for path in (home / "keys").glob("w.*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_list_says_what_is_there(home: Path) -> None:
    assert run("list").output == "no keys in keys/api-keys.json\nno keys of the link in keys/\n"
    run("link", "gateway", "--gateway")
    run("link", "w")
    (home / "keys" / "w.key_secret").chmod(0o644)
    lines = run("list").output.splitlines()
    assert all(
        line.split()[-1] == fingerprint(read_public(home / "keys" / f"{line.split()[0]}.key")) for line in lines[1:]
    )
    assert [line.split()[:-1] for line in lines[1:]] == [
        ["gateway", "secret", "here", "-"],
        ["w", "secret", "here,", "OTHERS", "CAN", "READ", "IT", "may", "join"],
    ]


@pytest.mark.parametrize("name", ["../w", "", ".w", "a/b", "w" * 65])
def test_a_name_is_no_path(home: Path, name: str) -> None:
    for command in ("link", "revoke"):
        result = run(command, name)
        assert result.exit_code == 2
        assert ("a name has letters" if command == "link" else "no key") in result.stderr
    assert list(home.iterdir()) == []


def test_what_cannot_be_is_one_sentence() -> None:
    run("link", "w")
    again = run("link", "w")
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)
    unknown = run("revoke", "nobody")
    assert (unknown.exit_code, "no key 'nobody'" in unknown.stderr) == (2, True)
