"""What a judge says of pictures and captions: found, true, various; the suite that says it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from metrics.seeing import SeeingJudge

from fastgen.data.emoji import Emoji
from fastgen.errors import UserError
from fastgen.metrics import EmojiMetrics, FrechetDistance, PrecisionRecall
from fastgen.metrics.evaluation import evaluate
from fastgen.metrics.judge.captions import (
    AttributeAccuracy,
    Captioned,
    CaptionMetric,
    CaptionRetrieval,
    UnsaidDiversity,
    contradicts,
    difference_rate,
    retrieved,
)

FOLDER = Path(__file__).parents[1] / "data" / "emoji"
COUNT = 160


@functools.cache
def data() -> Emoji:
    return Emoji(str(FOLDER), str(FOLDER / "drawings.txt"), resolution=16, reference_count=200)


@functools.cache
def judge() -> SeeingJudge:
    return SeeingJudge(data())


def suite(**options) -> EmojiMetrics:
    made = EmojiMetrics(judge(), **{"metrics": [FrechetDistance(), PrecisionRecall()], **options})
    made.set_reference(data().reference())
    return made


def told(indices) -> dict:
    return data().evaluation_conditions(indices) | data().evaluation_groups(indices)


def measured(pictures: torch.Tensor, made: EmojiMetrics | None = None) -> dict[str, float]:
    made = made or suite()
    made.reset()
    for rows in torch.arange(len(pictures)).split(100):
        made.observe(pictures[rows], told(rows.tolist()), rows.tolist())
    return made.compute()


def test_real_pictures_are_right_and_various() -> None:
    numbers = measured(data().evaluation_samples(range(COUNT)))
    for name in ("caption", "name", "background", "size", "position"):
        assert numbers[f"{name}_accuracy"] == 1
    assert numbers["retrieval"] == 1 and 50 < numbers["retrieval_candidates"] <= 100
    assert abs(numbers["size_diversity"] - 1 / 2) < 0.2 and abs(numbers["position_diversity"] - 4 / 5) < 0.15
    assert abs(numbers["background_diversity"] - 6 / 7) < 0.15
    parts = [numbers[f"{name}_diversity"] for name in ("background", "size", "position")]
    assert numbers["unsaid_diversity"] == pytest.approx(sum(parts) / 3)
    assert numbers["frechet"] < 0.5 and numbers["coverage"] > 0.5
    assert 0 < numbers["caption_cosine"] < 1


def test_a_collapse_shows_in_the_diversity_alone() -> None:
    captions = told(range(COUNT))["prompt"]
    numbers = measured(data().evaluation_samples([captions.index(text) for text in captions]))
    assert numbers["caption_accuracy"] == numbers["retrieval"] == 1 and numbers["unsaid_diversity"] == 0


def test_wrong_pictures() -> None:
    others = data().evaluation_samples([i + 2 for i in range(COUNT)])
    numbers = measured(others)
    assert numbers["retrieval"] < 0.15 and numbers["name_accuracy"] < 0.25 and 0.3 < numbers["size_accuracy"] < 0.7
    assert numbers["caption_accuracy"] <= numbers["name_accuracy"]


def test_what_was_taken_in_elsewhere_counts_as_well() -> None:
    pictures = data().evaluation_samples(range(COUNT))
    first, second = suite(), suite()
    first.observe(pictures[:90], told(range(90)), range(90))
    second.observe(pictures[90:], told(range(90, COUNT)), range(90, COUNT))
    second.add_partial_state(first.partial_state())
    whole, parts = measured(pictures), second.compute()
    assert parts.keys() == whole.keys() and parts == pytest.approx(whole, rel=1e-9)


def test_without_what_captions_say_other_texts_are_rivals() -> None:
    made, pictures = suite(captions=[CaptionRetrieval(50)]), data().evaluation_samples(range(100))
    made.observe(pictures, data().evaluation_conditions(range(100)), range(100))
    numbers = made.compute()
    assert 0.4 < numbers["retrieval"] < 1 and numbers["retrieval_candidates"] > 40
    with pytest.raises(UserError, match="need captions"):
        made.observe(pictures, {}, range(100))
    with pytest.raises(UserError, match="no background 'pink'"):
        made.observe(pictures[:1], {"prompt": ["a"], "said": [{"background": "pink"}]}, [0])


def captioned(pictures, texts, caption, said, seen=None) -> Captioned:
    said = torch.tensor(said)
    unit = (torch.nn.functional.normalize(torch.tensor(v).double(), dim=1) for v in (pictures, texts))
    return Captioned(*unit, torch.tensor(caption), said, said if seen is None else torch.tensor(seen), ("a", "b"))


def test_retrieval_by_hand() -> None:
    # Captions 0 and 1 say one thing and may both be true of a picture, so they are no rivals; 2 contradicts both.
    texts = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
    said = [[0, -1], [0, 1], [1, -1]]
    samples = captioned([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]], texts, [7, -4, 5], said)
    found, among = retrieved(samples, 100)
    assert found.tolist() == [True, False, False] and among.tolist() == [2, 2, 3]
    order = [2, 0, 1]
    moved = captioned(*([values[i] for i in order] for values in ([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]], texts)),
                      [5, 7, -4], [said[i] for i in order])  # fmt: skip
    assert retrieved(moved, 100)[0].tolist() == [False, True, False]
    assert retrieved(samples, 2)[1].tolist() == [2, 2, 2]
    assert contradicts(torch.tensor([0, -1]), torch.tensor(said)).tolist() == [False, False, True]
    alone = captioned([[1.0, 0.0]], [[1.0, 0.0]], [1], [[0, 0]])
    assert CaptionRetrieval().measure(alone) == {"retrieval": 1, "caption_cosine": 1, "retrieval_candidates": 1}


def test_accuracy_and_diversity_by_hand() -> None:
    said, seen = [[0, -1], [0, -1], [0, 2], [1, -1]], [[0, 0], [1, 1], [0, 1], [1, 5]]
    samples = captioned([[1.0, 0.0]] * 4, [[1.0, 0.0]] * 4, [3, 3, 4, 5], said, seen)
    assert AttributeAccuracy(("a", "b")).measure(samples) == {
        "caption_accuracy": 0.5,
        "combination_accuracy": 0.0,
        "a_accuracy": 0.75,
        "b_accuracy": 0.0,
    }
    told = captioned(
        [[1.0]] * 4, [[1.0]] * 4, [0, 1, 2, 3], [[0, 0], [1, 1], [1, 2], [1, -1]], [[0, 0], [1, 1], [1, 0], [0, 9]]
    )
    assert AttributeAccuracy(("a", "b")).measure(told)["combination_accuracy"] == pytest.approx(2 / 3)
    assert UnsaidDiversity(("a", "b")).measure(samples) == {"unsaid_diversity": 1.0, "b_diversity": 1.0}
    assert UnsaidDiversity(("a",)).measure(samples) == {}
    of_caption = torch.tensor([0, 0, 0, 1, 1, 2])
    assert difference_rate(torch.tensor([4, 4, 9, 2, 2, 1]), of_caption) == pytest.approx((2 / 3 + 0) / 2)
    draws = torch.randint(3, (4000,), generator=torch.Generator().manual_seed(0))
    assert difference_rate(draws, torch.arange(4000) // 2) == pytest.approx(2 / 3, abs=0.03)


class Perfect:
    """A method whose samples are real pictures."""

    teacher = student = None
    device = torch.device("cpu")
    student_updates = 3

    def sample(self, seeds, condition, steps=None, role="average"):
        return data().evaluation_samples(seeds).float() / 127.5 - 1

    def evaluations(self, role, steps=None):
        return 1


def test_the_row_of_real_samples() -> None:
    rows = evaluate(Perfect(), suite(), 40, data=data(), real=True, seed=0, batch_size=16)
    assert [(row["role"], row["nfe"], row["student_updates"]) for row in rows] == [("real", 0, 0), ("average", 1, 3)]
    assert rows[0]["values"] == rows[1]["values"]
    kinds = rows[0]["kinds"]
    assert kinds["unsaid_diversity"] == {"aspect": "coverage", "better": "higher"}
    assert kinds["retrieval"]["aspect"] == "fidelity" and kinds["retrieval_candidates"]["aspect"] == "bookkeeping"
    assert [row["role"] for row in evaluate(Perfect(), suite(), 40, data=data(), seed=0)] == ["average"]


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no metric of captions"):
        EmojiMetrics(judge(), captions=[])
    with pytest.raises(UserError, match="two metrics that give 'retrieval'"):
        EmojiMetrics(judge(), captions=[CaptionRetrieval(), CaptionRetrieval(10)])
    made = EmojiMetrics(judge(), captions=[AttributeAccuracy(("mood",))])
    with pytest.raises(UserError, match="'mood', but SeeingJudge sees name, background"):
        made.load()
    with pytest.raises(UserError, match="seen no picture"):
        suite().metrics()["captions"].compute()
    with pytest.raises(UserError, match="candidates"):
        CaptionRetrieval(1)


def test_yaml_names_metrics_of_captions() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--captions", type=list[CaptionMetric])
    given = [
        {"class_path": "fastgen.metrics.CaptionRetrieval", "init_args": {"candidates": 7}},
        "fastgen.metrics.UnsaidDiversity",
    ]
    made = parser.instantiate_classes(parser.parse_object({"captions": given})).captions
    assert made == [CaptionRetrieval(7), UnsaidDiversity()]
