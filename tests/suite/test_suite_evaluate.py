"""Trained models on corrupted images and further data sets: what is made, what is kept, what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small import TINY, Notes, make_suite

from kdbench.calibration import ece, softmax
from kdbench.config import parse_suite
from kdbench.data.corruption import CORRUPTIONS
from kdbench.data.dataset import open_dataset
from kdbench.data.declared import declare
from kdbench.data.mixed import UNIONS, Union
from kdbench.data.source import SOURCES
from kdbench.data.views import Views
from kdbench.engine.evaluate import predict
from kdbench.errors import ConfigError, Locked, RecordError, UnknownName
from kdbench.model import normalisation
from kdbench.store import Store, images_key
from kdbench.suite import evaluate as evaluate_module
from kdbench.suite.api import run_suite
from kdbench.suite.evaluate import Images, evaluate_results, evaluate_run
from kdbench.suite.plan import RegistryNames
from kdbench.suite.trained import load_trained
from kdbench.types import DatasetSpec, EvaluateSpec, SourceDeclaration, evaluation_id

OTHERS = DatasetSpec(name="synthetic", options={"count": 50, "seed": 1})
SOME = EvaluateSpec(on=(OTHERS,), corruptions=("brightness", "jpeg"), levels=(1, 5))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A results folder of one finished run, made once."""
    folder = tmp_path_factory.mktemp("trained")
    run_suite(make_suite(teachers=None, methods=["ce"]), folder / "results", root=folder / "data", cache=cache)
    return folder / "results"


@pytest.fixture
def results(trained, tmp_path):
    """The same, to be written into."""
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def attempt(results, cache, tmp_path):
    """Evaluate what is in that folder: (everything that was asked for, what was made now)."""

    def evaluate(spec, **more):
        made = []
        found = evaluate_results(results, spec, root=tmp_path / "data", cache=cache, made=made.append, **more)
        return found, made

    return evaluate


@pytest.fixture
def predictions(monkeypatch):
    """How often a model was run over a set of images."""
    counted, original = [], evaluate_module.predict

    def spy(model, data, indices, *arguments, **more):
        counted.append((data.spec.name, len(indices), more.get("change") is not None))
        return original(model, data, indices, *arguments, **more)

    monkeypatch.setattr(evaluate_module, "predict", spy)
    return counted


def the_run(results):
    (record,) = Store(results).records()
    return record


def settings(record):
    return [(figure.corruption, figure.level) for figure in record.corrupted]


# ---------------------------------------------------------------- what is made


def test_both_sides_of_a_run(attempt, results):
    found, made = attempt(SOME, command="kdbench evaluate")
    record = the_run(results)
    own, further = found
    assert found == made == [Store(results).read_evaluation(one.evaluation_id) for one in found]
    assert {one.run_id for one in found} == {record.run_id}
    assert {one.title for one in found} == {record.spec.title}
    assert own.evaluation_id == evaluation_id(record.run_id, record.spec.dataset, "test")
    assert (own.side, own.on, own.metrics, own.failure) == ("test", record.spec.dataset, record.test_metrics, None)
    assert settings(own) == [("brightness", 1), ("brightness", 5), ("jpeg", 1), ("jpeg", 5)]
    assert own.data == record.data
    assert (further.side, further.on.name, further.on.image_size) == ("all", "synthetic", 32)
    assert further.on.options == {"count": 50, "seed": 1, "difficulty": 0.5}
    assert further.on.content
    assert further.metrics.count == 50
    assert further.corrupted == ()
    assert further.data.splits == {"test": dict.fromkeys(record.data.classes, 10)}
    assert further.data.independent == {"test": 50}
    assert further.data.leak == ""
    assert further.command == "kdbench evaluate"
    assert str(results.parent) not in "".join(one.model_dump_json() for one in found)


def test_figures_are_those_of_the_same_steps_by_hand(attempt, results, cache, tmp_path):
    own, further = attempt(SOME)[0]
    record, store = the_run(results), Store(results)
    data = open_dataset(record.spec.dataset, tmp_path / "data", cache)
    indices = data.splits["test"]
    model = load_trained(record.spec, 5, store)
    views = Views(None, *normalisation(record.spec.model))
    worse = CORRUPTIONS.get("jpeg")(data.images(indices), indices, 5)
    with torch.inference_mode():
        logits = model(views(worse, indices, 0)).numpy()
    figure = own.corrupted[-1]
    assert figure.accuracy == np.mean(logits.argmax(1) == data.labels[indices])
    assert figure.ece == pytest.approx(ece(softmax(logits), data.labels[indices]), abs=1e-6)

    others = open_dataset(further.on, tmp_path / "data", cache)
    logits = predict(model, others, np.arange(50), views)
    np.testing.assert_allclose(store.read_predictions(further.evaluation_id), logits, atol=1e-5)
    assert further.metrics.accuracy == np.mean(logits.argmax(1) == others.labels)
    items = store.read_items(further.items_key)
    assert [item[0] for item in items] == list(others.ids)
    assert [item[1] for item in items] == [others.classes[label] for label in others.labels]
    own_key = images_key(record.spec.dataset)
    assert further.items_key != own_key
    assert len(store.read_items(own_key)) == len(indices)  # those of the run are as they were


def test_every_corruption_there_is(attempt):
    ((own,), _) = attempt(EvaluateSpec(corruptions="all", levels=2))
    assert settings(own) == [(name, 2) for name in CORRUPTIONS.names()]


# ---------------------------------------------------------------- what is kept


def test_what_is_there_is_not_done_again(attempt, predictions):
    first, _ = attempt(SOME)
    assert len(predictions) == 1 + 4 + 1
    del predictions[:]
    again, made = attempt(SOME)
    assert (again, made, predictions) == (first, [], [])
    fewer, _ = attempt(EvaluateSpec(corruptions=("jpeg",), levels=(5,)))
    assert fewer == first[:1]
    assert predictions == []


def test_more_corruptions_and_levels_join_what_is_there(attempt, predictions):
    first = attempt(EvaluateSpec(corruptions=("brightness",), levels=(1, 3)))[0][0]
    del predictions[:]
    ((own,), made) = attempt(EvaluateSpec(corruptions=("brightness", "contrast"), levels=(1, 2)))
    assert made == [own]
    assert settings(own) == [("brightness", 1), ("brightness", 2), ("brightness", 3), ("contrast", 1), ("contrast", 2)]
    assert len(predictions) == 1 + 3  # the clean images once more, and what was missing
    assert [own.corrupted[0], own.corrupted[2]] == list(first.corrupted)
    assert own.evaluation_id == first.evaluation_id


def test_an_interrupt_keeps_what_was_done(attempt, results, predictions):
    def stop(what, done, total):
        if "corrupted" in what and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(SOME, progress=stop)
    del predictions[:]
    seen = []
    own, further = attempt(SOME, progress=lambda *step: seen.append(step))[0]
    title = the_run(results).spec.title
    assert [step for step in seen if step[0].startswith(title)] == [
        *((f"{title} on corrupted images", done, 2) for done in range(3)),
        *((f"{title} on synthetic", done, 1) for done in range(2)),
    ]
    assert len(predictions) == 1 + 2 + 1
    assert len(own.corrupted) == 4
    assert further.metrics is not None


def test_how_a_further_data_set_is_split_is_no_other_evaluation(attempt):
    first = attempt(EvaluateSpec(on=(OTHERS,)))[0]
    other = OTHERS.model_copy(update={"test_fraction": 0.4, "split_seed": 7, "train_limit": 5})
    assert attempt(EvaluateSpec(on=(OTHERS, other))) == (first, [])


def test_an_entry_may_decode_otherwise_than_the_run(attempt):
    larger = DatasetSpec(name="synthetic", options={"count": 50, "seed": 1}, image_size=48, fit="pad")
    one, two = attempt(EvaluateSpec(on=(OTHERS, larger)))[0]
    assert [(each.on.image_size, each.on.fit) for each in (one, two)] == [(32, "crop"), (48, "pad")]
    assert one.evaluation_id != two.evaluation_id
    assert {each.failure for each in (one, two)} == {None}


# ---------------------------------------------------------------- classes


def folder_of(path, classes, seed=0, suffix="png"):
    """A declared data set with images of its own."""
    draw = np.random.default_rng(seed)
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            image.save(path / name / f"{number}.{suffix}")
    declare(SourceDeclaration(name=path.name, folder=str(path)), path.parent)
    return EvaluateSpec(on=(DatasetSpec(name=path.name),))


@pytest.mark.usefixtures("own_sources")
def test_classes_are_matched_by_name_and_those_the_model_lacks_are_left_out(attempt, results, tmp_path):
    asked = folder_of(tmp_path / "clinic", {"neutrophil": 12, "artefact": 15, "basophil": 11})
    ((one,), _) = attempt(asked)
    assert one.failure is None
    known = list(the_run(results).data.classes)
    logits = Store(results).read_predictions(one.evaluation_id)
    items = Store(results).read_items(one.items_key)
    assert logits.shape == (23, len(known))  # every class the model has competes
    assert {label for _, label, _ in items} == {"neutrophil", "basophil"}
    right = [known[guess] == label for guess, (_, label, _) in zip(logits.argmax(1), items, strict=True)]
    assert one.metrics.accuracy == np.mean(right)
    assert set(one.metrics.recall) == {"neutrophil", "basophil"}
    assert one.data.splits == {"test": {"basophil": 11, "neutrophil": 12}}
    assert one.data.classes == ("basophil", "neutrophil")
    (left,) = one.data.left_out
    assert (left.path, left.count, left.reason) == ("clinic/artefact", 15, "the model has no class 'artefact'")


@pytest.mark.usefixtures("own_sources")
def test_no_class_in_common_is_a_failure(attempt, tmp_path):
    ((one,), _) = attempt(folder_of(tmp_path / "pets", {"cat": 20, "dog": 20}))
    assert one.metrics is None
    assert "no image of a class the model knows: it has cat, dog, the model basophil" in one.failure.message


# ---------------------------------------------------------------- images that were seen


def test_the_same_drawn_images_are_refused(attempt, predictions):
    ((one,), made) = attempt(EvaluateSpec(on=(DatasetSpec(name="synthetic", options={"count": 100}),)))
    assert (one.metrics, one.failure.kind) == (None, "SplitLeak")
    assert made == [one]
    assert predictions == []
    assert "80 of 100 images of synthetic have the bytes of images the model was trained or selected on" in (
        one.failure.message
    )


def test_the_same_pixels_under_another_name_are_refused(attempt):
    # another count gives the same first images other digests
    ((one,), _) = attempt(EvaluateSpec(on=(DatasetSpec(name="synthetic", options={"count": 60}),)))
    assert one.failure.kind == "SplitLeak"
    assert "of 60 images of synthetic have the pixels of images" in one.failure.message


@pytest.fixture
def own_data(cache, tmp_path, own_sources):
    """A run on images of a folder."""
    folder_of(tmp_path / "lab", {"basophil": 30, "neutrophil": 30})
    suite = make_suite(teachers=None, methods=["ce"], datasets=[{"name": "lab", "image_size": 32}])
    run_suite(suite, tmp_path / "own", root=tmp_path / "data", cache=cache)

    def evaluate(spec):
        return evaluate_results(tmp_path / "own", spec, root=tmp_path / "data", cache=cache)

    return evaluate


def test_copies_of_training_images_are_refused_by_their_bytes(own_data, tmp_path):
    asked = folder_of(tmp_path / "copy", {"basophil": 10, "neutrophil": 10}, seed=5)
    (one,) = own_data(asked)
    assert one.failure is None
    data = Images(tmp_path / "data", tmp_path / "cache").open(DatasetSpec(name="lab"))
    sides = {side: data.ids[indices[0]] for side, indices in data.splits.items()}
    taken = tmp_path / "copy" / "basophil" / "taken.png"
    taken.write_bytes((tmp_path / sides["test"]).read_bytes())  # a test image was not learned from
    (one,) = own_data(asked)
    assert (one.failure, one.metrics.count) == (None, 21)
    taken.write_bytes((tmp_path / sides["val"]).read_bytes())  # but what it was selected on was seen
    (one,) = own_data(asked)
    assert one.failure.kind == "SplitLeak"
    assert (
        f"1 of 21 images of copy have the bytes of images the model was trained or selected on, as copy/basophil/"
        f"taken.png those of {sides['val']}" in one.failure.message
    )


def test_what_the_model_was_trained_on_is_refused_by_name(own_data):
    (one,) = own_data(EvaluateSpec(on=(DatasetSpec(name="lab"),)))
    assert one.failure.kind == "SplitLeak"
    assert "lab is what the model was trained on" in one.failure.message


def test_a_source_of_the_same_originals_is_refused(own_data, monkeypatch, tmp_path):
    asked = folder_of(tmp_path / "crops", {"basophil": 10, "neutrophil": 10}, seed=6)
    monkeypatch.setattr(SOURCES.get("lab"), "shares_images_with", ("crops",), raising=False)
    (one,) = own_data(asked)
    assert "crops shares its originals with lab, which the model was trained on" in one.failure.message


def test_a_union_with_a_training_source_is_refused(own_data, monkeypatch, tmp_path):
    asked = folder_of(tmp_path / "third", {"basophil": 10, "neutrophil": 10}, seed=7)
    monkeypatch.setattr(
        UNIONS, "_entries", {"both": Union("both", "two", ("lab", "third"), ("basophil", "neutrophil"))}
    )
    (one,) = own_data(EvaluateSpec(on=(DatasetSpec(name="both"),)))
    assert "both holds lab, which the model was trained on; name the other ones under sources:" in one.failure.message
    (one,) = own_data(EvaluateSpec(on=(DatasetSpec(name="both", sources=("third",)),)))
    assert one.failure is None
    assert asked.on[0].name in one.data.sources


def test_without_the_training_images_it_is_said_what_was_not_looked_at(own_data, tmp_path):
    asked = folder_of(tmp_path / "clinic2", {"basophil": 10, "neutrophil": 10}, seed=8)
    (tmp_path / "lab").rename(tmp_path / "away")
    (one,) = own_data(asked)
    assert one.failure is None
    assert one.data.leak.startswith("whether the model was trained on some of these images could not be looked at: lab")
    assert str(tmp_path) not in one.data.leak
    (one,) = own_data(EvaluateSpec(on=asked.on, corruptions=("jpeg",)))[:1]
    assert (one.side, one.failure.kind) == ("test", "MissingData")


# ---------------------------------------------------------------- what goes wrong


def test_a_further_data_set_that_is_not_there_is_a_failure_and_the_rest_goes_on(attempt, results, tmp_path):
    found, made = attempt(EvaluateSpec(on=(DatasetSpec(name="pbc"), OTHERS), corruptions=("jpeg",), levels=(1,)))
    assert [one.failure and one.failure.kind for one in found] == [None, "MissingData", None]
    assert made == found
    assert "get it from https://" in found[1].failure.message
    assert str(tmp_path) not in found[1].model_dump_json()
    assert Store(results).read_evaluation(found[1].evaluation_id) == found[1]


@pytest.mark.usefixtures("own_sources")
def test_a_failure_goes_when_the_data_set_comes(attempt, results, tmp_path):
    asked = folder_of(tmp_path / "late", {"basophil": 10, "neutrophil": 10})
    (tmp_path / "late").rename(tmp_path / "elsewhere")
    assert attempt(asked)[0][0].failure.kind == "MissingData"
    (tmp_path / "elsewhere").rename(tmp_path / "late")
    ((one,), _) = attempt(asked)
    assert one.failure is None
    assert [path.stem for path in (results / "evaluations").iterdir()] == [one.evaluation_id]


@pytest.mark.parametrize(("off", "fails"), [(1, False), (2, True)])
def test_a_model_that_does_not_do_what_its_record_says(attempt, results, off, fails):
    good = attempt(EvaluateSpec(corruptions=("jpeg",), levels=(1,)))[0][0]
    record = the_run(results)
    metrics = record.test_metrics
    other = metrics.model_copy(update={"accuracy": metrics.accuracy + off / metrics.count})
    path = Store(results).record_path(record.run_id)
    path.write_text(record.model_copy(update={"test_metrics": other}).model_dump_json())
    more = EvaluateSpec(corruptions=("jpeg",), levels=(1, 2))
    ((one,), _) = attempt(more)
    if fails:
        assert one.failure.kind == "RecordError"
        assert "its weights or its images changed; run its suite again" in one.failure.message
        assert (one.corrupted, one.metrics) == (good.corrupted, good.metrics)  # what was measured before still holds
        path.write_text(record.model_dump_json())
        ((one,), _) = attempt(more)
    assert (one.failure, settings(one)) == (None, [("jpeg", 1), ("jpeg", 2)])


def test_damaged_weights_are_a_failure(attempt, results):
    path = Store(results).weights_path(the_run(results).run_id)
    path.write_bytes(path.read_bytes()[:100])
    found, _ = attempt(SOME)
    assert ["cannot be used" in one.failure.message for one in found] == [True, True]


def test_what_is_refused_before_anything_is_done(attempt, results, cache, tmp_path):
    with pytest.raises(UnknownName, match="unknown corruption 'gausian_blur'; did you mean gaussian_blur"):
        attempt(EvaluateSpec(corruptions=("gausian_blur",)))
    with pytest.raises(UnknownName, match="unknown dataset 'jtcs'; did you mean jtsc"):
        attempt(EvaluateSpec(on=(DatasetSpec(name="jtcs"),)))
    with pytest.raises(ConfigError, match="'zebra' matches none of 1 runs"):
        attempt(SOME, only="zebra")
    with pytest.raises(RecordError, match="holds no finished run"):
        evaluate_results(tmp_path / "empty", SOME)
    with Store(results).lock(), pytest.raises(Locked):
        attempt(SOME)
    Store(results).weights_path(the_run(results).run_id).unlink()
    with pytest.raises(RecordError, match="1 finished runs, but not their weights"):
        attempt(SOME)
    assert not (results / "evaluations").exists()
    unfinished = the_run(results).model_copy(update={"test_metrics": None})
    with pytest.raises(RecordError, match="has no result"):
        evaluate_run(unfinished, Store(results), tmp_path, cache, SOME)


# ---------------------------------------------------------------- in a suite


def asks(**changes):
    evaluate = {"on": [{"name": "synthetic", "options": {"count": 50, "seed": 1}}], "corruptions": "jpeg", "levels": 3}
    return make_suite(**{"evaluate": evaluate, **changes})


def test_a_suite_tries_each_run_when_it_is_finished(go, tmp_path):
    notes = Notes()
    records = go(asks(), listener=notes)
    assert [(one.run_id, one.side) for one in notes.tried] == [
        (record.run_id, side) for record in records for side in ("test", "all")
    ]
    assert {one.failure for one in notes.tried} == {None}
    again = Notes()
    assert go(asks(), listener=again) == records
    assert again.tried == []


def test_what_a_suite_tries_is_no_part_of_a_run(go, trainings):
    records = go(make_suite())
    del trainings[:]
    notes = Notes()
    assert go(asks(), listener=notes) == records
    assert trainings == []
    assert len(notes.tried) == 2 * len(records)


def test_published_results_without_weights_are_left_alone(go, tmp_path):
    go(make_suite())
    for path in (tmp_path / "results/weights").iterdir():
        path.unlink()
    notes = Notes()
    go(asks(), listener=notes)
    assert notes.tried == []
    assert notes.notes == ["3 runs have no weights here: what they were not tried on before stays so"]


def test_names_of_what_is_tried_are_checked_with_their_lines():
    with pytest.raises(ConfigError) as caught:
        asks(evaluate={"on": ["syntetic"], "corruptions": ["jpeg", "jpg"], "levels": [1, 6]})
    text = str(caught.value)
    assert text.count("line ") == 3
    for part in ("evaluate.on[0]: unknown dataset 'syntetic'", "evaluate.corruptions[1]: unknown corruption 'jpg'"):
        assert part in text
    assert "evaluate.levels[1]" in text
    assert asks(evaluate={"corruptions": "all"}).evaluate.corruptions == ("all",)


def test_on_needs_no_quotes_in_yaml():
    text = yaml.safe_dump({**TINY, "evaluate": None}).replace("evaluate: null", "evaluate:\n  on: [synthetic]")
    assert [on.name for on in parse_suite(text, "tiny", RegistryNames()).evaluate.on] == ["synthetic"]
    with pytest.raises(ConfigError, match=r"line 7: evaluate.on\[0\]: unknown dataset 'syntetic'"):
        parse_suite(text.replace("[synthetic]", "[syntetic]"), "tiny", RegistryNames())
    with pytest.raises(ConfigError, match=r"evaluate.off: unknown key|keys should be strings, not False"):
        parse_suite(text.replace(" on:", " off:"), "tiny", RegistryNames())


# ---------------------------------------------------------------- what another time or version left


@pytest.mark.parametrize("change", [{"weights": "00" * 32}, {"schema_version": 0}, None])
def test_what_is_of_other_weights_or_unreadable_is_made_anew(attempt, results, change):
    before, _ = attempt(SOME)
    path = Store(results).evaluation_path(before[0].evaluation_id)
    if change is None:
        path.write_text("{half a rec")
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change, "corrupted": []}))
    found, made = attempt(SOME)
    assert [one.side for one in made] == ["test"]
    assert found[0].corrupted == before[0].corrupted
    assert (
        found[0].weights
        == hashlib.sha256(Store(results).weights_path(the_run(results).run_id).read_bytes()).hexdigest()
    )
    assert found[1] == before[1]


def test_runs_without_weights_are_named(trained, tmp_path, cache):
    shutil.copytree(trained, tmp_path / "results")
    store = Store(tmp_path / "results")
    record = the_run(tmp_path / "results")
    spec = record.spec.model_copy(update={"seed": 7})
    store.write_record(record.model_copy(update={"spec": spec, "run_id": spec.run_id}))
    told = []
    evaluate_results(
        tmp_path / "results", EvaluateSpec(corruptions=("jpeg",), levels=(1,)), root=tmp_path / "data", cache=cache,
        noted=told.append,
    )  # fmt: skip
    assert told == [f"passed over for want of weights: {spec.title}"]


def test_all_does_not_hide_a_wrong_name(attempt):
    with pytest.raises(UnknownName, match="unknown corruption 'jpg'; did you mean jpeg"):
        attempt(EvaluateSpec(corruptions=("all", "jpg")))
