"""An SDP offer (RFC 8866, RFC 9429) of somebody unknown, looked at before it is acted on."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from gateway.errors import bad_field

MAX_OFFER_BYTES = 64 << 10
MAX_MEDIA, MAX_CANDIDATES = 8, 32
_CANDIDATE = re.compile(r"a=candidate:(?P<words>.*)")
_OPUS = re.compile(r"a=rtpmap:\d+ opus/48000/2", re.IGNORECASE)
_DIRECTION = re.compile(r"a=(sendrecv|sendonly|recvonly|inactive)")


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be answered. `sdp` is without what an answer must not act on."""

    sdp: str
    has_channel: bool  # a data channel, for control messages


def read_offer(body: bytes) -> Offer:
    """The offer of a request's body: Opus both ways, and perhaps a data channel. Raises `SessionError` INVALID_CONFIG.

    Candidates with mDNS names are left out: looking them up takes time, and the caller's own checks arrive anyway. So
    nothing says that these were all candidates.
    """
    try:
        lines = body.decode().splitlines()
    except UnicodeDecodeError:
        raise bad_field("sdp", "is not UTF-8") from None
    if not lines or lines[0].strip() != "v=0":
        raise bad_field("sdp", "must be an SDP offer, which begins with v=0")
    lines = [line.strip() for line in lines if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("m=")]
    media = [lines[start:end] for start, end in itertools.pairwise([*starts, len(lines)])]
    audio = [section for section in media if section[0].startswith("m=audio ")]
    if len(audio) != 1 or len(media) > MAX_MEDIA:
        raise bad_field("sdp", f"must offer one track of sound, got {len(audio)} among {len(media)} of all kinds")
    for_all = lines[: starts[0]]
    if not all(_has("mid", section) for section in media):
        raise bad_field("sdp", "lacks a=mid")
    if not _has("fingerprint", for_all) and not all(_has("fingerprint", section) for section in media):
        raise bad_field("sdp", "lacks a=fingerprint")
    if any(section[0].startswith("m=video ") for section in media):
        raise bad_field("sdp", "offers video, and there is only sound here")
    if not any(_OPUS.fullmatch(line) for line in audio[0]):
        raise bad_field("sdp", "must offer Opus")
    directions = [match[1] for line in audio[0] if (match := _DIRECTION.fullmatch(line))]
    if directions not in ([], ["sendrecv"]):
        raise bad_field("sdp", f"must offer sound both ways (sendrecv), got {directions[0]}")
    if sum(line.startswith("a=candidate:") for line in lines) > MAX_CANDIDATES:
        raise bad_field("sdp", f"must not hold more than {MAX_CANDIDATES} candidates")
    kept = [line for line in lines if line != "a=end-of-candidates" and not _has_mdns_name(line)]
    has_channel = any(section[0].startswith("m=application ") for section in media)
    return Offer("".join(f"{line}\r\n" for line in kept), has_channel)


def _has(name: str, lines: list[str]) -> bool:
    return any(line.startswith(f"a={name}:") for line in lines)


def _has_mdns_name(line: str) -> bool:
    match = _CANDIDATE.fullmatch(line)
    words = match["words"].split() if match else []
    return len(words) > 4 and words[4].lower().endswith(".local")
