"""Who is timed when, and what comes of a failure; the processes are played by a fake."""

from contextlib import contextmanager
from dataclasses import replace

import little
import pytest

from kdbench.errors import ConfigError, ProfileError, RuntimeUnavailable, UnknownName
from kdbench.profiling import session
from kdbench.profiling.child import Ready, Subject, Taken, convert_there
from kdbench.profiling.latency import Samples, WarmUp
from kdbench.profiling.runtime import Setting
from kdbench.profiling.session import Sampling, measure
from kdbench.types import Latency, Memory

SUBJECTS = [Subject(name, little.small, 16) for name in ("a", "b", "c", "d", "e")]
SAMPLING = Sampling(rounds=4, samples=20)


class Stage:
    """What the fake children do: (kind, subject, batch size), in order. ``broken`` is asked whether one fails."""

    def __init__(self):
        self.events, self.broken, self.alive, self.peak = [], lambda *_: None, 0, 0

    def note(self, kind, child):
        self.events.append((kind, child.subject.name, child.setting.batch_size))
        reason = self.broken(kind, child.subject.name, child.setting)
        if reason is not None:
            raise reason if isinstance(reason, BaseException) else ProfileError(reason)

    def of(self, kind):
        return [event[1:] for event in self.events if event[0] == kind]


@pytest.fixture
def stage(monkeypatch):
    stage = Stage()

    class Child:
        def __init__(self, work, subject, setting, folder):
            self.work, self.subject, self.setting = work, subject, setting
            stage.alive += 1
            stage.peak = max(stage.peak, stage.alive)

        def answer(self):
            if self.work is convert_there:
                stage.note("convert", self)
                return None
            stage.note("begin", self)
            return Ready("torch 0", 12.0, WarmUp(cold_ms=9.0, calls=5, steady=True), Memory(peak_rss_bytes=7), True)

        def ask(self, turn):
            stage.note("turn", self)
            if turn.budget_s == session._BURST_S:
                return Taken(Samples((2.0,) * 7, (30.0,)), 4.0)
            assert turn == SAMPLING.turn
            return Taken(Samples((2.0,) * 5, (30.0,)), 3.0)

        def stop(self):
            stage.note("stop", self)

        def kill(self):
            stage.note("kill", self)

        def end(self):
            stage.note("end", self)
            stage.alive -= 1

    monkeypatch.setattr(session, "Child", Child)
    monkeypatch.setattr(session, "trainers", list)
    return stage


def test_everybody_is_made_ready_before_anybody_is_timed(stage):
    measure(SUBJECTS, [Setting()], SAMPLING)
    kinds = [event[0] for event in stage.events if event[0] in ("begin", "turn", "kill", "end")]
    kinds = kinds[kinds.index("begin") :]  # conversions end before
    # the last turn of each is for its energy; all are killed before one is waited for
    assert kinds == ["begin"] * 5 + ["turn"] * 25 + ["kill"] * 5 + ["end"] * 5
    assert stage.alive == 0


def test_all_take_turns_in_changing_order(stage):
    measure(SUBJECTS, [Setting()], SAMPLING)
    turns = [name for name, _ in stage.of("turn")]
    rounds = [turns[start : start + 5] for start in range(0, 20, 5)]  # then a turn each for the energy
    assert all(sorted(names) == list("abcde") for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_what_is_kept(stage):
    (found,) = measure(SUBJECTS[:1], [Setting(batch_size=2)], SAMPLING)
    latency = found[Setting(batch_size=2)]
    assert isinstance(latency, Latency)
    assert (latency.median_ms, latency.iqr_ms, latency.samples) == (2.0, 0.0, 20)
    assert latency.rounds_ms == ((2.0,) * 5,) * 4
    assert latency.disturbed_ms == (30.0,) * 4
    assert (latency.cold_ms, latency.prepare_ms, latency.steady) == (9.0, 12.0, True)
    assert (latency.isolated, latency.unstable, latency.note) == (True, False, "")
    assert latency.memory == Memory(peak_rss_bytes=7)
    assert latency.energy_j == 4.0 / 8
    assert latency.among == 1


def test_a_network_that_cannot_begin_does_not_stop_the_others(stage):
    stage.broken = lambda kind, name, setting: "too large" if (kind, name) == ("begin", "b") else None
    found = measure(SUBJECTS, [Setting()], SAMPLING)
    assert found[1] == {Setting(): "too large"}
    assert all(isinstance(found[number][Setting()], Latency) for number in (0, 2, 3, 4))
    assert ("b", 1) not in stage.of("turn")
    assert stage.alive == 0


def test_a_network_that_dies_on_the_way_has_no_figure(stage):
    turns = []

    def third_turn(kind, name, setting):
        turns.append((kind, name))
        return "it died" if (kind, name) == ("turn", "c") and turns.count(("turn", "c")) == 3 else None

    stage.broken = third_turn
    found = measure(SUBJECTS, [Setting()], SAMPLING)
    assert found[2] == {Setting(): "it died"}
    assert stage.of("turn").count(("c", 1)) == 3
    assert stage.of("turn").count(("a", 1)) == 5


def test_a_failed_conversion_concerns_all_that_share_it(stage):
    stage.broken = lambda kind, name, setting: "no such operator" if (kind, name) == ("convert", "a") else None
    settings = [Setting(batch_size=1), Setting(batch_size=8), Setting(precision="bf16")]
    found = measure(SUBJECTS[:2], settings, SAMPLING)
    assert stage.of("convert") == [("a", 1), ("b", 1), ("a", 1), ("b", 1)]  # fp32 once, bf16 once
    assert set(found[0].values()) == {"no such operator"}
    assert all(isinstance(outcome, Latency) for outcome in found[1].values())
    assert all(name == "b" for name, _ in stage.of("begin"))


def test_a_column_stays_together_where_memory_is_short(stage, monkeypatch):
    monkeypatch.setattr(session, "_MOST_AT_ONCE", 5)
    found = measure(SUBJECTS, [Setting(), Setting(batch_size=8)], SAMPLING)
    assert stage.peak == 5
    batches = [batch for _, batch in stage.of("turn")]
    assert batches == [1] * 25 + [8] * 25
    assert {latency.among for outcomes in found for latency in outcomes.values()} == {5}


def test_columns_share_the_memory_where_they_fit_whole(stage, monkeypatch):
    monkeypatch.setattr(session, "_MOST_AT_ONCE", 7)
    measure(SUBJECTS[:3], [Setting(), Setting(batch_size=8), Setting(batch_size=32)], SAMPLING)
    begins = [event[2] for event in stage.events if event[0] in ("begin", "kill")]
    assert begins == [1] * 3 + [8] * 3 + [1] * 3 + [8] * 3 + [32] * 6  # the third column would not have fitted whole


def test_a_column_that_is_too_large_says_among_how_many_it_was_timed(stage, monkeypatch):
    monkeypatch.setattr(session, "_MOST_AT_ONCE", 3)
    found = measure(SUBJECTS, [Setting()], SAMPLING)
    assert stage.peak == 3
    assert sorted(outcomes[Setting()].among for outcomes in found) == [2, 2, 3, 3, 3]


def test_an_interrupt_leaves_no_process(stage):
    stage.broken = lambda kind, name, setting: KeyboardInterrupt() if (kind, name) == ("turn", "d") else None
    with pytest.raises(KeyboardInterrupt):
        measure(SUBJECTS, [Setting()], SAMPLING)
    assert stage.alive == 0


def test_a_training_that_began_meanwhile_is_said(stage, monkeypatch):
    class Trainer:
        what = "mixed-small"

    monkeypatch.setattr(session, "trainers", lambda: [Trainer()])
    (found,) = measure(SUBJECTS[:1], [Setting()], SAMPLING)
    assert found[Setting()].unstable
    assert "mixed-small" in found[Setting()].note


def test_it_does_not_begin_beside_a_training(stage, monkeypatch):
    @contextmanager
    def refused():
        raise ProfileError("another kdbench trains")
        yield

    monkeypatch.setattr(session, "timing", refused)
    with pytest.raises(ProfileError, match="another kdbench trains"):
        measure(SUBJECTS, [Setting()], SAMPLING)
    assert stage.events == []


@pytest.mark.parametrize(
    ("setting", "error"),
    [(Setting("no such"), UnknownName), (Setting("cudagraph"), RuntimeUnavailable)],
    ids=["unknown", "wrong device"],
)
def test_wrong_settings_are_said_before_anything_is_done(stage, setting, error):
    with pytest.raises(error):
        measure(SUBJECTS, [Setting(), setting], SAMPLING)
    assert stage.events == []


def test_progress_goes_to_the_end(stage):
    told = []
    measure(SUBJECTS[:2], [Setting()], SAMPLING, progress=lambda what, done, total: told.append((done, total)))
    done = [entry for entry in told if entry[1] == 10]
    assert [entry[0] for entry in done] == list(range(10))


@pytest.mark.parametrize(("samples", "rounds", "each"), [(100, 5, 20), (101, 5, 21), (5, 5, 2), (20, 1, 20), (2, 1, 5)])
def test_samples_are_shared_out(samples, rounds, each):
    assert Sampling(rounds=rounds, samples=samples).turn.samples == each


def test_all_rounds_together_give_a_figure_however_slow_the_network():
    assert Sampling(rounds=1).turn.min_samples == 5
    assert Sampling(rounds=20).turn.min_samples == 2


def test_no_rounds():
    with pytest.raises(ConfigError, match="1 or more"):
        Sampling(rounds=0)


def test_without_an_energy_counter_there_is_no_turn_for_it(stage, monkeypatch):
    original = session.Child.answer
    monkeypatch.setattr(session.Child, "answer", lambda self: (told := original(self)) and replace(told, metered=False))
    (found,) = measure(SUBJECTS[:1], [Setting()], SAMPLING)
    assert found[Setting()].energy_j is None
    assert len(stage.of("turn")) == 4


def test_a_slow_network_sits_out_rounds(stage, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(session, "_clock", lambda: now[0])
    original = session.Child.ask

    def ask(child, turn):
        now[0] += 2.0 if child.subject.name == "b" else 0.1
        return original(child, turn)

    monkeypatch.setattr(session.Child, "ask", ask)
    told = []
    monkeypatch.setattr(session, "_burst", lambda child: None)
    sampling = replace(SAMPLING, rounds=12, samples=60)
    measure(SUBJECTS[:3], [Setting()], sampling, progress=lambda what, done, total: told.append((done, total)))
    turns = [name for name, _ in stage.of("turn")]
    assert (turns.count("a"), turns.count("b"), turns.count("c")) == (
        12,
        3,
        12,
    )  # five rounds fit into a turn of two seconds
    assert max(done for done, total in told if total == 39) == 38
