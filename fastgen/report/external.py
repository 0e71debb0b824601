"""Result files of judges that live in environments of their own.

GenEval, DPG-Bench, VBench, HPSv3 and VQAScore bring detectors and vision-language models that cannot be installed
beside this package. ``fastgen sample --layout`` writes what their scripts read; here their results come back, in the
formats that their scripts write (read there, that of HPSv3 in a copy); VQAScore returns a tensor that the user saves.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastgen.errors import Malformed, UserError
from fastgen.refusals import reading
from fastgen.storage.documents import lines_of, parse_json, read_text
from fastgen.storage.files import load_torch

PERCENT = 100.0
"""The largest score of judges that count in percent or in shares."""
MOST = 1e30
"""No score is larger; JSON has whole numbers that no float holds."""


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean of finite numbers.

    Raises:
        Malformed: If there are none.
    """
    numbers = list(values)
    if not numbers:
        raise Malformed("it holds no score")
    return math.fsum(numbers) / len(numbers)


def score(value: Any, place: str, largest: float = math.inf) -> float:
    """A number as a float.

    Args:
        value: As read.
        place: What it is, for the message.
        largest: Scores of a scale go from 0 to this; without it any number may be one.

    Raises:
        Malformed: If it is none, or outside of its scale.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Malformed(f"{place} is no number")
    if abs(value) > MOST or math.isnan(value):
        raise Malformed(f"{place} is not finite")
    if math.isfinite(largest) and not 0.0 <= value <= largest:
        raise Malformed(f"{place} is {value:g}, not between 0 and {largest:g}")
    return float(value)


def slug(name: str) -> str:
    """``Single Object`` as ``single_object``."""
    return "_".join(name.lower().replace("-", " ").replace("/", " ").split())


def json_in(path: Path) -> Any:
    """JSON, or lines of JSON as a list.

    Raises:
        UserError: If the file cannot be read.
        Malformed: If it is neither.
    """
    text = read_text(path)
    lines = lines_of(text)
    if not lines:
        raise Malformed("it is empty")
    try:
        return parse_json(text)
    except Malformed:
        if len(lines) == 1 or not all(line.startswith("{") and line.endswith("}") for _, line in lines):
            raise  # one value, maybe over several lines, not one per line
    values = []
    for number, line in lines:
        try:
            values.append(parse_json(line))
        except Malformed as error:
            raise Malformed(f"line {number} {str(error).removeprefix('it ')}") from error
    return values


def geneval(path: Path) -> tuple[dict[str, float], int]:
    """``results.jsonl`` of ``evaluation/evaluate_images.py`` (djghosh13/geneval): one object per image.

    ``geneval`` is the mean over tasks of the share of correct images, as ``summary_scores.py`` prints it;
    ``geneval_<task>`` is each task's share, ``geneval_images`` and ``geneval_prompts`` are the shares of correct images
    and of prompts with at least one.
    """
    lines = json_in(path)
    tasks: dict[str, list[float]] = defaultdict(list)
    prompts: dict[str, bool] = {}
    for number, line in enumerate(lines if isinstance(lines, list) else [lines], start=1):
        if (
            not isinstance(line, dict)
            or not isinstance(line.get("tag"), str)
            or not isinstance(line.get("correct"), bool)
        ):
            raise Malformed(f"record {number} lacks 'tag' or 'correct'")
        tasks[str(line["tag"])].append(float(line["correct"]))
        prompt = str(line.get("metadata", line.get("prompt", number)))
        prompts[prompt] = prompts.get(prompt, False) or line["correct"]
    values = {f"geneval_{slug(tag)}": mean(correct) for tag, correct in tasks.items()}
    images = [correct for task in tasks.values() for correct in task]
    return {
        "geneval": mean(values.values()),
        **values,
        "geneval_images": mean(images),
        "geneval_prompts": mean(map(float, prompts.values())),
    }, len(images)


def dpg(path: Path) -> tuple[dict[str, float], int]:
    """``*_results.txt`` of ``dpg_bench/compute_dpg_bench.py`` (TencentQQGYLab/ELLA).

    Lines ``<file>, <score of each picture>, <mean>`` and a summary. ``dpg`` is the mean over prompts in percent (the
    ``DPG-Bench score``), ``dpg_<category>`` the L1 categories in percent.
    """
    scores: list[float] = []
    pictures = 0
    values: dict[str, float] = {}
    section = ""
    for _, line in lines_of(read_text(path)):
        head, _, tail = line.partition(":")
        if head in ("L1 category scores", "L2 category scores"):
            section = head[:2]
        elif head == "DPG-Bench score":
            values["dpg"] = number_of(tail, "the DPG-Bench score")
        elif head in ("Model", "Image path", "Save results to"):
            section = ""
        elif section == "L1" and tail:
            values[f"dpg_{slug(head)}"] = number_of(tail, f"the score of '{head}'")
        elif not section and line.count(", ") >= 2:
            pieces = line.split(", ")
            scores.append(number_of(pieces[-1], f"the mean of '{Path(pieces[0]).name}'"))
            pictures += len(pieces) - 2
    if "dpg" not in values:
        values = {"dpg": 100.0 * mean(scores), **values}
    mean(values.values())
    return {"dpg": values.pop("dpg"), **values}, pictures


def number_of(text: str, place: str) -> float:
    """A score from 0 to 100 written in a text file.

    Raises:
        Malformed: If it is none.
    """
    try:
        return score(float(text), place, PERCENT)
    except Malformed:  # which is a ValueError
        raise
    except ValueError as error:
        raise Malformed(f"{place} is no number") from error


def vbench(path: Path) -> tuple[dict[str, float], int]:
    """``*_eval_results.json`` of VBench (Vchitect/VBench): ``{dimension: [score, [one object per video]]}``.

    Gives ``vbench_<dimension>``. The weighted totals are VBench's own ``scripts/cal_final_score.py``.
    """
    found = json_in(path)
    if not isinstance(found, dict) or not found:
        raise Malformed("it is no object of dimensions")
    values: dict[str, float] = {}
    count = 0
    for name, result in found.items():
        if not isinstance(result, list) or not result:
            raise Malformed(f"'{name}' is no list that begins with a score")
        values[f"vbench_{slug(name)}"] = score(result[0], f"the score of '{name}'", PERCENT)
        if len(result) > 1 and isinstance(result[1], list):
            count = max(count, len(result[1]))
    mean(values.values())
    return values, count


def hpsv3(path: Path) -> tuple[dict[str, float], int]:
    """``--output_path`` of HPSv3's ``evaluate/benchmark.py`` (MizzenAI/HPSv3): ``{"statistics": ..., "data": {folder:
    [{"image_path", "reward", "prompt"}]}}``, or only ``data`` from one of several machines.

    ``hpsv3`` is the mean over folders of the mean reward (its ``OVERALL``); of several folders each one's mean is
    given too. What ``HPSv3RewardInferencer.reward`` returned, (mean, deviation) of each image, is read from lists.
    """
    found = json_in(path)
    folders = found.get("data", found) if isinstance(found, dict) else {"": found}
    if not isinstance(folders, dict) or not all(isinstance(rewards, list) for rewards in folders.values()):
        raise Malformed("it is neither a table of folders nor a list of rewards")
    rewards = {folder: [reward(entry) for entry in entries] for folder, entries in folders.items()}
    means = {folder: mean(numbers) for folder, numbers in rewards.items()}
    values = {f"hpsv3_{slug(Path(folder).name)}": value for folder, value in means.items()} if len(means) > 1 else {}
    return {"hpsv3": mean(means.values()), **values}, sum(map(len, rewards.values()))


def reward(entry: Any) -> float:
    """The reward of one image: a number, the first of a list, or under ``reward``.

    Raises:
        Malformed: If it is something else.
    """
    if isinstance(entry, dict):
        entry = entry.get("reward")
    return score(entry[0] if isinstance(entry, list) and entry else entry, "a reward")


def flat(value: Any) -> list[float]:
    """The probabilities in nested lists."""
    if isinstance(value, list):
        return [number for part in value for number in flat(part)]
    return [score(value, "a score", 1.0)]


def vqascore(path: Path) -> tuple[dict[str, float], int]:
    """What ``VQAScore.batch_forward`` returned (linzhiqiu/t2v_metrics): a tensor (prompts, images, 1).

    Saved by ``torch.save`` (``.pt``, as ``genai_bench/evaluate.py`` does) or as nested lists in JSON.
    """
    if path.suffix in (".pt", ".pth"):
        import torch

        try:
            tensor = load_torch(path)
        except UserError as error:
            raise Malformed("it is no tensor saved by torch.save") from error
        if not isinstance(tensor, torch.Tensor):
            raise Malformed("it holds no tensor")
        if tensor.is_complex() or tensor.is_sparse or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise Malformed("its tensor is no plain one of real numbers")
        numbers = flat(tensor.double().tolist())
    else:
        found = json_in(path)
        if not isinstance(found, list):
            raise Malformed("it is no list of scores")
        numbers = flat(found)
    return {"vqascore": mean(numbers)}, len(numbers)


JUDGES: dict[str, Callable[[Path], tuple[dict[str, float], int]]] = {
    "geneval": geneval,
    "dpg": dpg,
    "vbench": vbench,
    "hpsv3": hpsv3,
    "vqascore": vqascore,
}
"""Readers by the name of the judge; each returns numbers by metric and the number of images (0 if not told)."""


def read_scores(judge: str, path: str) -> tuple[dict[str, float], int]:
    """The numbers in a judge's result file, and how many images it judged (0 if it does not say).

    Raises:
        UserError: If the file is missing or is no such result file.
    """
    if judge not in JUDGES:
        raise UserError(f"'{judge}' is no judge whose results fastgen reads; choose one of: {', '.join(JUDGES)}.")
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise UserError(f"'{path}' does not exist or is no file; give the result file of {judge}.")
    with reading(path), file.open("rb"):
        pass
    try:
        return JUDGES[judge](file)
    except Malformed as error:
        raise UserError(f"'{path}' is no result file of {judge}: {error}; run its script again.") from error
