import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from tiny import TinyData, TinyDistiller, TinySuite, trainer, weights

from fastgen import __version__
from fastgen.callbacks import EMA, Checkpoint, ConstantEMA, Evaluate
from fastgen.errors import UserError
from fastgen.storage.files import load_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    return torch.load(path, weights_only=True)


def test_names_and_keep(tmp_path):
    method = TinyDistiller(critic_every=2)
    trainer(tmp_path, [Checkpoint(every_n_steps=3, keep=2)], max_steps=10).fit(method, TinyData())
    folder = tmp_path / "checkpoints"
    assert names(folder) == ["last.ckpt", "step=000006.ckpt", "step=000009.ckpt", "student.safetensors"]
    assert read(folder / "step=000006.ckpt")["global_step"] == 6
    last = read(folder / "last.ckpt")
    assert (last["global_step"], last["fastgen"]["iteration"]) == (10, 20)
    assert not any(name.startswith("teacher") for name in last["state_dict"])


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step=009000.ckpt").write_text("of an older run")
    with pytest.raises(UserError, match="holds another run"):
        trainer(tmp_path, [Checkpoint(every_n_steps=1, keep=1)], max_steps=3).fit(TinyDistiller(), TinyData())
    assert names(folder) == ["step=009000.ckpt"]


def test_keep_all_and_off(tmp_path):
    trainer(tmp_path / "a", [Checkpoint(every_n_steps=1, keep=None)], max_steps=4).fit(TinyDistiller(), TinyData())
    assert sum(name.startswith("step=") for name in names(tmp_path / "a" / "checkpoints")) == 4
    callback = Checkpoint(every_n_steps=0, save_last=False, dirpath=str(tmp_path / "elsewhere"))
    trainer(tmp_path / "b", [callback], max_steps=4).fit(TinyDistiller(), TinyData())
    assert names(tmp_path / "elsewhere") == ["student.safetensors"]


def test_by_time(tmp_path, clock):
    class Minute(Callback):
        def on_train_batch_start(self, trainer, method, batch, batch_idx):
            clock.now += 60

    callback = Checkpoint(every_n_steps=0, every_minutes=3.5, keep=None)
    trainer(tmp_path, [Minute(), callback], max_steps=10).fit(TinyDistiller(), TinyData())
    steps = [name for name in names(tmp_path / "checkpoints") if name.startswith("step=")]
    assert steps == ["step=000004.ckpt", "step=000008.ckpt"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_best_follows_the_monitor(tmp_path, mode):
    values = {1: 0.5, 2: 0.3, 3: float("nan"), 4: 0.9, 5: 0.4}

    class Suite(TinySuite):
        def compute(self):
            self.step = getattr(self, "step", 0) + 1
            return {"frechet": values[self.step]}

    evaluate = Evaluate(Suite(), count=4, batch_size=4, every_n_steps=1, teacher=False, teacher_once=False)
    checkpoint = Checkpoint(every_n_steps=0, monitor="eval/frechet", mode=mode)
    # The checkpoint callback comes first in the list and must still see what the evaluation found.
    trainer(tmp_path, [checkpoint, evaluate, EMA()], max_steps=5).fit(TinyDistiller(), TinyData())
    best = read(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] == {"min": 2, "max": 4}[mode]
    assert best["callbacks"]["Checkpoint"]["best"] == {"min": 0.3, "max": 0.9}[mode]
    resumed = Checkpoint(monitor="eval/frechet", mode=mode)
    resumed.load_state_dict(best["callbacks"]["Checkpoint"])
    assert resumed.best == {"min": 0.3, "max": 0.9}[mode], "what was best before a resume is beaten or stays"


def test_best_by_validation_loss(tmp_path):
    checkpoint = Checkpoint(every_n_steps=0, monitor="val/student/match")
    loop = trainer(
        tmp_path, [checkpoint], max_steps=6, limit_val_batches=1.0, val_check_interval=2, check_val_every_n_epoch=None
    )
    loop.fit(TinyDistiller(), TinyData())
    best = read(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] in (2, 4, 6)
    assert best["callbacks"]["Checkpoint"]["best"] == pytest.approx(checkpoint.best)


def test_missing_monitor_is_told(tmp_path):
    loop = trainer(tmp_path, [Checkpoint(monitor="eval/fid")], max_steps=2)
    with pytest.warns(UserWarning, match=r"'eval/fid'.*student/match"):
        loop.fit(TinyDistiller(), TinyData())


def test_student_weights_are_those_of_the_average(tmp_path):
    method = TinyDistiller()
    trainer(tmp_path, [Checkpoint(), EMA(rule=ConstantEMA(0.5))], max_steps=3).fit(method, TinyData())
    tensors, metadata = load_tensors(tmp_path / "checkpoints" / "student.safetensors")
    assert metadata == {"fastgen": __version__, "method": "TinyDistiller", "student_updates": "3"}
    assert tensors.keys() == method.student.state_dict().keys()
    assert torch.equal(tensors["layer.weight"], method.averages["ema"].layer.weight)
    assert not torch.equal(tensors["layer.weight"], method.student.layer.weight)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write, calls = torch.save, []

    def half(value, file):
        calls.append(value)
        if len(calls) == 2:
            file.write(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(value, file)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match=r"step=000004.ckpt' does not fit, because the disk is full; free some space"):
        trainer(tmp_path, [Checkpoint(every_n_steps=2)], max_steps=8).fit(TinyDistiller(), TinyData())
    folder = tmp_path / "checkpoints"
    assert names(folder) == ["last.ckpt", "step=000002.ckpt"]
    assert read(folder / "last.ckpt")["global_step"] == 2
    (folder / ".last.ckpt-0123abcd.unfinished.ckpt").write_bytes(b"left by a killed process")
    loop = trainer(tmp_path, [Checkpoint(every_n_steps=2)], max_steps=5)
    loop.fit(TinyDistiller(), TinyData(), ckpt_path=folder / "last.ckpt", weights_only=True)
    assert names(folder) == ["last.ckpt", "step=000002.ckpt", "step=000004.ckpt", "student.safetensors"]


def test_resumed_run_keeps_counting_and_equals_the_straight_one(tmp_path):
    straight = TinyDistiller(critic_every=2)
    trainer(tmp_path / "a", [Checkpoint(every_n_steps=3)], max_steps=9).fit(straight, TinyData())
    first = TinyDistiller(critic_every=2)
    trainer(tmp_path / "b", [Checkpoint(every_n_steps=3, keep=1)], max_steps=4).fit(first, TinyData())
    folder = tmp_path / "b" / "checkpoints"
    for start in ("step=000003.ckpt", "last.ckpt"):
        resumed = TinyDistiller(critic_every=2)
        loop = trainer(tmp_path / start, [Checkpoint(every_n_steps=3)], max_steps=9)
        loop.fit(resumed, TinyData(), ckpt_path=folder / start, weights_only=True)
        one, other = weights(straight), weights(resumed)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert resumed.iteration == 18


def test_bad_arguments():
    with pytest.raises(UserError, match="keep"):
        Checkpoint(keep=0)


PROGRAM = """
import sys, time
import torch
sys.path.insert(0, sys.argv[1])
from lightning.pytorch import Callback
from tiny import TinyData, TinyDistiller, trainer, weights
from fastgen.callbacks import EMA, Checkpoint

class Shout(Callback):
    def on_train_batch_start(self, trainer, method, batch, batch_idx):
        print("in batch", batch_idx, flush=True)

learn = TinyDistiller.student_loss

def slowly(method, part):
    time.sleep(0.05)
    return learn(method, part)

TinyDistiller.student_loss = slowly
torch.set_num_threads(1)
trainer(sys.argv[2], [Shout(), EMA(), Checkpoint(every_n_steps=0)], max_steps=int(sys.argv[3])).fit(
    TinyDistiller(critic_every=2), TinyData(), ckpt_path=sys.argv[4] if len(sys.argv) > 4 else None)
"""


def run_program(folder, steps, *more):
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(folder), str(steps), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_a_finished_batch_and_the_run_continues_exactly(tmp_path, number):
    process = run_program(tmp_path, 10_000)
    for line in process.stdout:
        if line.strip() == "in batch 7":  # batch 7 trains the student: the signal falls into its 50 ms
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert f"--ckpt_path {last}" in errors
    checkpoint = read(last)
    assert checkpoint["global_step"] == checkpoint["fastgen"]["iteration"] // 2 >= 4
    assert names(last.parent) == ["last.ckpt"]

    steps = checkpoint["global_step"] + 3
    straight, resumed = TinyDistiller(critic_every=2), TinyDistiller(critic_every=2)
    trainer(tmp_path / "a", [EMA()], max_steps=steps).fit(straight, TinyData())
    loop = trainer(tmp_path / "b", [EMA(), Checkpoint()], max_steps=steps)
    loop.fit(resumed, TinyData(), ckpt_path=last, weights_only=True)
    one, other = weights(straight), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer(tmp_path, [Checkpoint()], max_steps=2).fit(TinyDistiller(), TinyData())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_state_is_plain(tmp_path):
    trainer(tmp_path, [EMA(), Checkpoint(every_n_steps=1)], max_steps=2).fit(TinyDistiller(), TinyData())
    state = read(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]
    assert json.loads(json.dumps(state)) == {
        "EMA[ema]": {"samples_seen": 16},
        "Checkpoint": {"best": None, "kept": ["step=000001.ckpt", "step=000002.ckpt"]},
    }
