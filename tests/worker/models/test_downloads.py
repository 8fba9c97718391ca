"""Downloads from a server that speaks the hub's HTTP: whole, broken off and resumed, from a mirror, by the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from huggingface_hub import constants, file_download

from tests.support.forked import run
from tests.support.hub import Hub, serving
from tools.service.cli import main
from worker.models.catalogue import model_named
from worker.models.published.hift import HIFT
from worker.models.published.rmvpe import RMVPE
from worker.models.weights import hub
from worker.models.weights.checkpoints import CheckpointError

WEIGHTS = np.random.default_rng(0).bytes(300_000)
RMVPE_FILE = "lj1995/VoiceConversionWebUI/rmvpe.pt"
TINY = model_named("tiny").networks


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({RMVPE_FILE: WEIGHTS})) as made:
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", made.url)  # as HF_ENDPOINT does before the library is imported
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between two tries
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB, of which less than one would be lost
        yield made


def test_a_file_is_downloaded_once(server: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        [state] = hub.fetch([RMVPE], tmp_path)
        assert state.path is not None
        assert state.path.read_bytes() == WEIGHTS
        assert (state.file, state.licence) == ("rmvpe.pt", "MIT")
    assert server.ranges(RMVPE_FILE) == [None]


def test_a_transfer_that_breaks_off_goes_on_where_it_broke(server: Hub, tmp_path: Path) -> None:
    server.breaks, server.breaks_at = 2, 100_000
    [state] = hub.fetch([RMVPE], tmp_path)
    assert state.path is not None
    assert state.path.read_bytes() == WEIGHTS
    assert server.ranges(RMVPE_FILE) == [None, "bytes=100000-", "bytes=100000-"]


def test_a_transfer_that_always_breaks_off_is_one_sentence_and_leaves_nothing(server: Hub, tmp_path: Path) -> None:
    server.breaks, server.breaks_at = 100, 100_000
    with pytest.raises(CheckpointError, match=r"rmvpe\.pt could not be downloaded|cannot be reached"):
        hub.fetch([RMVPE], tmp_path)
    assert hub.files([RMVPE], tmp_path)[0].path is None  # nothing half is ever taken for whole
    server.breaks = 0
    [state] = hub.fetch([RMVPE], tmp_path)
    assert state.path is not None
    assert state.path.read_bytes() == WEIGHTS


def test_a_file_that_has_moved_is_taken_from_its_mirror(server: Hub, tmp_path: Path) -> None:
    server.files["model-scope/CosyVoice-300M/hift.pt"] = WEIGHTS
    [state] = hub.fetch([HIFT], tmp_path)
    assert state.path is not None
    assert state.path.read_bytes() == WEIGHTS


def test_a_file_that_nobody_has_any_more_is_one_sentence(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"hift\.pt is no longer published there: put a copy at"):
        hub.fetch([HIFT], tmp_path)


def test_the_command_names_licences_and_asks_once(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVC_WORKER__CHECKPOINTS_DIR", str(tmp_path))
    server.files |= {f"{one.layout.repository}/{file}": WEIGHTS for one in TINY for file in one.layout.files}
    refused = CliRunner().invoke(main, ["models", "fetch", "tiny"], input="n\n")
    assert refused.exit_code == 1
    assert refused.output.count("[y/N]") == 1
    assert "GPL-3.0" in refused.output
    assert server.asked == []
    accepted = CliRunner().invoke(main, ["models", "fetch", "tiny"], input="y\n")
    assert accepted.exit_code == 0
    assert "tiny: 4 files, 1 MB" in accepted.output
    again = CliRunner().invoke(main, ["models", "fetch", "tiny"])  # nothing is missing: nothing to ask
    assert again.exit_code == 0
    assert "[y/N]" not in again.output


def _fetch() -> None:
    """``fast-vc models fetch`` in a process that has not yet imported the library, nor what does."""
    for name in [name for name in sys.modules if name.startswith(("huggingface_hub", "tools", "worker"))]:
        del sys.modules[name]
    import_module("tools.service.cli").main(["models", "fetch", "tiny", "--yes"])


def test_a_mirror_is_taken_from_the_environment(tmp_path: Path) -> None:
    """By a process of its own: ``HF_ENDPOINT`` is read when the library is imported."""
    files = {f"{one.layout.repository}/{file}": WEIGHTS for one in TINY for file in one.layout.files}
    with serving(Hub(files)) as mirror:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": mirror.url, "FASTVC_WORKER__CHECKPOINTS_DIR": str(tmp_path)}
        ended = run(_fetch, environ=environment)
    assert ended.returncode == 0, ended.stderr
    assert "tiny: 4 files, 1 MB" in ended.stdout
    assert "[y/N]" not in ended.stdout
