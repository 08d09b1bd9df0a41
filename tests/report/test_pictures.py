"""Every picture of a leaderboard: what is in it, and that it is the same twice."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import typer
from record_factory import CLASSES, answered, costs, record, spec, study, teacher
from typer.testing import CliRunner

from kdbench import calibration
from kdbench.cli.report import _kinds, report
from kdbench.errors import RecordError
from kdbench.report import Outcomes
from kdbench.report.charts import Gain, draw_gains
from kdbench.report.drawing import own_style
from kdbench.report.pictures import _confusion, _reliability, _trainings, by_both_kinds, gains_of, plot_all, telling
from kdbench.report.plots import panels, row_names, save
from kdbench.report.rows import build_rows
from kdbench.store import Store
from kdbench.types import EpochLog, ModelKind, RunRecord

SVG = "{http://www.w3.org/2000/svg}"
IMAGES = 120
ALONE = [f"{number}" for number in range(IMAGES)]


def texts(path: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ET.parse(path).iter(f"{SVG}text")]


def right(wrong: int) -> np.ndarray:
    made = np.ones(IMAGES, dtype=bool)
    made[:wrong] = False
    return made


def history() -> tuple[EpochLog, ...]:
    return tuple(
        EpochLog(epoch=epoch, train_loss=2 / (epoch + 1), val_loss=1 / (epoch + 1), val_accuracy=1 - 0.5 / (epoch + 1),
                 learning_rate=0.1, seconds=1.0)
        for epoch in range(6)
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    facts = {"history": history()}
    answered(store, teacher(), right(5), ALONE, **facts)
    for seed in (0, 1):
        answered(store, spec(seed=seed), right(50 + seed), ALONE, **facts)
        answered(store, spec(method="kd", seed=seed, teachers=[teacher()]), right(20 + seed), ALONE, **facts)
        answered(store, spec(method="dkd", seed=seed, teachers=[teacher()]), right(49 + 3 * seed), ALONE, **facts)
        answered(store, spec("mobilenetv3_small_100", seed=seed), right(60), ALONE, **facts)
    return store.root


def records(results: Path) -> list[RunRecord]:
    return Store(results).records()


def test_all_of_them_are_written_as_svg_and_png(results: Path, tmp_path: Path) -> None:
    written = plot_all(records(results), [], Outcomes.below(results), tmp_path / "p")
    names = ["accuracy-against-latency", "accuracy-against-macs", "accuracy-against-params", "gains-bccd-64-px",
             "confusion-bccd-64-px", "reliability-bccd-64-px", "training-bccd-64-px"]  # fmt: skip
    assert [path.name for path in written] == [f"{name}{kind}" for name in names for kind in (".svg", ".png")]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == sorted(path.name for path in written)
    for path in written:
        if path.suffix == ".png":
            assert int.from_bytes(path.read_bytes()[16:20], "big") == 1800
        else:
            assert ET.parse(path).getroot().get("width") == "648pt"  # 864 pixels


def test_what_is_said_in_them(results: Path, tmp_path: Path) -> None:
    plot_all(records(results), [], Outcomes.below(results), tmp_path)
    gains = texts(tmp_path / "gains-bccd-64-px.svg")
    assert {"What distillation bought", "bccd, 64 px · mobilenetv3_small_050", "kd", "dkd", "not significant"} <= set(
        gains
    )
    confusion = texts(tmp_path / "confusion-bccd-64-px.svg")
    assert confusion.count("taken for") == 4
    assert {*CLASSES, "resnet50 (teacher)"} <= set(confusion)
    assert "as it should be" in texts(tmp_path / "reliability-bccd-64-px.svg")
    assert {"epoch", "loss (nats)", "validation accuracy (%)"} <= set(texts(tmp_path / "training-bccd-64-px.svg"))
    assert "Bars: the 95 % interval of the accuracy." in texts(tmp_path / "accuracy-against-macs.svg")


def test_the_same_bytes_twice(results: Path, tmp_path: Path) -> None:
    first = plot_all(records(results), [], Outcomes.below(results), tmp_path / "1")
    second = plot_all(records(results)[::-1], [], Outcomes.below(results), tmp_path / "2")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_accuracies_have_their_intervals_where_the_answers_are(results: Path) -> None:
    outcomes = Outcomes.below(results)
    (panel,) = panels([], records(results), "macs", "accuracy", outcomes)
    rows = {name: row for rows in [build_rows(records(results), outcomes=outcomes)]
            for name, row in zip(row_names(rows), rows, strict=True)}  # fmt: skip
    for point in panel.series[""]:
        assert point.interval
        assert point.y_bar == rows[point.name].interval
    (panel,) = panels([], records(results), "macs", "accuracy")
    assert not any(point.interval for point in panel.series[""])


def test_the_telling_rows(results: Path) -> None:
    rows = build_rows(records(results), outcomes=Outcomes.below(results))
    assert [(row.model, row.method, row.role) for row in telling(rows)] == [
        ("mobilenetv3_small_050", "kd", "student"),
        ("mobilenetv3_small_050", "ce", "baseline"),
        ("resnet50", "ce", "teacher"),
        ("mobilenetv3_small_100", "ce", "baseline"),
    ]
    assert telling(build_rows([record(spec(), status="failed")])) == []


def test_confusions_and_bins_by_hand(results: Path) -> None:
    rows = build_rows(records(results), outcomes=Outcomes.below(results))
    kd = next(row for row in rows if row.method == "kd")
    # labels take turns; the first 20 and 21 are wrong: of 60 each, 10 and 11 of the first class, 10 of the second
    shares = _confusion("kd", kd).shares
    assert shares == pytest.approx(np.array([[99 / 120, 21 / 120], [20 / 120, 100 / 120]]))
    found = _reliability("kd", kd)
    assert found.counts.sum() == 2 * IMAGES
    (bin_,) = np.flatnonzero(found.counts)
    confidence = calibration.softmax(np.array([[2.0, 0.0]]))[0, 0]
    assert found.confidence[bin_] == pytest.approx(confidence)
    assert found.right[bin_] == pytest.approx(kd.accuracy)
    assert abs(found.right[bin_] - found.confidence[bin_]) == pytest.approx(kd.ece, abs=0.02)


def test_gains_know_their_intervals_and_the_largest_and_smallest_are_kept(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = build_rows(records(results), outcomes=Outcomes.below(results))
    names = dict(zip((row.cell_id for row in rows), row_names(rows), strict=True))
    kd, dkd = gains_of(rows, names)
    assert (kd.name, dkd.name) == ("kd", "dkd")
    assert (kd.gain, kd.significant, dkd.significant) == (pytest.approx(30 / IMAGES), True, False)
    assert kd.interval is not None
    assert kd.interval[0] < kd.gain < kd.interval[1]
    monkeypatch.setattr("kdbench.report.pictures.MOST_GAINS", 2)
    many = build_rows(study())
    names = dict(zip((row.cell_id for row in many), row_names(many), strict=True))
    every = sorted(row.gain for row in many if row.gain is not None)
    assert [gain.gain for gain in gains_of(many, names)] == [every[-1], every[0]]


def test_an_interval_that_reaches_far_does_not_flatten_the_bars(tmp_path: Path) -> None:
    gains = [Gain("a", 0.05, (-0.9, 0.99), False), Gain("b", 0.02, (0.01, 0.03), True), Gain("c", -0.01, None, None)]
    with own_style():
        figure = draw_gains("t", gains)
        low, high = figure.axes[0].get_xlim()
        save(figure, tmp_path / "a.svg")
    assert -0.25 < low < -0.1
    assert 0.15 < high < 0.25
    assert {"significant (p < 0.05, Holm)", "not significant", "not tested"} <= set(texts(tmp_path / "a.svg"))


KINDS: dict[str, ModelKind] = {"resnet50": "cnn", "vit_tiny": "vit"}


@pytest.fixture
def both_kinds(results: Path) -> Path:
    store, vit = Store(results), teacher("vit_tiny")
    for seed in (0, 1):
        answered(store, spec(method="kd", seed=seed, teachers=[vit]), right(30), ALONE)
        # by one kind of teacher alone
        answered(store, spec(method="rkd", seed=seed, teachers=[vit]), right(5), ALONE)
    # without a baseline of its own
    answered(store, spec("resnet8_w16", method="kd", teachers=[vit]), right(3), ALONE)
    answered(store, spec("resnet8_w16", method="kd", teachers=[teacher()]), right(3), ALONE)
    return results


def test_students_of_both_kinds_of_teachers(both_kinds: Path, tmp_path: Path) -> None:
    rows = build_rows(records(both_kinds), outcomes=Outcomes.below(both_kinds))
    ((alone, of_cnn, of_vit),) = by_both_kinds(rows, KINDS)
    assert [(row.model, row.method, row.teacher) for row in (alone, of_cnn, of_vit)] == [
        ("mobilenetv3_small_050", "ce", ""),
        ("mobilenetv3_small_050", "kd", "resnet50"),
        ("mobilenetv3_small_050", "kd", "vit_tiny"),
    ]
    made = _trainings(alone, of_cnn, of_vit)
    assert [one.name for one in made.spreads] == ["alone", "from resnet50 (CNN)", "from vit_tiny (ViT)"]
    sure, unsure = calibration.softmax(np.array([[2.0, 0.0]]))[0]
    for one, wrong in zip(made.spreads, (101, 41, 60), strict=True):
        assert one.entropy == pytest.approx(-(sure * np.log(sure) + unsure * np.log(unsure)))
        every = np.concatenate([one.of_truth[label] for label in CLASSES])
        assert sorted(every) == pytest.approx([unsure] * wrong + [sure] * (2 * IMAGES - wrong))
    plot_all(records(both_kinds), [], Outcomes.below(both_kinds), tmp_path, KINDS)
    said = texts(tmp_path / "probabilities-bccd-64-px.svg")
    assert {"mobilenetv3_small_050, kd", "alone: 0.37 nats", "from vit_tiny (ViT): 0.37 nats", *CLASSES} <= set(said)


@pytest.mark.parametrize("kinds", [{}, {"resnet50": "cnn"}, {"resnet50": "cnn", "vit_tiny": "cnn"}])
def test_kinds_are_never_guessed(both_kinds: Path, kinds: dict[str, ModelKind]) -> None:
    assert by_both_kinds(build_rows(records(both_kinds), outcomes=Outcomes.below(both_kinds)), kinds) == []


def test_without_answers_or_on_other_images_kinds_are_not_compared(both_kinds: Path) -> None:
    store, outcomes = Store(both_kinds), Outcomes.below(both_kinds)
    assert by_both_kinds(build_rows(store.records()), KINDS) == []
    assert by_both_kinds(build_rows(store.records(), outcomes=outcomes), KINDS)
    for made in store.records():
        if made.spec.teachers and made.spec.teachers[0].model.name == "vit_tiny":
            store.predictions_path(made.run_id).unlink()
    assert by_both_kinds(build_rows(store.records(), outcomes=Outcomes.below(both_kinds)), KINDS) == []


def test_the_best_pair_comes_first_then_another_student(both_kinds: Path) -> None:
    store, vit = Store(both_kinds), teacher("vit_tiny")
    for seed in (0, 1):
        answered(store, spec(method="dkd", seed=seed, teachers=[vit]), right(40), ALONE)
        for of, wrong in ((teacher(), 55), (vit, 56)):
            answered(store, spec("mobilenetv3_small_100", "kd", seed=seed, teachers=[of]), right(wrong), ALONE)
    rows = build_rows(store.records(), outcomes=Outcomes.below(both_kinds))
    assert [(row.model, row.method) for _, row, _ in by_both_kinds(rows, KINDS)] == [
        ("mobilenetv3_small_050", "kd"),
        ("mobilenetv3_small_100", "kd"),
    ]


def test_only_what_there_is_is_drawn(tmp_path: Path) -> None:
    assert [path.stem for path in plot_all([], costs(), None, tmp_path / "a")] == ["macs-against-latency"] * 2
    drawn = {path.stem for path in plot_all(study(), [], None, tmp_path / "b")}
    assert drawn == {"accuracy-against-latency", "accuracy-against-macs", "accuracy-against-params", "gains-bccd-64-px"}
    with pytest.raises(RecordError, match="nothing to draw"):
        plot_all([record(spec(), status="failed")], [], None, tmp_path / "c")


def test_a_point_in_each_panel_is_no_picture_of_a_trade_off(tmp_path: Path) -> None:
    folds = [spec(dataset=spec().dataset.model_copy(update={"fold": fold})) for fold in (0, 1)]
    made = [record(of, history=history()) for of in folds]
    assert not [path for path in plot_all(made, [], None, tmp_path) if path.name.startswith("accuracy-against")]
    made.append(record(spec("mobilenetv3_small_100"), history=history()))
    assert [path for path in plot_all(made, [], None, tmp_path) if path.name.startswith("accuracy-against")]


def test_hostile_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    evil = "_$x^{$ <script>&\x00\x1b|"
    answered(store, spec(evil), right(50), ALONE, history=history())
    answered(store, spec(evil, method="kd", teachers=[teacher()]), right(20), ALONE, history=history())
    written = plot_all(store.records(), [], Outcomes.below(store.root), tmp_path / "p")
    for path in written:
        if path.suffix == ".svg":
            ET.parse(path)


def test_command_draws_them_all(both_kinds: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    done = CliRunner().invoke(app, ["--results", str(both_kinds), "--plots", str(tmp_path / "p")])
    assert (done.exit_code, done.stdout) == (0, "")
    assert len(list((tmp_path / "p").iterdir())) == 16


def test_command_knows_the_kinds_of_registered_models_alone() -> None:
    taught = [spec(method="kd", teachers=[teacher(name)]) for name in ("resnet50", "vit_tiny", "nobody_knows_it")]
    assert _kinds(record(of) for of in taught) == KINDS
