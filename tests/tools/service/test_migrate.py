"""``fast-vc migrate``: a fast-vc-service file becomes ours, and what cannot is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import yaml
from click.testing import CliRunner, Result

from shared.config import ROOT, load
from tools.service.cli import main
from tools.service.migrate import MOVED, NO_COUNTERPART, RECORDINGS, translate

OLD = """
app: {host: "0.0.0.0", port: 8042, workers: 3, receive_timeout: 120, log_dir: old-logs}
buffer: {prefill_time: 375, opus_frame_duration: 20}
realtime_vc:
  device: ["cuda:0", "cuda:1", "cuda:0"]
  is_debug: True
  reference_wav_path: "resources/refs/ref-24k.wav"
  save_input: True
  SAMPLERATE_OUT: 22050
  extra_time_ce: 4.5
  extra_time_dit: 1.5
  sola_buffer_time: 0.04
  block_time: 0.5
  extra_time_right: 0.03
  diffusion_steps: 5
  inference_cfg_rate: 0.7
  max_prompt_length: 5.0
  rms_mix_rate: 0.9
  of_my_own: 3
models:
  is_retrieval: False
  t_span_schedule: "linear"
  dit_checkpoint_path: checkpoints/mine.pth
  dit_config_path: null
  defalut_original_model: "small"
"""


def run(folder: Path, text: str) -> Result:
    path = folder / "prod.yaml"
    path.write_text(text)
    return CliRunner().invoke(main, ["migrate", str(path)])


def test_what_is_printed_is_a_configuration_with_the_old_values(tmp_path: Path) -> None:
    result = run(tmp_path, OLD)
    assert result.exit_code == 0, result.stderr
    (tmp_path / "ours.yaml").write_text(result.output)
    config = load(tmp_path / "ours.yaml", environ={})
    gateway, worker = config.gateway, config.worker
    assert (gateway.host, gateway.port, gateway.idle_timeout_s, gateway.prefill_ms) == ("0.0.0.0", 8042, 120, 375)
    assert (config.serve.workers, config.log.level, config.log.dir) == (3, "DEBUG", Path("old-logs"))
    assert (worker.model, worker.device, worker.schedule) == ("small", "cuda:0", "linear")
    assert (worker.left_ms, worker.dit_left_ms, worker.crossfade_ms, worker.block_ms) == (4500, 1500, 40, 500)
    assert (worker.steps, worker.guidance, worker.max_prompt_s, worker.rms_mix_rate) == (5, 0.7, 5.0, 0.9)
    assert worker.dit_checkpoint_path == Path("checkpoints/mine.pth")
    assert (config.recording.enabled, config.recording.dir) == (True, Path("outputs"))


def test_what_has_no_counterpart_or_changed_is_named(tmp_path: Path) -> None:
    notes = [line for line in run(tmp_path, OLD).output.splitlines() if line.startswith("# ")][1:]
    for said in (
        "auth.api_keys: any key that was not empty was accepted",
        "buffer.opus_frame_duration = 20: no counterpart",
        "realtime_vc.reference_wav_path = 'resources/refs/ref-24k.wav': no counterpart: voices are files",
        "recording: both sides of every call are kept",
        "realtime_vc.SAMPLERATE_OUT = 22050: no counterpart",
        "realtime_vc.of_my_own = 3: not a key of fast-vc-service",
        "realtime_vc.extra_time_right = 0.03: rounded to 40 ms",
        "start beside it: fast-vc worker --device cuda:1, fast-vc worker --device cuda:0",
        "app.workers: 3 are 3 copies of the model on one device",
        "models.is_retrieval = False: no counterpart: faiss files are not read; fast-vc voices index",
    ):
        assert any(said in note for note in notes), said
    assert not any("block_time" in note or "port" in note for note in notes)


def test_an_old_default_is_carried_over(tmp_path: Path) -> None:
    """The old service without a key did something, and goes on doing it."""
    (tmp_path / "ours.yaml").write_text(run(tmp_path, "app: {port: 9000}").output)
    config = load(tmp_path / "ours.yaml", environ={})
    assert (config.worker.model, config.worker.steps, config.worker.block_ms) == ("tiny", 10, 500)
    assert (config.gateway.idle_timeout_s, config.serve.workers) == (480, 2)
    assert not config.recording.enabled  # nobody's voice is kept unless a file says so


def test_every_key_is_known_once() -> None:
    assert not set(MOVED) & set(NO_COUNTERPART) | set(RECORDINGS) & {*MOVED, *NO_COUNTERPART}
    assert len({moved.to for moved in MOVED.values()}) == len(MOVED)
    everything: dict[str, dict[str, object]] = {}
    for key in (*MOVED, *NO_COUNTERPART, *RECORDINGS):
        section, _, name = key.partition(".")
        everything.setdefault(section, {})[name] = MOVED[key].default if key in MOVED else 1
    assert not [note for note in translate(everything, "all.yaml").notes if "not a key of" in note]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("realtime_vc: {block_time: half}", "realtime_vc.block_time: 'half' cannot be understood"),
        ("app: {workers: two}", "app.workers: 'two' cannot be understood"),
        ("realtime_vc: {device: []}", "realtime_vc.device: [] cannot be understood"),
        ("models: {defalut_original_model: huge}", "worker.model"),
        ("a: b: c", "not YAML"),
        ("[1]", "mapping of sections"),
    ],
)
def test_what_cannot_be_understood_is_one_message(tmp_path: Path, text: str, said: str) -> None:
    result = run(tmp_path, text)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_an_empty_file_is_the_old_service_s_defaults(tmp_path: Path) -> None:
    assert yaml.safe_load(run(tmp_path, "").output)["worker"]["model"] == "tiny"
    missing = CliRunner().invoke(main, ["migrate", str(tmp_path / "none.yaml")])
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)


def test_the_guide_names_every_old_key() -> None:
    guide = (ROOT / "docs" / "migration.md").read_text()
    assert not [key for key in (*MOVED, *NO_COUNTERPART, *RECORDINGS) if key.partition(".")[2] not in guide]


def test_the_guide_s_first_steps_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for downloads, and what then serves."""
    guide = (ROOT / "docs" / "migration.md").read_text().split("```")[1]
    steps = [line.partition("  #")[0].split()[1:] for line in guide.splitlines() if line.startswith("fast-vc")]
    assert [step[0] for step in steps] == ["migrate", "models", "keys", "config", "voices", "serve"]
    monkeypatch.chdir(tmp_path)
    Path("old/configs").mkdir(parents=True)
    Path("old/configs/prod.yaml").write_text(OLD)
    Path("resources/refs").mkdir(parents=True)
    wave, rate = soundfile.read(ROOT / "tests" / "data" / "male_english.flac")
    soundfile.write("resources/refs/ref-24k.wav", wave, rate)
    for step in steps:
        if step[0] in ("models", "serve"):
            continue
        command, _, target = " ".join(step).partition(" > ")
        result = CliRunner().invoke(main, command.split())
        assert result.exit_code == 0, (command, result.output)
        if target:
            Path(target).write_text(result.stdout)
    assert Path("voices/ref-24k.wav").is_file()
