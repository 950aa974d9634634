"""What tests of training share."""

import pytest

from zfnet import Profile
from zfnet.store.profiles import DataConfig, ModelConfig, TrainingConfig


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A net of 8 maps a layer on 80 shapes, in a project of its own."""
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return Profile(
        "tiny",
        "Tiny",
        data=DataConfig(count=80, resize=68, size=64, validation=0.2, test=0.2),
        model=ModelConfig(maps=(8,) * 5, fc=(16, 16)),
        training=TrainingConfig(epochs=3, batch_size=16, lr=0.02, schedule="onecycle"),
    )
