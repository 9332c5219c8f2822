"""The settings of a run: one frozen tree, checked once and never changed afterwards.

Read from TOML by ``crnn.config_file``. The resolved tree is stored in the run folder and in every weights file. Its
sections are those of a reader (``crnn.reader_config``), of training (``crnn.training.settings``) and of rendered text
(``crnn.synth.settings``).
"""

from __future__ import annotations

from crnn.reader_config import ReaderConfig
from crnn.synth.look_settings import CameraConfig, LookConfig
from crnn.synth.settings import CorpusConfig, FaceConfig, SynthConfig
from crnn.training.settings import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)

__all__ = ["Config"]


class Config(ReaderConfig):
    """All settings of a training run."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    synth: SynthConfig = SynthConfig()
    corpus: CorpusConfig = CorpusConfig()
    faces: FaceConfig = FaceConfig()
    look: LookConfig = LookConfig()
    camera: CameraConfig = CameraConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def reader(self) -> ReaderConfig:
        """The part that a weights file carries."""
        return ReaderConfig(model=self.model, image=self.image, charset=self.charset)
