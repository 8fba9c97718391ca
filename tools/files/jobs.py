"""Which recordings are converted to which files, and those files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from worker.recordings import Recording, SourceError, Wave

WRITTEN = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}  # suffix -> encoding


@dataclass(frozen=True, slots=True)
class Job:
    recording: Recording
    output: Path


def plan(sources: tuple[Path, ...], reference: Path, output: Path) -> tuple[list[Job], list[SourceError]]:
    """Every recording with the file it becomes, and why others are skipped. Raises ``SourceError`` if the sources, or
    the output beside them, make no sense."""
    files = [file for source in sources for file in (sorted(_sounds(source)) if source.is_dir() else [source])]
    if not files:
        raise SourceError(f"{', '.join(map(str, sources))}: no recordings there")
    targets = _targets(files, reference, output)
    read = {path.resolve() for path in (*files, reference)}
    for target in targets:
        if target.resolve() in read:
            raise SourceError(f"--output {target} is a recording that is read: name another file or folder")
    jobs, skipped = [], []
    for file, target in zip(files, targets, strict=True):
        try:
            jobs.append(Job(Recording(file), target))
        except SourceError as error:
            skipped.append(error)
    return jobs, skipped


def _targets(files: list[Path], reference: Path, output: Path) -> list[Path]:
    suffix = output.suffix.lower()
    if suffix in WRITTEN:
        if len(files) > 1:
            raise SourceError(f"--output {output} is one file, but there are {len(files)} sources: name a folder")
        return [output]
    if suffix in _known_suffixes() and not output.is_dir():
        raise SourceError(f"--output {output}: can be {', '.join(WRITTEN)}, or a folder")
    targets, taken = [], set[str]()
    for file in files:
        name = f"{file.stem}_{reference.stem}"
        number = sum(other == name or other.startswith(f"{name}-") for other in taken)
        unique = name if name not in taken else f"{name}-{number + 1}"
        taken.add(unique)
        targets.append(output / f"{unique}.wav")
    return targets


def _known_suffixes() -> set[str]:
    """Of sound files."""
    formats = {f".{name.lower()}" for name in soundfile.available_formats()}
    return formats | {".oga", ".opus", ".aif", ".aac", ".m4a", ".wma", ".webm"}


def _sounds(folder: Path) -> Iterator[Path]:
    """Of a folder and those within; a name that begins with a dot is another program's note about a file."""
    known = {f".{name.lower()}" for name in soundfile.available_formats()} | {".oga", ".opus", ".aif"}
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in known and not _hidden(path.relative_to(folder))
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class Outputs:
    """Files written one after another; each appears under its name only when it is complete."""

    def __init__(self, paths: list[Path], rate: int) -> None:
        self._paths, self._rate = paths, rate
        self._number = -1
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._named():
            self._finish(complete=kind is None)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What cannot be written is an error that says which file."""
        try:
            yield
        except (OSError, soundfile.LibsndfileError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(": ")
            raise SourceError(f"--output {self._paths[self._number]}: cannot be written ({reason})") from error

    def write(self, number: int, wave: Wave) -> None:
        """More of file ``number``; the one before it is complete. Raises ``SourceError``."""
        with self._named():
            if number != self._number:
                self._finish(complete=True)
                self._number = number
                self._paths[number].parent.mkdir(parents=True, exist_ok=True)
                self._file = soundfile.SoundFile(self._part, "w", self._rate, 1, WRITTEN[self._part.suffix.lower()])
            assert self._file is not None
            self._file.write(np.clip(wave, -1, 1))

    @property
    def _part(self) -> Path:
        path = self._paths[self._number]
        return path.with_name(f".{path.stem}.part{path.suffix}")

    def _finish(self, *, complete: bool) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.close()
            if complete:
                self._part.replace(self._paths[self._number])
        finally:
            self._part.unlink(missing_ok=True)
