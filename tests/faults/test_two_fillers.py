"""Two processes that want the same teacher outputs at once: each gets them whole, and they are computed once."""

import json
import subprocess
import sys
import textwrap

FILLER = textwrap.dedent(
    """
    import hashlib, json, sys
    from pathlib import Path

    import torch

    from kdbench.data.dataset import open_dataset
    from kdbench.data.views import Views
    from kdbench.engine.teacher import CachedTeacher, TeacherNetwork
    from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
    from kdbench.types import DatasetSpec, ModelChoice, ViewSpec

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    data = open_dataset(DatasetSpec(name="synthetic", image_size=32, options={"count": 100}), folder, folder)
    torch.manual_seed(0)
    model = build(ModelChoice(name="resnet8_w16"), 5, 32)
    network = TeacherNetwork(model, "teacher", data, Views(ViewSpec(), IMAGENET_MEAN, IMAGENET_STD))
    filled = []
    original = CachedTeacher._fill
    CachedTeacher._fill = lambda self, number, missing: (filled.append(number), original(self, number, missing))
    (folder / f"ready-{sys.argv[2]}").touch()
    while len(list(folder.glob("ready-*"))) < 2:  # both are at the start line
        pass
    teacher = CachedTeacher(network, ("logits", "stages"), folder, passes=4)
    digest = hashlib.sha256()
    for epoch in range(4):
        teacher.begin(epoch)
        for array in teacher._arrays.values():
            digest.update(array.tobytes())
    print(json.dumps([filled, digest.hexdigest()]))
    """
)


def test_two_processes_fill_one_cache(tmp_path):
    fillers = [
        subprocess.Popen(
            [sys.executable, "-c", FILLER, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = []
    for filler in fillers:
        out, err = filler.communicate(timeout=240)
        assert filler.returncode == 0, err
        said.append(json.loads(out))
    (first, ours), (second, theirs) = said
    assert ours == theirs
    assert sorted(first + second) == [0, 1, 2, 3]  # each pass by one of them alone
    assert not list(tmp_path.rglob(".partial*"))
