"""The ablations: shapes, rates, gradients, and what the comparison calls a tie."""

import pytest
import torch
from test_latent_cache import MODEL

from autoencoder import AutoencoderVidTwin
from autoencoder.ablations import SpaceInHidden, TemporalConvolution
from autoencoder.structure import QFormer
from autoencoder.train import parse
from benchmarks.ablations import PAPER, main
from benchmarks.comparison import summarize
from benchmarks.work.ablations import channels_of_one_latent, table

TINY = MODEL | {"dynamics_channels": 4, "dynamics_downsamples": 1, "qformer_dropout": 0.0}
ABLATIONS = {
    "one_latent": {"dynamics_channels": 0, "structure_channels": 13},
    "dynamics_qformer": {"dynamics_reader": "qformer"},
    "convolution": {"structure_reader": "convolution"},
    "space_in_hidden": {"structure_reader": "space_in_hidden"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_parameter_learns_and_every_latent_is_read(name):
    torch.manual_seed(0)
    vae = AutoencoderVidTwin(**TINY | ABLATIONS[name])
    torch.nn.init.xavier_uniform_(vae.decoder.proj_out.weight)  # it starts at zero and would hide what is behind it
    video = torch.rand(2, *vae.video_shape) * 2 - 1
    latents = vae.encode(video).latent_dist.mode()
    assert latents.structure.shape[1:] == vae.structure_shape and latents.dynamics.shape[1:] == vae.dynamics_shape
    reconstruction, posterior = vae(video, sample_posterior=True)
    (reconstruction.abs().mean() + posterior.kl().mean()).backward()
    assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []
    for part in vae.parts[1:]:
        assert not torch.equal(vae.decode(latents, part).sample, vae.decode(latents.map(lambda z: z + 1), part).sample)


def test_one_latent_has_no_dynamics(tmp_path):
    vae = AutoencoderVidTwin(**TINY | ABLATIONS["one_latent"])
    latents = vae.encode(torch.zeros(1, *vae.video_shape)).latent_dist.mode()
    assert vae.parts == ("both", "structure") and latents.dynamics.numel() == 0
    assert torch.equal(vae.decode(latents).sample, vae.decode(latents, "structure").sample)
    with pytest.raises(ValueError, match="no dynamics latent"):
        vae.decode(latents, "dynamics")
    vae.save_pretrained(tmp_path)
    assert AutoencoderVidTwin.from_pretrained(tmp_path).num_latent_scalars == vae.num_latent_scalars
    latents.save(tmp_path / "latents.safetensors")


@pytest.mark.parametrize(
    "size, name, rate",
    [
        ("base", "one_latent", 0.228),  # 7 x 784 numbers: 4928 of the full model are 6.3 x 784
        ("base", "dynamics_qformer", 0.205),
        ("base", "convolution", 0.205),
        ("base", "space_in_hidden", 0.205),
    ],
)
def test_rates_of_the_presets(size, name, rate):
    with torch.device("meta"):
        full = parse(["--config", size])[1]
        ablated = parse(["--config", size, "--config", name])[1]
    assert round(100 * ablated.compression_rate, 3) == rate
    if name == "one_latent":
        assert ablated.config.structure_channels == channels_of_one_latent(full)


def test_a_convolution_sees_its_own_place_only():
    torch.manual_seed(0)
    reader = TemporalConvolution(num_frames=8, num_queries=3, context_dim=6, dim=5)
    features = torch.randn(2, 8, 4, 6)
    before = reader.read_places(features)
    features[1, :, 2] += 1
    changed = (reader.read_places(features) != before).flatten(1).any(dim=1)
    assert before.shape == (8, 3, 5) and changed.tolist() == [False] * 6 + [True, False]


def test_space_in_hidden_mixes_the_places_of_a_clip_and_no_others():
    torch.manual_seed(0)
    qformer = QFormer(3, 8, 4 * 8, num_layers=1, num_heads=2, hidden_dim=8, dropout=0.0, initializer_range=0.5)
    reader = SpaceInHidden(qformer, num_places=4, context_dim=6)
    features = torch.randn(2, 8, 4, 6)
    before = reader.read_places(features)
    features[1, :, 2] += 1
    changed = (reader.read_places(features) != before).flatten(1).any(dim=1)
    assert before.shape == (8, 3, 8) and changed.tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("option", ["structure_reader", "dynamics_reader"])
def test_unknown_readers(option):
    with pytest.raises(ValueError, match=f"{option} must be one of .*, got 'lstm'"):
        AutoencoderVidTwin(**TINY | {option: "lstm"})


def test_differences_inside_the_spread_are_ties():
    def results(*values):
        return [{"rate": 1.0, "psnr": value, "ssim": 0.5} for value in values]

    rows = summarize(
        {
            "full": results(20.0, 21.0, 22.0),
            "one_latent": results(19.0, 20.0, 21.0),
            "convolution": results(18.0, 18.1, 18.2),
            "space_in_hidden": results(30.0),
        },
        decisive="psnr",
    )
    assert [row.get("verdict") for row in rows] == [None, "tie", "worse", "not measured: one seed"]
    assert (rows[0]["psnr"], rows[0]["psnr_std"], rows[2]["difference"]) == pytest.approx((21.0, 1.0, -2.9))
    assert all(f"{PAPER[row['variant']][0]:.2f}" in table(rows) for row in rows)
    assert "21.00 ± 1.00" in table(rows)


def test_the_command_trains_and_compares(tmp_path, capfd):
    main(["--max-steps", "2", "--seeds", "1", "--variants", "full,one_latent", "--output-dir", str(tmp_path)])
    out = capfd.readouterr().out
    assert "one_latent" in out.split("to first")[1] and (tmp_path / "ablations.json").is_file()
    with pytest.raises(ValueError, match="variants must be of .*, got lstm"):
        main(["--variants", "full,lstm"])
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        main(["--seeds", "0"])
