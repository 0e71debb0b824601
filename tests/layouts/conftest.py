import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "denoisers"))  # tiny_sd.py
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one step of configs/sid_sd15.yaml on a tiny pipeline."""
    from command_line import CONFIGS, fastgen
    from tiny_sd import write_tiny_pipeline

    folder = tmp_path_factory.mktemp("text")
    pipeline = write_tiny_pipeline(folder / "pipeline")
    (config,) = [path for path in CONFIGS if path.stem == "sid_sd15"]
    options = {
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "trainer.max_steps": "1",
        "trainer.callbacks": '[{"class_path": "fastgen.callbacks.Checkpoint"}]',
        "trainer.logger.init_args.save_dir": str(folder),
        "trainer.enable_model_summary": "false",
        "model.init_args.teacher.init_args.pretrained": str(pipeline),
        "data.init_args.batch_size": "2",
    }
    assert fastgen("fit", "--config", config, *(f"--{name}={value}" for name, value in options.items())) == 0
    return folder / "sid_sd15" / "version_0" / "checkpoints" / "last.ckpt"
