import json
import subprocess
import sys

import pytest
from command_line import environment, fastgen
from folders import ROWS, row, run_folder

from fastgen.report.formatting import digits, duration, times
from fastgen.report.numbers import final_table
from fastgen.report.run import read_run, read_runs
from fastgen.report.summary import finals, incomparable
from fastgen.report.table import aligned, comparison
from fastgen.results.former_names import kind_by_name
from fastgen.results.kinds import Kind, headline, ordered, without_lone_fidelity, written
from fastgen.results.rows import kinds_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("frechet", ("fidelity", "lower")),
        ("frechet_floor", ("bookkeeping", None)),
        ("frechet_over_floor", ("fidelity", "lower")),
        ("frechet_half_count", ("bookkeeping", None)),
        ("recall", ("coverage", "higher")),
        ("mode_coverage", ("coverage", "higher")),
        ("mode_kl", ("coverage", "lower")),
        ("precision", ("fidelity", "higher")),
        ("clip_score", ("fidelity", "higher")),
        ("hpsv3", ("judge", "higher")),
        ("geneval_counting", ("judge", "higher")),
        ("frechet_to_teacher", ("fidelity", "lower")),
        ("cmmd", ("fidelity", "lower")),
        ("inception_score_std", ("bookkeeping", None)),
        ("vendi", ("coverage", "higher")),
        ("lpips_diversity", ("coverage", "higher")),
        ("lpips_condition_count", ("bookkeeping", None)),
        ("teacher_lpips", ("alignment", "lower")),
        ("memorised", ("other", "lower")),
        ("something", ("other", None)),
    ],
)
def test_kinds_of_metrics_in_files_that_do_not_say_them(name, kind):
    assert kind_by_name(name) == Kind(*kind)


def test_a_coverage_number_stands_beside_the_first_fidelity_number():
    names = ["count", "frechet", "kid", "mystery", "geneval", "recall", "coverage"]
    kinds = {name: kind_by_name(name) for name in names}
    assert ordered(names, kinds) == ["frechet", "recall", "kid", "coverage", "geneval", "mystery", "count"]
    assert headline(names, kinds) == ("frechet", "recall")


def test_fidelity_without_coverage_is_withheld():
    kinds = {name: kind_by_name(name) for name in ("frechet", "recall", "geneval")}
    assert without_lone_fidelity({"frechet": 1.0, "recall": 0.5}, kinds) == ({"frechet": 1.0, "recall": 0.5}, ())
    assert without_lone_fidelity({"frechet": 1.0, "geneval": 0.5}, kinds) == ({"geneval": 0.5}, ("frechet",))


def test_a_coverage_metric_of_the_users_counts_whatever_its_name(tmp_path):
    said = {"frechet": Kind("fidelity", "lower"), "my_spread": Kind("coverage", "lower")}
    rows = [row("average", 1, updates, frechet=3.0, my_spread=updates) | {"kinds": written(said)} for updates in (5, 9)]
    one, other = (run_folder(tmp_path / name, [line]) for name, line in zip("ab", rows, strict=True))
    runs = read_runs([one, other])
    assert [final.values for run in runs for final in finals(run)] == [
        {"frechet": 3.0, "my_spread": 5.0},
        {"frechet": 3.0, "my_spread": 9.0},
    ]
    page = final_table([*enumerate(runs)], {run.name: finals(run) for run in runs})
    assert "<strong>5</strong>" in page and "<strong>9</strong>" not in page and "my spread ↓" in page
    lone = run_folder(tmp_path / "c", [{k: v for k, v in rows[0].items() if k != "kinds"}])
    assert finals(read_run(lone))[0].withheld == ("frechet",)  # an old file, in which nobody knows what it was


def test_damaged_kinds_are_left_out(tmp_path):
    odd = {"frechet": "low", "recall": {"aspect": "beauty"}, "kid": {"aspect": "judge", "better": 5}, "new": 3}
    line = row("average", 1, 5, frechet=1.0, recall=0.5, kid=2.0) | {"kinds": odd}
    (final,) = finals(read_run(run_folder(tmp_path / "run", [line])))
    assert [final.kinds[name] for name in ("frechet", "recall", "kid")] == [
        Kind("fidelity", "lower"),
        Kind("coverage", "higher"),
        Kind("judge"),
    ]
    for odd in (None, [], "kinds"):
        assert kinds_of(line | {"kinds": odd})["frechet"] == Kind("fidelity", "lower")


def test_final_rows_and_ratios(tmp_path):
    rows = finals(read_run(run_folder(tmp_path / "run")))
    assert [(r.role, r.nfe, r.student_updates) for r in rows] == [
        ("teacher", 35, 50),
        ("teacher", 1, 50),
        ("average", 1, 100),
    ]
    assert rows[0].ratios == {} and rows[2].ratios == {"frechet": 1.5, "recall": pytest.approx(0.75)}
    assert rows[2].values == {"frechet": 3.0, "recall": 0.6} and rows[2].training_seconds == 10.0


def test_measurements_of_the_same_samples_are_merged(tmp_path):
    judge = row("average", 1, 100, geneval=0.5) | {"count": 2212, "fingerprint": "external:geneval"}
    early = row("average", 1, 50, geneval=0.1)
    rows = finals(read_run(run_folder(tmp_path / "run", [*ROWS, early, judge])))
    assert rows[2].values == {"frechet": 3.0, "recall": 0.6, "geneval": 0.5}
    assert rows[2].count == 500 and rows[2].fingerprint == "features/sha256:0123"


def test_what_does_not_compare_is_told(tmp_path):
    few = row("average", 1, 100, frechet=1.0, recall=0.5) | {"count": 100}
    lone = row("average", 2, 100, frechet=1.0)
    one, other = (run_folder(tmp_path / name, rows) for name, rows in (("one", ROWS), ("other", [few, lone])))
    runs = read_runs([one, other])
    notes = incomparable([r for run in runs for r in finals(run)])
    assert len(notes) == 2 and "(100, 500)" in notes[0] and notes[1].startswith("other, average: frechet not shown")


def test_the_table(tmp_path, capsys):
    one = run_folder(tmp_path / "one")
    other = run_folder(tmp_path / "other", [row("average", 4, 200, frechet=2.5, recall=0.7, kid=0.25)])
    assert fastgen("compare", one, other) == 0
    lines = {line[:16].strip(): line[16:].split() for line in capsys.readouterr().out.splitlines()}
    assert lines["run"] == ["one", "one", "one", "other"]
    assert lines["calls"] == ["35", "1", "1", "4"]
    assert lines["frechet"] == ["2", "30", "(15.0x)", "3", "(1.50x)", "2.5"]
    assert lines["recall"] == ["0.8", "0.01", "(0.01x)", "0.6", "(0.75x)", "0.7"]
    assert lines["kid"] == ["0.25"]  # others are blank
    assert lines["updates/s"] == ["8", "8"] and lines["peak memory GiB"] == ["1.5", "1.5"]
    assert list(lines).index("recall") == list(lines).index("frechet") + 1


def test_runs_measured_differently_stand_apart(tmp_path):
    one = run_folder(tmp_path / "one")
    other = run_folder(tmp_path / "other", [ROWS[3] | {"fingerprint": "else"}])
    tables = comparison(read_runs([one, other])).split("\n\n")
    assert len(tables) == 2 and "other" not in tables[0] and "one" not in tables[1]


def test_json(tmp_path, capsys):
    assert fastgen("compare", run_folder(tmp_path / "one"), "--json") == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["rows"][2]["ratios"]["frechet"] == 1.5 and run["health_events"] == 2 and run["method"] == "SiD"


def test_a_run_without_measurements_has_a_column(tmp_path):
    text = comparison([read_run(run_folder(tmp_path / "bare", []))])
    assert "bare" in text and "12 s" in text


def test_narrow_terminals_break_tables():
    text = aligned([["run", "x"], ["aaaa", "1"], ["bbbb", "2"], ["cccc", "3"]], width=16)
    assert text == "run  aaaa  bbbb\nx       1     2\n\nrun  cccc\nx       3\n"


def test_light_commands_load_neither_torch_nor_lightning(tmp_path):
    folder = run_folder(tmp_path / "run")
    light = (
        "import sys\nfrom fastgen.__main__ import main\ncode = main(sys.argv[1:])\n"
        "sys.exit(code or 3 * bool({'torch', 'lightning'} & set(sys.modules)))"
    )
    result = tmp_path / "r.json"
    result.write_text('{"color": [0.5, []]}')
    page = ["report", folder, "--no-samples", "--out", tmp_path / "page"]
    for words in (["compare", folder], page, ["scores", folder, f"vbench={result}"], ["report", "--help"]):
        command = [sys.executable, "-c", light, *map(str, words)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "index.html").is_file()


@pytest.mark.parametrize("words", [["compare"], ["report", "x", "--nonsense"], ["compare", "nowhere"], ["scores", "."]])
def test_mistakes_are_one_sentence(words, capfd):
    assert fastgen(*words) == 2
    out, err = capfd.readouterr()
    assert err.startswith("fastgen: ") and err.count("\n") == 1 and "Traceback" not in out + err


def test_words():
    assert [digits(v) for v in (None, 0.15151, 5000.0, 34910.4, float("nan"), 1e-7)] == [
        "",
        "0.1515",
        "5000",
        "34,910",
        "nan",
        "1e-07",
    ]
    assert [duration(v) for v in (4.41, 16.4, 210, 7500, 273_600)] == [
        "4.4 s",
        "16 s",
        "3.5 min",
        "2 h 05 min",
        "3 d 04 h",
    ]
    assert [times(v) for v in (0.789, 15.71, 1503.7)] == ["0.79x", "15.7x", "1504x"]
