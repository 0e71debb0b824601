"""The learning curves on the miniature: which runs there are, that they go on, and their pages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import miniatures
from benchmarks.miniatures import GUIDANCES, READING, RUNS, config_of, fingerprint, main


def written(folder: Path, version: int, updates: list[int], roles: tuple[str, ...]) -> None:
    """What a run leaves behind."""
    run = folder / f"version_{version}"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / "last.ckpt").touch()
    values = {"frechet": 3.0, "retrieval": 0.9, "unsaid_diversity": 0.5, "count": 8}
    rows = [
        {"role": role, "nfe": 25 if role == "teacher" else 1, "student_updates": n, "training_seconds": n / 2 or None}
        | {"values": values | {"frechet": 3.0 + 100 / (n + 1)}}
        for n in updates
        for role in roles
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_the_runs_change() -> None:
    full, adapters = (config_of(name, 100, 60, Path("w"))["model"]["init_args"] for name in ("full", "adapters"))
    assert "student" not in full and full["sampler"]["init_args"]["times"] == [625.0]
    assert adapters["student"]["class_path"] == adapters["critic"]["class_path"] == "LoRA"
    assert adapters["student_optimizer"]["init_args"]["lr"] == 5 * full["student_optimizer"]["init_args"]["lr"]
    for scale in GUIDANCES:
        model = config_of(f"guidance {scale}", 100, 60, Path("w"))["model"]["init_args"]
        assert model["guidance"]["teacher"] == model["solver"]["init_args"]["guidance"] == scale
        assert model["sampler"]["init_args"]["times"] == [625.0]
    trainer = config_of("full", 100, 60, Path("w"))["trainer"]
    evaluate = next(c["init_args"] for c in trainer["callbacks"] if c["class_path"] == "Evaluate")
    assert trainer["max_steps"] == 100 and evaluate["count"] == 60 and evaluate["roles"] == ["average", "student"]
    prints = {fingerprint(config_of(name, 100, 60, Path("w"))) for name in RUNS}
    assert len(prints) == len(RUNS) and fingerprint(config_of("full", 100, 60, Path("other"))) in prints


def test_a_run_goes_on_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(words: list[str], **options: Any) -> None:
        calls.append(words)
        folder = Path(words[words.index("--config") + 1]).parent
        written(folder, len(calls) - 1, [25, 50], ("average", "student"))
        if len(calls) == 1:
            written(folder, 0, [0], ("real", "teacher"))
            raise subprocess.CalledProcessError(3, words)

    monkeypatch.setattr(miniatures.subprocess, "run", run)
    words = ["--run", "full", f"--out={tmp_path / 'out'}", f"--work={tmp_path / 'work'}", "--updates=50"]
    assert main(words) == 3 and not (tmp_path / "out").exists(), "a run that was stopped gives no row"
    assert main(words) == 0 and "--ckpt_path" not in calls[0]
    assert calls[1][calls[1].index("--ckpt_path") + 1].endswith("work/full/version_0/checkpoints/last.ckpt")
    rows = json.loads((tmp_path / "out" / "miniatures.json").read_text())["runs"]["full"]["rows"]
    assert [(row["role"], row["updates"]) for row in rows] == [
        ("real", 0), ("teacher", 0), ("average", 25), ("student", 25), ("average", 50), ("student", 50)
    ]  # fmt: skip
    page = tmp_path / "out" / "miniatures.md"
    assert "| full | teacher, 25 calls | | 103 |" in page.read_text() and (tmp_path / "out/miniatures.png").exists()
    page.write_text(page.read_text().replace(f"{READING}\n", f"{READING}\nAll weights win.\n", 1))
    (tmp_path / "out" / "miniatures.json").unlink()
    assert main(words) == 0 and len(calls) == 2 and "All weights win." in page.read_text()
    assert main([*words, "--count=60"]) == 2, "its folder is that of another run"


def test_guidance_has_a_row_for_teacher_and_student(tmp_path: Path) -> None:
    written(tmp_path, 0, [0], ("teacher",))
    written(tmp_path, 1, [25], ("average",))
    runs = {"guidance 2": {"rows": miniatures.rows_of(tmp_path)}}
    miniatures.write_pages(runs, tmp_path / "out")
    page = (tmp_path / "out" / "miniatures.md").read_text()
    assert "| 2 | teacher, 25 calls | 103 | 0.9 |" in page
    assert "| 2 | average of the student after 25 updates, 1 calls | 6.85 |" in page
