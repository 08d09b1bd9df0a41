"""One call, timed: on a clock that only moves when told to, and on a made-up GPU that keeps a diary."""

from types import SimpleNamespace

import pytest
import torch

from kdbench.profiling.timers import CpuTimer, CudaTimer, preemptions, timer_for


class FakeCuda:
    """The event API of a device: the work takes ``work_ms`` on it, whatever the processor does meanwhile."""

    def __init__(self, work_ms=2.5):
        self.diary, self.work_ms = [], work_ms

    def current_stream(self, device):
        return f"stream of {device}"

    def synchronize(self, device):
        self.diary.append(f"synchronize {device}")

    def Event(self, **options):  # noqa: N802 - torch's name
        assert options == {"enable_timing": True}  # else elapsed_time raises
        name = "start" if self.diary.count("create start") == self.diary.count("create end") else "end"
        self.diary.append(f"create {name}")
        return SimpleNamespace(
            name=name,
            record=lambda stream: self.diary.append(f"record {name} on {stream}"),
            synchronize=lambda: self.diary.append(f"wait for {name}"),
            elapsed_time=lambda other: self.diary.append(f"{name} to {other.name}") or self.work_ms,
        )

    def run(self):
        self.diary.append("run")


ONE_CALL = [
    "create start", "create end", "synchronize cuda:1", "record start on stream of cuda:1", "run",
    "record end on stream of cuda:1", "wait for end", "start to end",
]  # fmt: skip


def test_cpu_timer_takes_the_difference_of_the_clock():
    readings = iter([5_000_000, 7_250_000])
    assert CpuTimer(lambda: next(readings))(lambda: None) == 2.25


def test_cpu_timer_calls_once():
    calls = []
    assert CpuTimer()(lambda: calls.append(0)) >= 0
    assert len(calls) == 1


def test_cuda_timer_asks_in_the_right_order():
    cuda = FakeCuda()
    assert CudaTimer(cuda, "cuda:1")(cuda.run) == 2.5
    assert cuda.diary == ONE_CALL


def test_cuda_timer_has_new_events_for_every_call():
    cuda = FakeCuda()
    timer = CudaTimer(cuda, "cuda:1")
    assert [timer(cuda.run), timer(cuda.run)] == [2.5, 2.5]
    assert cuda.diary == ONE_CALL * 2


def test_cuda_timer_is_of_torch_and_its_current_device():
    timer = timer_for("cuda")
    assert isinstance(timer, CudaTimer)
    assert (timer.cuda, timer.device) == (torch.cuda, None)


def test_cpu_is_timed_by_the_clock():
    assert isinstance(timer_for("cpu"), CpuTimer)


@pytest.mark.gpu
def test_cuda_timer_waits_for_the_work():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    timer = timer_for("cuda")
    factor = torch.randn(4096, 4096, device="cuda")

    def run(times):
        for _ in range(times):
            factor @ factor

    timer(lambda: run(5))
    once = min(timer(lambda: run(2)) for _ in range(5))
    often = min(timer(lambda: run(20)) for _ in range(5))
    # the calls return at once, their work does not: ten times the work takes about ten times as long
    assert often == pytest.approx(10 * once, rel=0.5)
    assert CpuTimer()(lambda: run(20)) < often


def test_preemptions_only_grow():
    counts = [preemptions() for _ in range(50)]
    assert counts == sorted(counts)
    assert counts[0] >= 0
