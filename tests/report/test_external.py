import json

import pytest
import torch
from command_line import fastgen
from folders import run_folder

from fastgen.errors import UserError
from fastgen.report.external import JUDGES, read_scores
from fastgen.report.run import read_run
from fastgen.report.summary import finals


def geneval_line(tag: str, prompt: str, correct: bool) -> str:
    metadata = json.dumps({"tag": tag, "prompt": prompt})
    line = {"filename": "x.png", "tag": tag, "prompt": prompt, "correct": correct, "reason": "", "metadata": metadata}
    return json.dumps(line | {"details": "{}"}) + "\n"


def test_geneval_averages_over_tasks(tmp_path):
    file = tmp_path / "results.jsonl"
    one = [geneval_line("single_object", "a bench", correct) for correct in (True, True, True, False)]
    two = [geneval_line("counting", prompt, correct) for prompt, correct in (("two cows", False), ("three", True))]
    file.write_text("".join([*one, *two]))
    values, count = read_scores("geneval", str(file))
    assert count == 6
    assert values == {
        "geneval": 0.625,  # mean of 3/4 and 1/2
        "geneval_single_object": 0.75,
        "geneval_counting": 0.5,
        "geneval_images": pytest.approx(4 / 6),
        "geneval_prompts": pytest.approx(2 / 3),
    }


def test_dpg_reads_lines_and_summary(tmp_path):
    file = tmp_path / "dpg-bench_results.txt"
    lines = "images/0.png, 1.0, 0.5, 0.5, 1.0, 0.75\nimages/with, comma.png, 0.0, 0.0, 0.5, 0.5, 0.25\n"
    file.write_text(lines)
    assert read_scores("dpg", str(file))[0] == {"dpg": 50.0}
    summary = (
        "Model: images\nL1 category scores:\n\tentity: 83.5\n\tother: 60\nL2 category scores:\n\tentity - whole: 90\n"
        "Image path: images\nSave results to: x.txt\nDPG-Bench score: 50.25\n"
    )
    file.write_text(lines + summary)
    assert read_scores("dpg", str(file)) == ({"dpg": 50.25, "dpg_entity": 83.5, "dpg_other": 60.0}, 9)


def test_vbench_dimensions(tmp_path):
    file = tmp_path / "x_eval_results.json"
    videos = [{"video_path": "a-0.png", "video_results": 0.5}, {"video_path": "a-1.png", "video_results": 0.7}]
    file.write_text(json.dumps({"aesthetic_quality": [0.6, videos], "color": [0.25, videos[:1]]}))
    assert read_scores("vbench", str(file)) == ({"vbench_aesthetic_quality": 0.6, "vbench_color": 0.25}, 2)


def hpsv3_file(**folders: list[float]) -> dict[str, object]:
    """As ``calculate_category_stats`` and ``main`` of ``evaluate/benchmark.py`` write it."""
    data = {
        f"out/{name}": [{"image_path": f"{k}.png", "reward": reward, "prompt": "a"} for k, reward in enumerate(rewards)]
        for name, rewards in folders.items()
    }
    means = [sum(rewards) / len(rewards) for rewards in folders.values()]
    statistics = {name: {"count": len(data[name]), "mean": mean} for name, mean in zip(data, means, strict=True)}
    overall = {"count": sum(map(len, data.values())), "mean": sum(means) / len(means), "std": 0.1, "min": 0, "max": 9}
    return {"statistics": statistics | {"OVERALL": overall}, "data": data}


@pytest.mark.parametrize(
    ("content", "values", "count"),
    [
        (hpsv3_file(samples=[4.0, 8.0]), {"hpsv3": 6.0}, 2),
        (hpsv3_file(anime=[4.0], photo=[6.0, 8.0]), {"hpsv3": 5.5, "hpsv3_anime": 4.0, "hpsv3_photo": 7.0}, 3),
        (hpsv3_file(samples=[4.0, 8.0])["data"], {"hpsv3": 6.0}, 2),  # one of several machines
        ([1.0, 3.0], {"hpsv3": 2.0}, 2),
        ([[1.0, 50.0], [3.0, 70.0]], {"hpsv3": 2.0}, 2),  # mean and deviation of each image
    ],
)
def test_hpsv3_means(tmp_path, content, values, count):
    file = tmp_path / "hpsv3.json"
    file.write_text(json.dumps(content))
    assert read_scores("hpsv3", str(file)) == (values, count)


def test_vqascore_tensors_and_lists(tmp_path):
    scores = torch.tensor([[[0.5], [0.75]], [[0.25], [0.5]]])
    torch.save(scores, tmp_path / "scores.pt")
    (tmp_path / "scores.json").write_text(json.dumps(scores.tolist()))
    for name in ("scores.pt", "scores.json"):
        assert read_scores("vqascore", str(tmp_path / name)) == ({"vqascore": 0.5}, 4)


BAD = [
    ("geneval", "", "it is empty"),
    ("geneval", "not json\n", "it is not JSON, as seen at column 1"),
    ("geneval", '{"tag": "color", "correct": 1}\n', "record 1 lacks 'tag' or 'correct'"),
    ("dpg", "nothing here\n", "it holds no score"),
    ("dpg", "a.png, 1.0, yes\n", "the mean of 'a.png' is no number"),
    ("vbench", "[1]", "it is no object of dimensions"),
    ("vbench", '{"color": ["high"]}', "the score of 'color' is no number"),
    ("hpsv3", '[{"prompt": "x"}]', "a reward is no number"),
    ("hpsv3", '{"statistics": {}, "data": 3}', "neither a table of folders nor a list"),
    ("hpsv3", '{"data": {"a": []}}', "it holds no score"),
    ("hpsv3", "[NaN]", "a reward is not finite"),
    ("vqascore", "[]", "it holds no score"),
    ("vqascore", "5", "it is no list of scores"),
    ("vqascore", "[1" + "0" * 400 + "]", "a score is not finite"),
    ("vqascore", "[1.5]", "a score is 1.5, not between 0 and 1"),
    ("vqascore", "[true]", "a score is no number"),
    ("vqascore", "[" * 5000, "nested more than 64 levels deep"),
    ("vqascore", "[" * 80 + "1" + "]" * 80, "nested more than 64 levels deep"),
    ("vqascore", "[1" + "0" * 5000 + "]", "a number of thousands of digits"),
    ("dpg", "DPG-Bench score: 250\n", "the DPG-Bench score is 250, not between 0 and 100"),
    ("vbench", '{"color": [-0.5]}', "the score of 'color' is -0.5, not between 0 and 100"),
    ("geneval", '{"tag": "color", "tag": "x", "correct": true}\n', "it has 'tag' twice in one object"),
    ("geneval", '{"tag": ["color"], "correct": true}\n', "record 1 lacks 'tag' or 'correct'"),
    ("hpsv3", '{"data": {"\\ud800": [1]}}', "half of a character"),
]


@pytest.mark.parametrize(("judge", "content", "reason"), BAD)
def test_malformed_files_are_one_sentence(tmp_path, judge, content, reason):
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        read_scores(judge, str(file))
    assert reason in str(caught.value) and f"no result file of {judge}" in str(caught.value)


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match="choose one of: geneval, dpg, vbench, hpsv3, vqascore"):
        read_scores("fid", "x")
    with pytest.raises(UserError, match="does not exist"):
        read_scores("dpg", str(tmp_path / "x"))
    (tmp_path / "scores.pt").write_bytes(b"no tensor")
    with pytest.raises(UserError, match="no tensor saved by"):
        read_scores("vqascore", str(tmp_path / "scores.pt"))
    for judge in JUDGES:
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(UserError, match="UTF-8"):
            read_scores(judge, str(tmp_path / "binary"))


def test_scores_stand_in_the_run_s_table(tmp_path, capsys):
    run = run_folder(tmp_path / "run")
    file = tmp_path / "results.jsonl"
    file.write_text(geneval_line("colors", "a red bus", True) + geneval_line("colors", "a blue bus", False))
    assert fastgen("scores", run, f"geneval={file}") == 0
    assert "geneval_colors" in capsys.readouterr().out
    teacher = tmp_path / "teacher.jsonl"
    teacher.write_text(geneval_line("colors", "a red bus", True))
    assert fastgen("scores", run, f"geneval={teacher}", "--role", "teacher", "--nfe", 35) == 0
    row = finals(read_run(run))[2]
    assert row.values == {"frechet": 3.0, "recall": 0.6} | {
        name: 0.5 for name in ("geneval", "geneval_colors", "geneval_images", "geneval_prompts")
    }
    assert row.ratios["geneval"] == 0.5 and row.student_updates == 100 and row.training_seconds == 10.0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    file.write_text(geneval_line("colors", "a red bus", True))
    assert fastgen("scores", run, f"geneval={file}") == 0  # replaces what it gave before
    again = (run / "metrics.jsonl").read_text().splitlines()
    assert len(again) == len(lines) == 6 and finals(read_run(run))[2].values["geneval"] == 1.0


def test_it_must_be_clear_whose_samples_were_judged(tmp_path, capfd):
    run = run_folder(tmp_path / "run")
    (tmp_path / "r.json").write_text('{"color": [0.5, []]}')
    assert fastgen("scores", run, f"vbench={tmp_path / 'r.json'}", "--role", "teacher") == 2
    assert "give --samples or --nfe" in capfd.readouterr().err
    assert fastgen("scores", run, str(tmp_path / "r.json")) == 2
    assert "names no judge" in capfd.readouterr().err
    assert fastgen("scores", run, "vbench=x", "--samples", tmp_path / "nowhere") == 2
    assert "nowhere.fastgen.json" in capfd.readouterr().err
