"""The Frechet and the kernel distance against exact numbers, over processes, and against what may surround them."""

import copy
import json
import pickle
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from random_i3d import FIXTURES
from torch import distributed, nn

from autoencoder.metrics import I3D, FrechetVideoDistance, KernelVideoDistance
from autoencoder.metrics.distance import FeatureDistance

CLASSES = [FrechetVideoDistance, KernelVideoDistance]
PAIRS = ["a64x400__b80x400", "a64x400__c12x400", "a64x400__a64x400"]
SIZE = 6


class Extractor(nn.Module):
    """Six numbers per video, through layers that the mode, the dtype and autocast would change."""

    num_features = SIZE
    identity = {"name": "six numbers", "version": 1}

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(12, SIZE, bias=False)
        self.project.weight.data = torch.randn(SIZE, 12, generator=torch.Generator().manual_seed(0))
        self.norm, self.dropout = nn.BatchNorm1d(SIZE), nn.Dropout(0.5)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat([video.mean(dim=(3, 4)), video.amax(dim=(3, 4))], dim=1).flatten(1)  # (B, 6 T), T = 2
        return self.dropout(self.norm(self.project(pooled)))


def videos(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) ** (1 + seed)


def features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed


def filled(metric: FeatureDistance, real: int = 9, fake: int = 8) -> FeatureDistance:
    metric.update(videos(real, 1), real=True)
    metric.update(videos(fake, 2), real=False)
    return metric


def with_features(metric: FeatureDistance) -> FeatureDistance:
    metric.update_features(features(9, 1), real=True)
    metric.update_features(features(8, 2), real=False)
    return metric


def fixture(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / f"frechet_{name}.npz"))


def of_400(metric: FeatureDistance, stored: dict[str, np.ndarray]) -> float:
    for side, rows in ((True, stored["x"]), (False, stored["y"])):
        for part in torch.from_numpy(rows).split(25):
            metric.update_features(part, real=side)
    value = metric.compute()
    assert value.dtype == torch.float64 and value.ndim == 0
    return value.item()


def extractor_of_400(video: torch.Tensor) -> torch.Tensor:
    return video.flatten(1)[:, :400]


extractor_of_400.num_features = 400


@pytest.mark.filterwarnings("ignore:.*videos are few")
@pytest.mark.parametrize("name", PAIRS)
def test_exact_numbers(name):
    stored = fixture(name)
    scale = {"rel": 1e-9, "abs": 1e-9}
    frechet = of_400(FrechetVideoDistance(extractor_of_400), stored)
    assert frechet == pytest.approx(float(stored["fd_nuclear"]), **scale) and frechet >= 0
    by_n = of_400(FrechetVideoDistance(extractor_of_400, unbiased=False), stored)
    assert by_n == pytest.approx(float(stored["fd_nuclear_ddof0"]), **scale) and by_n >= 0
    assert frechet == pytest.approx(float(stored["fd_scipy"]), rel=5e-6, abs=1e-4)
    kernel = of_400(KernelVideoDistance(extractor_of_400), stored)
    assert kernel == pytest.approx(float(stored["kvd_unbiased"]), rel=1e-9)
    if name != PAIRS[2]:
        assert abs(frechet - by_n) > 1 and abs(frechet - stored["fd_tfgan_float32"]) > 1e-4, "the tolerances must tell"


@pytest.mark.parametrize("name", PAIRS)
def test_another_kernel_has_another_name(name):
    stored = fixture(name)
    jedi = KernelVideoDistance(extractor_of_400, degree=2, coef=0.0, unbiased=False)
    assert 100 * of_400(jedi, stored) == pytest.approx(float(stored["mmd_jedi"]), rel=1e-9, abs=1e-9)
    assert jedi.title == "kernel distance (extractor_of_400, degree=2, coef=0)"
    with pytest.raises(ValueError, match="degree=0, gamma=None, coef=1"):
        KernelVideoDistance(extractor_of_400, degree=0)


def test_the_kernel_is_summed_in_blocks(monkeypatch):
    stored = fixture(PAIRS[0])
    monkeypatch.setattr("autoencoder.metrics.kernel.ROWS_AT_A_TIME", 7)
    kernel = of_400(KernelVideoDistance(extractor_of_400), stored)
    assert kernel == pytest.approx(float(stored["kvd_unbiased"]), rel=1e-9)


@pytest.mark.filterwarnings("ignore:.*videos are few")
@pytest.mark.parametrize("cls", CLASSES)
def test_videos_features_and_batches_of_any_size_agree(cls):
    whole = filled(cls(Extractor())).compute().item()
    added = 0
    parts, cached = cls(Extractor()), cls(Extractor())
    for batch, real in ((videos(9, 1), True), (videos(8, 2), False)):
        for part in batch.split(4):
            assert parts(part, real=real) is None, "forward is update"
            cached.update_features(cached.extract(part), real=real)
            added += 1
        cached.update_features(torch.empty(0, SIZE), real=real)
        assert parts.update_count == added
    assert parts.compute().item() == pytest.approx(whole, rel=1e-5)  # the extractor rounds by the size of its batch
    assert cached.compute().item() == parts.compute().item() > 0
    cached.update_features(features(3), real=False)
    assert cached.compute().item() != parts.compute().item(), "a result that was kept must not hide later videos"


@pytest.mark.parametrize("cls", CLASSES)
def test_whole_levels_are_read_as_their_share_of_255(cls):
    levels = (255 * videos(3)).round().to(torch.uint8)
    metric = cls(Extractor())
    assert torch.equal(metric.extract(levels), metric.extract(levels.float() / 255))
    assert torch.equal(metric.extract(levels), Extractor().eval()(levels.float() / 255))


@pytest.mark.filterwarnings("ignore:.*videos are few")
@pytest.mark.parametrize("cls", CLASSES)
def test_nothing_around_it_changes_it(cls):
    expected = filled(cls(Extractor())).compute()
    changes = [
        lambda metric: metric.train(),
        lambda metric: metric.half(),
        lambda metric: metric.to(torch.float16),
        lambda metric: metric.set_dtype(torch.float16),
        lambda metric: metric.bfloat16(),
        lambda metric: metric._extractor[0].train() and metric,
    ]
    for change in changes:
        before = change(cls(extractor := Extractor()))
        after = change(filled(cls(Extractor())))
        after.update_features(torch.empty(0, SIZE), real=True)  # forgets what was computed
        for metric in (filled(before), after):
            assert torch.equal(metric.compute(), expected)
        assert {parameter.dtype for parameter in extractor.parameters()} == {torch.float32}
        assert not extractor.training and not extractor.norm.weight.requires_grad
        assert extractor.norm.num_batches_tracked == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(filled(cls(Extractor())).compute(), expected)
    metric = cls(Extractor())
    with torch.inference_mode():
        metric.reset()
        metric.update(videos(9, 1), real=True)
    metric.update(videos(8, 2), real=False)
    assert torch.equal(metric.compute(), expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_it_moves_with_its_extractor(cls):
    metric = cls(extractor := Extractor()).to("meta")
    assert extractor.project.weight.device.type == metric.device.type == "meta"


@pytest.mark.filterwarnings("ignore:.*videos are few")
@pytest.mark.parametrize("cls", CLASSES)
def test_a_lightning_module_does_not_hold_the_extractor(cls):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.metric = cls(Extractor())

    module = Module().train()
    assert list(module.state_dict()) == ["layer.weight", "layer.bias"]
    assert len(list(module.parameters())) == 2 and not module.metric._extractor[0].training
    assert filled(module.metric).compute() == filled(cls(Extractor())).compute()


@pytest.mark.filterwarnings("ignore:.*videos are few")
@pytest.mark.parametrize("cls", CLASSES)
def test_reset_forgets_the_real_videos_only_if_it_should(cls):
    expected = filled(cls(Extractor())).compute()
    metric = filled(cls(Extractor(), reset_real_features=False), fake=5)
    metric.reset()
    with pytest.warns(UserWarning, match="before the"), pytest.raises(ValueError, match="got 9 real and 0 fake"):
        metric.compute()
    metric.update(videos(8, 2), real=False)
    assert torch.equal(metric.compute(), expected)
    forgetful = filled(cls(Extractor()))
    forgetful.reset()
    forgetful.update(videos(8, 2), real=False)
    with pytest.raises(ValueError, match="got 0 real and 8 fake"):
        forgetful.compute()


@pytest.mark.filterwarnings("ignore:.*videos are few")
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "make_copy", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric)), lambda metric: metric.clone()]
)
def test_copies_go_on_by_themselves(cls, make_copy):
    original = filled(cls(Extractor()), fake=5)
    copied = make_copy(original)
    for metric in (copied, original):
        assert metric.compute() == filled(cls(Extractor()), fake=5).compute()
        metric.update(videos(3, 3), real=False)
    assert copied.compute() == original.compute() != filled(cls(Extractor()), fake=5).compute()
    assert copied._extractor[0] is not original._extractor[0]


def test_names():
    known = I3D(nn.Identity(), {"name": "I3D", "sha256": "0", "known": True})
    unknown = I3D(nn.Identity(), {"name": "I3D with unknown weights 01", "sha256": "01", "known": False})
    assert FrechetVideoDistance(known).title == "FVD, I3D" and KernelVideoDistance(known).title == "KVD, I3D"
    assert FrechetVideoDistance(unknown).title == "Frechet distance (I3D with unknown weights 01)"
    assert KernelVideoDistance(unknown).title == "kernel distance (I3D with unknown weights 01)"
    assert FrechetVideoDistance(Extractor()).title == "Frechet distance (six numbers)"
    assert KernelVideoDistance(extractor_of_400).title == "kernel distance (extractor_of_400)"
    impostor = Extractor()
    impostor.identity = known.identity
    assert FrechetVideoDistance(impostor).title == "Frechet distance (I3D)", "only I3D itself gives FVD"


def test_few_videos():
    with pytest.raises(ValueError, match="at least 2 videos of each, got 1 real and 4 fake"):
        filled(FrechetVideoDistance(Extractor()), real=1, fake=4).compute()
    with pytest.warns(UserWarning, match="9 real and 4 fake videos are few for 6 features"):
        filled(FrechetVideoDistance(Extractor()), real=9, fake=4).compute()


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "video, message",
    [
        (2 * videos(2) - 1, "must lie in .0, 1."),
        (255 * videos(2), "must lie in .0, 1."),
        (videos(2).long(), "must be float in .0, 1., got torch.int64"),
        (videos(2).transpose(1, 2), "must be .B, 3, T, H, W., got .2, 2, 3,"),
        (videos(2)[0], "must be .B, 3, T, H, W."),
    ],
)
def test_what_is_no_video(cls, video, message):
    with pytest.raises(ValueError, match=message):
        cls(Extractor()).update(video, real=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_are_no_features(cls):
    metric = cls(Extractor())
    for wrong, message in (
        (torch.zeros(2, 5), "must be float .B, 6., got torch.float32 .2, 5."),
        (torch.zeros(6), "must be float .B, 6."),
        (torch.zeros(2, 6, dtype=torch.int64), "must be float .B, 6., got torch.int64"),
        (torch.full((2, 6), torch.inf), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update_features(wrong, real=True)
    metric = cls(extractor_of_400)
    with pytest.raises(ValueError, match="must be float .B, 400., got torch.float32 .2, 96."):
        metric.update(videos(2), real=True)


@pytest.mark.filterwarnings("ignore:.*videos are few")
def test_real_videos_as_a_file(tmp_path):
    protocol = {"frames": 16, "split": "train", "seeds": [0, 1]}
    expected = filled(FrechetVideoDistance(Extractor()))
    expected.save_real(tmp_path / "deep" / "real.npz", protocol)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["real.npz"]
    metric = FrechetVideoDistance(Extractor(), reset_real_features=False)
    metric.update(videos(4, 4), real=True)  # to be replaced
    assert metric.load_real(tmp_path / "deep" / "real.npz") == protocol
    for _ in range(2):
        metric.update(videos(8, 2), real=False)
        assert torch.equal(metric.compute(), expected.compute())
        metric.reset()
    metric.save_real(tmp_path / "again.npz", protocol)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "deep" / "real.npz").read_bytes()
    with np.load(tmp_path / "again.npz", allow_pickle=False) as stored:
        assert stored["sum"].dtype == stored["outer"].dtype == np.float64 and stored["count"] == 9
        assert json.loads(str(stored["extractor"])) == Extractor.identity


def test_files_that_are_not_taken(tmp_path):
    filled(FrechetVideoDistance(Extractor())).save_real(path := tmp_path / "real.npz", {})
    other = Extractor()
    other.identity = {"name": "six numbers", "version": 2}
    with pytest.raises(ValueError, match="real.npz holds features of another extractor: .*'version': 1.*'version': 2"):
        FrechetVideoDistance(other).load_real(path)
    wide = Extractor()
    wide.num_features = 7
    with pytest.raises(ValueError, match="sum must be .7,., got .6,."):
        FrechetVideoDistance(wide).load_real(path)
    with pytest.raises(FileNotFoundError, match="no statistics of real videos at .*nothing.npz"):
        FrechetVideoDistance(Extractor()).load_real(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("no statistics")
    (tmp_path / "half.npz").write_bytes(path.read_bytes()[:300])
    np.savez(tmp_path / "other.npz", sum=np.zeros(6))
    np.savez(tmp_path / "pickled.npz", sum=np.array([{}]), outer=0, count=0, extractor="{}", protocol="{}")
    for name in ("text", "half", "other", "pickled"):
        with pytest.raises(ValueError, match=f"{name}.npz is no file of FrechetVideoDistance.save_real"):
            FrechetVideoDistance(Extractor()).load_real(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match="got 1 real"):
        filled(FrechetVideoDistance(Extractor()), real=1).save_real(tmp_path / "one.npz", {})
    assert not (tmp_path / "one.npz").exists()


def process(rank: int, folder: Path) -> None:
    """One of two processes; the results of different shares of the same videos, and of a file of real ones."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    real, fake = features(9, 1), features(8, 2)
    for cls in CLASSES:
        for name, first in (("uneven", 7), ("idle", 9)):  # how many of them process 0 has: all but two or one, or all
            metric = cls(Extractor())
            for rows, is_real in ((real, True), (fake, False)):
                for part in (rows[first:] if rank else rows[:first]).split(2):
                    if len(part):
                        metric.update_features(part, real=is_real)
            found[f"{cls.__name__} {name}"] = metric.compute().item()
        metric.update_features(fake[:1], real=False)
        found[f"{cls.__name__} and another of each"] = metric.compute().item()
    metric = FrechetVideoDistance(Extractor())
    metric.load_real(folder / "real.npz")
    metric.update_features(fake[7:] if rank else fake[:7], real=False)
    found["FrechetVideoDistance loaded"] = metric.compute().item()
    metric.reset()
    metric.update_features(real[7:] if rank else real[:7], real=True)
    metric.save_real(folder / f"saved-{rank}.npz", {})
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*videos are few")
def test_two_processes_equal_one(tmp_path):
    whole = with_features(FrechetVideoDistance(Extractor()))
    whole.save_real(tmp_path / "real.npz", {})
    other = torch.multiprocessing.get_context("spawn").Process(target=process, args=(1, tmp_path))
    other.start()
    process(0, tmp_path)
    other.join()
    found, others = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert found == others and len(found) == 7
    for cls in CLASSES:
        metric = with_features(cls(Extractor()))
        for name in ("uneven", "idle", "loaded"):
            if (key := f"{cls.__name__} {name}") in found:
                assert found[key] == pytest.approx(metric.compute().item(), rel=1e-9), key
        metric.update_features(features(8, 2)[[0, 0]], real=False)
        assert found[f"{cls.__name__} and another of each"] == pytest.approx(metric.compute().item(), rel=1e-9)
    assert not (tmp_path / "saved-1.npz").exists(), "process 0 alone writes"
    metric = FrechetVideoDistance(Extractor())
    metric.load_real(tmp_path / "saved-0.npz")
    metric.update_features(features(8, 2), real=False)
    assert metric.compute().item() == pytest.approx(whole.compute().item(), rel=1e-9)
