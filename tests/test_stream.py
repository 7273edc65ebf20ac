"""Which clip comes when, and what happens to bad files."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from autoencoder.data import UnreadableVideo
from autoencoder.data.shapes import Shapes
from autoencoder.data.stream import FileReport, HeldOutClips, PositionSampler, TrainingClips, collate


class Files:
    """A data set of clips in which every pixel is the file's number; some files are bad."""

    class_names = ("even", "odd")
    flip_invariant = True

    def __init__(self, count: int = 20, bad: tuple[int, ...] = (), is_ramp: bool = False):
        self.count, self.bad, self.is_ramp = count, bad, is_ramp

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> int:
        return index % 2

    def source(self, index: int) -> str:
        return f"file-{index}.mp4"

    def clip(self, index: int, rng: np.random.Generator | None = None) -> torch.Tensor:
        if index in self.bad:
            raise UnreadableVideo(f"{self.source(index)}: damaged")
        clip = torch.full((2, 4, 4, 3), index, dtype=torch.uint8)
        clip[0, 0, 0, 0] = 0 if rng is None else int(rng.integers(1, 256))
        return clip + torch.arange(4, dtype=torch.uint8)[:, None] if self.is_ramp else clip


def batches(sampler: PositionSampler, count: int) -> list[list[tuple[int, int]]]:
    return list(islice(sampler, count))


def test_an_epoch_repeats_nothing():
    places = [place for batch in batches(PositionSampler(12, 4, seed=0), 9) for place in batch]
    assert [position for position, _ in places] == list(range(36))
    epochs = [[index for _, index in places[start : start + 12]] for start in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0], "each has its own order"


def test_epochs_need_not_be_whole_batches():
    places = [place for batch in batches(PositionSampler(5, 4, seed=0), 5) for place in batch]
    for start in range(0, 20, 5):
        assert sorted(index for _, index in places[start : start + 5]) == list(range(5))


@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_later_start_goes_on_exactly(start):
    whole = batches(PositionSampler(10, 4, seed=3), 12)
    assert batches(PositionSampler(10, 4, seed=3, start_step=start), 12 - start) == whole[start:]
    assert batches(PositionSampler(10, 4, seed=4), 12) != whole


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_every_batch(world_size):
    whole = batches(PositionSampler(10, 6, seed=0), 5)
    ranks = [batches(PositionSampler(10, 6, 0, rank=rank, world_size=world_size), 5) for rank in range(world_size)]
    assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize("num_items, batch_size, world_size", [(0, 4, 1), (10, 4, 3)])
def test_what_cannot_be_split_is_refused(num_items, batch_size, world_size):
    with pytest.raises(ValueError, match=f"batches of {batch_size} from {num_items} items over {world_size}"):
        PositionSampler(num_items, batch_size, 0, world_size=world_size)


def first_batches(clips: TrainingClips, num_workers: int, count: int = 4, start_step: int = 0) -> list[dict]:
    sampler = PositionSampler(len(clips), 4, clips.seed, start_step=start_step)
    context = "fork" if num_workers else None
    loader = DataLoader(
        clips, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate, multiprocessing_context=context
    )
    return list(islice(loader, count))


def assert_same(one: list[dict], other: list[dict]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left["tried"] == right["tried"] and left["unreadable"] == right["unreadable"]
        for key in ("video", "label", "position"):
            assert torch.equal(left["sample"][key], right["sample"][key]), key


@pytest.mark.parametrize("clips", [Shapes(), Files(6, bad=(1, 4))], ids=["shapes", "bad files"])
def test_clips_do_not_depend_on_workers_or_restarts(clips):
    clips = TrainingClips(clips, seed=5)
    whole = first_batches(clips, num_workers=0)
    assert whole[0]["sample"]["position"].tolist() == [0, 1, 2, 3]
    assert_same(first_batches(clips, num_workers=2), whole)
    assert_same(first_batches(clips, num_workers=0, count=2, start_step=2), whole[2:])


def test_draws_are_a_function_of_seed_and_position():
    def drawn(seed: int, position: int) -> int:
        return int(TrainingClips(Files(), seed)[position, 7]["sample"]["video"][0, 0, 0, 0])

    assert drawn(0, 3) == drawn(0, 3)
    assert len({drawn(0, position) for position in range(20)}) > 10
    assert len({drawn(seed, 3) for seed in range(20)}) > 10


def test_the_stand_in_is_a_function_of_seed_and_file():
    def stand_in(seed: int, index: int, position: int) -> int:
        item = TrainingClips(Files(20, bad=(2, 3, 4, 5)), seed)[position, index]
        assert item["unreadable"][index] == f"file-{index}.mp4: damaged"
        assert item["tried"][0] == index and item["tried"][-1] not in item["unreadable"]
        shown = int(item["sample"]["video"][1, 0, 0, 0])
        assert shown == item["tried"][-1] and item["sample"]["label"] == shown % 2
        return shown

    assert len({stand_in(0, 2, position) for position in range(10)}) == 1
    assert len({stand_in(0, index, 0) for index in (2, 3, 4, 5)}) > 1
    assert len({stand_in(seed, 2, 0) for seed in range(10)}) > 1


def test_nothing_readable_is_an_error():
    with pytest.raises(UnreadableVideo, match=r"21 files in a row.*file-\d\.mp4: damaged"):
        TrainingClips(Files(3, bad=(0, 1, 2)), 0)[0, 0]


def test_flips_only_where_the_labels_allow_it():
    with pytest.raises(ValueError, match="Shapes does not declare its labels flip-invariant"):
        TrainingClips(Shapes(), 0, flip=True)
    plain, flipping = (TrainingClips(Files(is_ramp=True), 0, flip=flip) for flip in (False, True))
    flipped = 0
    for position in range(60):
        given, made = (clips[position, 7]["sample"]["video"] for clips in (plain, flipping))
        is_flipped = not torch.equal(given, made)
        assert not is_flipped or torch.equal(given.flip(2), made)
        flipped += is_flipped
    assert 15 <= flipped <= 45


def test_held_out_clips():
    clips = HeldOutClips(Files(bad=(9,)), [3, 9, 5])
    assert len(clips) == 3
    assert int(clips[0]["sample"]["video"][0, 0, 0, 0]) == 0, "nothing is drawn"
    assert clips[1] == {"sample": None, "tried": [9], "unreadable": {9: "file-9.mp4: damaged"}}
    batch = collate([clips[place] for place in range(3)])
    assert batch["sample"]["video"].shape == (2, 2, 4, 4, 3)
    assert batch["sample"]["label"].tolist() == [1, 1] and batch["sample"]["position"].tolist() == [0, 2]
    assert batch["tried"] == [3, 9, 5] and list(batch["unreadable"]) == [9]
    assert collate([clips[1]])["sample"] is None


def report_of(tried: list[int], bad: list[int]) -> dict:
    return {"tried": tried, "unreadable": {index: f"file-{index}.mp4: damaged" for index in bad}}


def test_a_bad_file_is_reported_once():
    report = FileReport(100, max_bad_share=0.5)
    assert report.update(report_of([1, 2, 3], [2])) == ["file-2.mp4: damaged"]
    assert report.update(report_of([2, 4, 5], [2, 5])) == ["file-5.mp4: damaged"]
    assert report.update(report_of([2, 5], [2, 5])) == []
    assert int(report.tried.sum()) == 5 and sorted(report.reasons) == [2, 5]
    assert report.synchronize() == [], "one process has nobody to ask"


def test_too_many_bad_files_stop_the_run():
    report = FileReport(100, max_bad_share=0.1)
    report.update(report_of(list(range(19)), list(range(10))))
    report.check()  # too early to judge
    report = FileReport(100, max_bad_share=0.1)
    report.update(report_of(list(range(20)), [3, 7]))
    report.check()
    report.update(report_of([3, 7, 50], [3, 7, 50]))
    with pytest.raises(UnreadableVideo, match=r"3 of the 21 files.*max_bad_share=0\.1: file-3\.mp4: damaged; file-7"):
        report.check()


def test_few_files_are_judged_when_all_were_tried():
    report = FileReport(3, max_bad_share=0.1)
    report.update(report_of([0, 1], [1]))
    report.check()
    report.update(report_of([2], []))
    with pytest.raises(UnreadableVideo, match="1 of the 3"):
        report.check()


def test_processes_join_their_counts(monkeypatch):
    report, other = FileReport(100, 0.5), FileReport(100, 0.5)
    report.update(report_of([1, 2], [2]))
    other.update(report_of([2, 3], [2, 3]))

    def gather(world, own):
        world[:] = [own, (other.tried, other.reasons)]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert report.synchronize() == ["file-3.mp4: damaged"], "that of file 2 was known here"
    assert report.tried.nonzero().flatten().tolist() == [1, 2, 3] and sorted(report.reasons) == [2, 3]
    assert report.synchronize() == []
