"""Which recording a call's voice is made from, where the caller brought one: before, or with the first message."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from loguru import logger

from gateway.errors import bad_field
from gateway.request import SessionRequest
from gateway.voices.clip import ClipError
from gateway.voices.reader import ClipReader
from gateway.voices.store import VoiceStore


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording that goes to the worker with the session."""

    id: str  # the same for the same sound
    flac: bytes


class References:
    """Lives on one event loop; the disk is left to threads."""

    def __init__(self, store: VoiceStore, reader: ClipReader) -> None:
        self._store, self._reader = store, reader

    async def of(self, request: SessionRequest, principal: str) -> Reference | None:
        """None: a voice of the workers' is meant, or none. Raises `SessionError` INVALID_CONFIG."""
        if request.voice_audio is not None:
            if request.voice is not None:
                raise bad_field("voice_audio", "name a voice or send one, not both")
            try:
                clip = await self._reader.read(request.voice_audio)
            except ClipError as error:
                raise bad_field("voice_audio", str(error)) from None
            return Reference(clip.id, clip.flac)
        if request.voice is None:
            return None
        return await asyncio.to_thread(self._stored, request.voice, principal)

    def _stored(self, name: str, principal: str) -> Reference | None:
        try:
            voice = self._store.find(name, principal)
            return None if voice is None else Reference(voice.clip_id, self._store.sound(voice))
        except OSError as error:  # a disk that is gone takes no call with it
            logger.error("the voice {!r} cannot be read: {}", name, error)
            return None
