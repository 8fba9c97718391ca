"""`fast-vc voices`: the recordings that a worker of this folder offers as voices."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from shared.errors import ConfigError
from shared.options import Group, load_options, profile_options

if TYPE_CHECKING:
    from worker.voices import Voice


@click.group(cls=Group, extra="worker", invoke_without_command=True)
@click.pass_context
def voices(context: click.Context) -> None:
    """Show, add and remove voices. Without a command: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_voices)


@voices.command("list", extra="worker")
@profile_options
def list_voices(file: Path | None = None, profile: str | None = None) -> None:
    """Every voice; the first is the default."""
    config = load_options(file, profile)
    from worker.voices import VoiceError, offered_voices

    try:
        offered = offered_voices(config.worker.voices_dir)
    except VoiceError as error:
        _fail(str(error))
    for voice in offered:
        click.echo(f"{voice.name:<20}{_seconds(voice):>7}  {voice.description}  ({voice.path})")


@voices.command(extra="worker")
@profile_options
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--name", help="The voice's name.  [the file's]")
def add(file: Path | None, profile: str | None, recording: Path, name: str | None) -> None:
    """Offer a RECORDING as a voice, from the workers' next start. What was learnt of an earlier one is deleted."""
    config = load_options(file, profile)
    from worker.voices import OWN, SUFFIXES, Voice, VoiceError, index_files, is_name, load_voice, recordings

    folder = config.worker.voices_dir or OWN
    name = recording.stem if name is None else name
    if not is_name(name):
        _fail(
            f"voice {name!r}: a name has letters, digits, '_', '-', '.' and begins with a letter or digit: use --name"
        )
    if not recording.is_file():
        _fail(f"{recording}: no such file")
    if taken := recordings(folder).get(name):
        _fail(f"voice {name!r} is there already ({taken}): fast-vc voices remove {name}, or use --name")
    try:
        load_voice(Voice(name, name, recording), config.worker.max_prompt_s)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}{recording.suffix.lower() if recording.suffix.lower() in SUFFIXES else '.flac'}"
        for learnt in index_files(folder, name):  # of a bundled voice: it would speak for this one
            learnt.unlink()
            click.echo(f"{learnt}: deleted, it was of the voice that {name} was; `voices index {name}` makes another")
        _store(recording, path)
    except (VoiceError, OSError) as error:
        _fail(str(error))
    click.echo(f"{path}: the voice {name} is offered from the workers' next start")


@voices.command(extra="worker")
@profile_options
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove(file: Path | None, profile: str | None, name: str, yes: bool) -> None:
    """Delete the recording of a voice that was added, and what was learnt from it."""
    config = load_options(file, profile)
    from worker.voices import OWN, index_files, recordings

    folder = config.worker.voices_dir or OWN
    path = recordings(folder).get(name)
    if path is None:
        _fail(f"no voice {name!r} was added to {folder}/; bundled ones stay")
    if not yes:
        click.confirm(f"Delete {path}?", abort=True)
    for learnt in index_files(folder, name):  # it would speak for the next voice of this name
        learnt.unlink()
    path.unlink()
    click.echo(f"{path}: deleted; the voice is offered until the workers' next start")


@voices.command(extra="worker")
@profile_options
@click.argument("name")
@click.argument("recordings", nargs=-1, type=click.Path(path_type=Path))
@click.option("--device", metavar="cpu|cuda:0", help="[worker.device]")
def index(file: Path | None, profile: str | None, name: str, recordings: tuple[Path, ...], device: str | None) -> None:
    """Learn what the voice NAME says in RECORDINGS (without any: in its own), for sessions' `retrieval_rate`."""
    worker = load_options(file, profile).worker
    from worker.engines.diffusion.retrieval import write_index
    from worker.main import check_device
    from worker.models.weights.checkpoints import CheckpointError
    from worker.recordings import SourceError
    from worker.voices import VoiceError

    try:
        check_device(device or worker.device)
        path, count = write_index(worker, name, recordings, device or worker.device)
    except (ConfigError, VoiceError, CheckpointError, SourceError, OSError) as error:
        _fail(str(error))
    click.echo(f"{path}: {count} features ({count / 50:.0f} s) for {worker.model}, from the workers' next start")


def _store(recording: Path, path: Path) -> None:
    """`recording` as `path`: whole or not at all, and as FLAC if workers do not read its format."""
    import soundfile

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.suffix == recording.suffix.lower():
            shutil.copyfile(recording, part)
        else:
            wave, rate = soundfile.read(recording, dtype="float32")
            soundfile.write(part, wave, rate, format="FLAC")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _seconds(voice: Voice) -> str:
    import soundfile

    try:
        return f"{soundfile.info(voice.path).duration:.1f} s"
    except RuntimeError:
        return "?"


def _fail(message: str) -> NoReturn:
    click.echo(f"fast-vc: {message}", err=True)
    sys.exit(1)
