"""TODO"""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf
from conftest import SR, drone

from neural_grain.app.worker import Worker


@pytest.mark.parametrize("is_left", [False, True])
def test_a_measurement_is_given_up_when_its_position_is_left(project, tmp_path, is_left):
    path = tmp_path / "long.wav"
    sf.write(path, np.tile(drone(-40), 30), SR, "PCM_16")
    worker = Worker(project.model, "cpu")

    def content_of(kind: str):
        while (message := worker.messages.get(timeout=60)).kind != kind:
            assert message.kind in ("model", "progress", "looked"), message
        return message.content

    try:
        worker.open(path)
        worker.render(content_of("opened"), 1.0)
        if is_left:
            worker.forget()
        assert (content_of("rendered") is None) == is_left
    finally:
        worker.close()
