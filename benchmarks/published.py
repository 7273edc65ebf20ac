"""What others report on the Sprites benchmark, and as FVD of noise, as far as a text that says so was read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedScores:
    """Scores with the motion kept and the content sampled, as `SpritesScores` defines them.

    Attributes:
        method: its name.
        action, inception_score, conditional_entropy, marginal_entropy: None where no text with the figure was read.
        source: the text that was read, or what was looked for.
    """

    method: str
    source: str
    action: float | None = None
    inception_score: float | None = None
    conditional_entropy: float | None = None
    marginal_entropy: float | None = None


PUBLISHED = (
    PublishedScores("S3VAE", "arXiv 2005.11437: its text was not at hand"),
    PublishedScores("C-DSVAE", "arXiv 2110.12091: its text was not at hand, its repository names no figures"),
    PublishedScores(
        "C-DSVAE, reimplemented",
        "README of github.com/tomoya-yamanokuchi/Contrastively-Disentangled-Sequential-Variational-Audoencoder, mean "
        "of the three evaluations shown",
        action=0.8892,
        inception_score=6.2992,
        conditional_entropy=0.3321,
        marginal_entropy=2.1725,
    ),
    PublishedScores("SPYL", "arXiv 2305.15924: its text was not at hand, its repository names no figures"),
    PublishedScores("DBSE", "arXiv 2406.18131: its text was not at hand, its repository names no figures"),
    PublishedScores("DiffSDA", "arXiv 2510.05717: none found on Sprites; its table 9, of a judge, is of MUG faces"),
)

# FVD between `RandomState(1).rand(128, 16, 224, 224, 3)` and the same of `RandomState(2)`, of numpy.random, in float32
# and given to I3D as they are: by implementation, with the text that the figure was read in.
NOISE_VIDEOS = 128
_NOISE_SOURCE = "README.md of github.com/universome/fvd-comparison, of its compare_metrics.py"
NOISE_FVD = {
    "published: TF-Hub's graph": (10.13808536529541, _NOISE_SOURCE),
    "published: StyleGAN-V's TorchScript": (10.138084766713924, _NOISE_SOURCE),
}
