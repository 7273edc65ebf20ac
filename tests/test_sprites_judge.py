"""The judge of sprites: what it learns, what it reads, and what its folder says."""

import math

import pytest
import torch
from made_up_sprites import MadeUpSprites

from autoencoder.common.errors import MissingFileError, UserError
from autoencoder.metrics.sprites_judge import Readings, SpritesJudge, load_judge, save_judge
from autoencoder.metrics.sprites_scores import (
    conditional_entropy,
    inception_score,
    marginal_entropy,
    score,
)
from benchmarks.sprites_judge import JudgeConfig
from benchmarks.work.sprites_judge import degrade, judge_loss, measure_judge, split_fingerprint, train_judge

CPU = torch.device("cpu")


def config(**changes) -> JudgeConfig:
    values = {"data_root": "nowhere", "out": "nowhere", "batch_size": 12, "width": 8}
    return JudgeConfig(**values | changes)


def test_entropies_and_the_inception_score_against_values_by_hand():
    sure = torch.eye(9)[torch.arange(18) % 9]  # each class twice, without doubt
    assert conditional_entropy(sure) == 0.0
    assert marginal_entropy(sure) == pytest.approx(math.log(9), abs=1e-12)
    assert inception_score(sure) == pytest.approx(9.0, abs=1e-12)
    at_a_loss = torch.full((5, 9), 1 / 9, dtype=torch.float64)
    assert conditional_entropy(at_a_loss) == pytest.approx(math.log(9), abs=1e-12)
    assert inception_score(at_a_loss) == pytest.approx(1.0, abs=1e-12)
    one_class = torch.eye(9)[torch.zeros(4, dtype=torch.long)]
    assert (marginal_entropy(one_class), inception_score(one_class)) == (0.0, 1.0)
    # p(y) = (1/2, 1/2); KL of (3/4, 1/4) from it: 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812; exp: 1.139753
    pair = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert conditional_entropy(pair) == pytest.approx(0.562335, abs=1e-6)  # 3/4 ln 4/3 + 1/4 ln 4
    assert marginal_entropy(pair) == pytest.approx(math.log(2), abs=1e-7)
    assert inception_score(pair) == pytest.approx(1.139753, abs=1e-6)


def test_scores_count_what_was_asked_for_and_leave_out_what_was_not():
    action = torch.eye(9, dtype=torch.float64)[torch.tensor([0, 1, 2, 3])]
    attributes = torch.eye(6, dtype=torch.float64)[torch.tensor([[0, 1, 2, 3]]).repeat(4, 1)]  # (4, 4, 6)
    asked = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    scores = score(Readings(action, attributes), torch.tensor([0, 1, 2, 8]), asked)
    assert scores.action == 0.75 and scores.num_clips == 4
    assert scores.attributes == {"skin": 1.0, "trousers": 0.75, "top": 0.5, "hair": 0.25}
    assert scores.inception_score == pytest.approx(4.0)
    assert score(Readings(action, attributes), actions=torch.arange(4)).attributes is None
    assert score(Readings(action, attributes), attributes=asked).action is None


def test_the_loss_adds_the_cross_entropies_of_action_and_attributes():
    logits = Readings(torch.zeros(2, 9), torch.zeros(2, 4, 6))
    loss = judge_loss(logits, torch.tensor([0, 5]), torch.zeros(2, 4, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(9) + 4 * math.log(6))


def test_the_judge_learns_a_tiny_problem_and_judges_characters_it_never_saw():
    train, test = MadeUpSprites(24), MadeUpSprites(8, first=24)
    judge = train_judge(train, config(epochs=5, width=12), CPU)
    seen, unseen, untrained = (
        measure_judge(*pair) for pair in ((judge, train), (judge, test), (SpritesJudge(width=12), test))
    )
    assert not judge.training and (seen.num_clips, unseen.num_clips) == (216, 72)
    assert min(seen.action, *seen.attributes.values()) > 0.9, seen
    assert unseen.action > 0.9 and sum(unseen.attributes.values()) / 4 > 0.5, "chance is 0.17"
    assert untrained.action < 0.5 and untrained.inception_score < 1.5 < unseen.inception_score


def test_degraded_clips_are_blurred_and_noisy_to_some_degree():
    video = torch.zeros(2, 3, 8, 64, 64)
    video[..., 32:] = 1.0  # an edge
    generator = torch.Generator().manual_seed(0)
    edges = []
    for _ in range(20):
        changed = degrade(video, generator)
        assert changed.shape == (2, 3, 8, 32, 32) and abs(changed.mean() - 0.5) < 0.01
        edges.append((changed[..., 16] - changed[..., 15]).mean().item())
    assert max(edges) > 0.9 and min(edges) < 0.4, "from hardly any blur to a strong one"
    again = degrade(video, torch.Generator().manual_seed(0))
    assert torch.equal(again, degrade(video, torch.Generator().manual_seed(0)))


def test_the_seed_decides_weights_and_order():
    sprites = MadeUpSprites(1)
    first, again, other = (train_judge(sprites, config(epochs=1, seed=seed), CPU).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["action.weight"], other["action.weight"])


def test_frames_are_averaged_down_and_small_ones_refused():
    judge = SpritesJudge(width=4).eval()
    small = torch.stack([MadeUpSprites(1).clip(index, None) for index in range(3)])
    large = torch.stack([MadeUpSprites(1, size=64).clip(index, None) for index in range(3)])
    for values, others in zip(judge.read(small), judge.read(large), strict=True):
        assert torch.allclose(values, others, atol=1e-6)
        assert torch.allclose(values.sum(-1), torch.ones(values.shape[:-1], dtype=torch.float64))
    with pytest.raises(UserError, match="frames of 32 x 32 or more, got 16 x 16"):
        judge.read(small[:, :, ::2, ::2])


def test_order_in_time_counts():
    judge = SpritesJudge(width=4).eval()
    clip = MadeUpSprites(1).clip(3, None)[None]
    assert not torch.allclose(judge.read(clip).action, judge.read(clip.flip(1)).action, atol=1e-6)


def test_a_judge_comes_back_as_it_was_saved(tmp_path):
    judge = SpritesJudge(width=4).eval()
    judge.frames[0][1].running_mean.uniform_()  # state that is no parameter
    save_judge(judge, tmp_path / "judge", {"test_clips": "abc"})
    loaded, record = load_judge(tmp_path / "judge", "cpu")
    clips = torch.stack([MadeUpSprites(1).clip(index, None) for index in range(2)])
    assert torch.equal(loaded.read(clips).action, judge.read(clips).action) and record == {"test_clips": "abc"}
    with pytest.raises(MissingFileError, match=r"holds no judge of sprites, for there is no judge.json"):
        load_judge(tmp_path)


def test_the_fingerprint_tells_clips_and_labels_apart():
    sprites = MadeUpSprites(2)
    own = split_fingerprint(sprites)
    assert own == split_fingerprint(MadeUpSprites(2)) and len(own) == 64
    assert own != split_fingerprint(MadeUpSprites(2, first=2))
    sprites.label = lambda index: (index + 1) % 9
    assert own != split_fingerprint(sprites)


@pytest.mark.parametrize("flag, value", [("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0)])
def test_settings_that_cannot_be_are_refused(flag, value):
    with pytest.raises(UserError, match=flag):
        config(**{flag: value})
