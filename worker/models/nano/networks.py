"""The bundled model as every pipeline asks for it; its weights come with the package."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from worker.models.catalogue import FineTuned
from worker.models.nano.content import NanoContent
from worker.models.nano.model import WEIGHTS, load_nano
from worker.models.nano.vocoder import NanoVocoder
from worker.models.networks import ContentFeatures, Networks, Vocoder
from worker.models.published.mel import MelSpectrogram
from worker.models.published.ragged import by_length
from worker.models.published.whisper import SAMPLES_A_FRAME
from worker.models.weights.checkpoints import CheckpointError
from worker.models.weights.published import PublishedNetwork
from worker.pitch import AutocorrelationTracker


class NanoFeatures(ContentFeatures):
    moment = 1  # the loudness

    def __init__(self, encoder: NanoContent) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wave: Tensor, lens: Tensor | None = None) -> Tensor:
        if lens is None:
            out: Tensor = self.encoder(wave)
            return out
        return nn.utils.rnn.pad_sequence(by_length(self.encoder, wave, lens), batch_first=True)

    def frames(self, samples: Tensor) -> Tensor:
        return samples // SAMPLES_A_FRAME


class PulseVocoder(Vocoder):
    noise_rows = 1

    def __init__(self, network: NanoVocoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, mel: Tensor, f0: Tensor | None, noise: Tensor | None, phase: Tensor | None) -> Tensor:
        assert f0 is not None
        assert noise is not None
        out: Tensor = self.network(mel, f0, noise[:, 0])
        return out


class Nano:
    """Implements ``worker.models.catalogue.Model``."""

    name = "nano"
    networks: tuple[PublishedNetwork, ...] = ()

    def load(self, folder: Path, own: FineTuned | None = None) -> Networks:
        if own is not None:
            raise CheckpointError("nano has no published transformer that dit_checkpoint_path could take the place of.")
        return load_bundled()


def model(name: str) -> Nano:
    return Nano()


def load_bundled(path: Path = WEIGHTS) -> Networks:
    """``nano``, whose weights come with the package. Raises ``CheckpointError``."""
    nano = load_nano(path)
    return Networks(
        name="nano",
        content=NanoFeatures(nano.content).eval(),
        style=nano.style,
        mel=MelSpectrogram(nano.mel),
        regulator=nano.regulator,
        dit=nano.decoder,
        vocoder=PulseVocoder(nano.vocoder).eval(),
        tracker=AutocorrelationTracker(),
    )
