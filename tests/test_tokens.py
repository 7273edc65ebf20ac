"""Tokens: exact inverses, padding that carries nothing, axes that never mix."""

import pytest
import torch

from autoencoder import VidTwinLatents
from generator import TokenLayout

SHAPES = {"structure_shape": (3, 5, 3, 3), "dynamics_shape": (6, 5, 7), "dynamics_axes": (3, 4)}
PATCHES = [((1, 1, 1), (1, 1)), ((2, 2, 2), (2, 2)), ((5, 3, 3), (5, 4)), ((4, 1, 2), (3, 5))]


def make_latents(layout: TokenLayout, batch_size: int = 2) -> VidTwinLatents:
    generator = torch.Generator().manual_seed(0)
    structure = torch.randn(batch_size, *layout.structure_shape, generator=generator)
    return VidTwinLatents(structure, torch.randn(batch_size, *layout.dynamics_shape, generator=generator))


@pytest.fixture(params=PATCHES, ids=str)
def layout(request) -> TokenLayout:
    structure_patch_size, dynamics_patch_size = request.param
    return TokenLayout(**SHAPES, structure_patch_size=structure_patch_size, dynamics_patch_size=dynamics_patch_size)


def test_unpack_inverts_pack_whatever_padding_holds(layout):
    latents = make_latents(layout)
    tokens = layout.pack(latents)
    assert tokens.shape == (2, layout.num_tokens, layout.token_dim)
    for padding in (0.0, torch.nan):
        back = layout.unpack(tokens.masked_fill(~layout.mask, padding))
        assert torch.equal(back.structure, latents.structure)
        assert torch.equal(back.dynamics, latents.dynamics)


def test_pack_inverts_unpack_on_real_numbers(layout):
    tokens = torch.randn(2, layout.num_tokens, layout.token_dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layout.pack(layout.unpack(tokens)), torch.where(layout.mask, tokens, 0.0))


def test_mask_counts_every_number_once(layout):
    latents = make_latents(layout)
    assert layout.mask[: layout.num_structure_tokens].sum() == latents.structure[0].numel()
    assert layout.mask[layout.num_structure_tokens :].sum() == latents.dynamics[0].numel()
    assert layout.mask.any(dim=1).all()
    assert not layout.mask[: layout.num_structure_tokens, layout.structure_dim :].any()
    assert not layout.mask[layout.num_structure_tokens :, layout.dynamics_dim :].any()


def test_no_token_mixes_types_or_axes(layout):
    structure = torch.full((1, *layout.structure_shape), 1.0)
    dynamics = torch.full((1, *layout.dynamics_shape), 2.0)
    dynamics[..., layout.dynamics_axes[0] :] = 3.0
    tokens = layout.pack(VidTwinLatents(structure, dynamics))[0]
    expected = (layout.type_ids[:, None] + 1.0).expand_as(tokens)
    assert torch.equal(tokens[layout.mask], expected[layout.mask])


def test_positions_name_the_place_of_each_patch():
    layout = TokenLayout(**SHAPES)
    structure = torch.cartesian_prod(*(torch.arange(side) for side in SHAPES["structure_shape"][1:])).float()
    frames, places = torch.meshgrid(torch.arange(5.0), torch.cat([torch.arange(3.0), torch.arange(4.0)]), indexing="ij")
    axes = torch.cat([torch.zeros(5, 3), torch.ones(5, 4)], dim=1)
    coordinates = VidTwinLatents(
        structure.T.reshape(1, 3, 5, 3, 3), torch.cat([torch.stack([frames, axes, places])] * 2)[None]
    )
    assert torch.equal(layout.pack(coordinates)[0, :, :3], layout.positions.float())


def test_a_patch_holds_neighbours():
    layout = TokenLayout((1, 2, 4, 4), (1, 4, 8), (4, 4), (1, 2, 2), (2, 2))
    structure = torch.arange(32.0).view(1, 1, 2, 4, 4)
    dynamics = torch.arange(32.0).view(1, 1, 4, 8)
    tokens = layout.pack(VidTwinLatents(structure, dynamics))[0]
    assert tokens[1].tolist() == [2, 3, 6, 7]  # query 0, rows 0-1, columns 2-3
    assert tokens[4].tolist() == [16, 17, 20, 21]  # query 1, rows 0-1, columns 0-1
    assert tokens[8 + 1].tolist() == [2, 3, 10, 11]  # frames 0-1, x 2-3
    assert tokens[12 + 2].tolist() == [20, 21, 28, 29]  # frames 2-3, y 0-1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure_shape": (3, 5, 3)}, "structure_shape must be 4 positive integers"),
        ({"dynamics_shape": (6, 0, 7)}, "dynamics_shape must be 3 positive integers"),
        ({"dynamics_axes": (3, 3)}, r"must add up to the 7 positions"),
        ({"structure_patch_size": (1, 1)}, r"structure_patch_size must be 3 .* got \(1, 1\)"),
        ({"dynamics_patch_size": (1, 1.5)}, "dynamics_patch_size must be 2 positive integers"),
    ],
)
def test_wrong_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TokenLayout(**{**SHAPES, **change})


def test_wrong_shapes_are_named(layout):
    latents = make_latents(layout)
    with pytest.raises(ValueError, match=r"\(6, 5, 6\)"):
        layout.pack(VidTwinLatents(latents.structure, latents.dynamics[..., :-1]))
    with pytest.raises(ValueError, match=rf"\(B, {layout.num_tokens}, {layout.token_dim}\)"):
        layout.unpack(layout.pack(latents)[:, :-1])
