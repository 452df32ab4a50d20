"""Learning to explain: the sources, the latent subsets, the networks, and runs from the command line."""

import gzip
import hashlib
import itertools
import json
import re
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import cvxsst
from cvxsst import cli
from experiments.l2x import beer, cebab, planted, report
from experiments.l2x.config import Config
from experiments.l2x.data import PADDING, UNKNOWN, Batch, Corpus, Review, load, save, split_words
from experiments.l2x.model import SELECTORS, Rating, Selector
from experiments.l2x.reviews import ASPECTS
from experiments.l2x.subsets import SUBSETS, Scores, TopK
from experiments.l2x.timing import Differences, marginals
from experiments.l2x.training import Explainer
from experiments.runs import training
from experiments.runs.gradients import GRADIENTS
from experiments.runs.options import Launch
from experiments.runs.search import Search
from experiments.runs.tables import Metric, results
from polytopes import correlated_k_subset

TINY = Config(corpus="planted", k=3, steps=4, batch_size=8, hidden=6, embedding=5, validate_every=2)
SIZES = {"train": 24, "valid": 6, "test": 8}
PUBLISHED = Path(__file__).parents[2] / "shared/data/cebab"
each_subset = pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS)
# Lightning itself; told apart from our own warnings by their text.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated, use `isinstance:FutureWarning",
    "ignore:.*LeafSpec.*",
    "ignore:.*GPU available but not used.*",
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("l2x") / "reviews.npz"
    save(path, planted.generate(SIZES, words=14, phrase=3, seed=0))
    return path


# --------------------------------------------------------------------------------------------------------- the sources


def test_a_planted_rating_is_that_of_its_phrase_and_of_no_other_word() -> None:
    corpus = planted.generate({"train": 400, "valid": 1, "test": 1}, words=60, phrase=10, seed=1)
    level = {word: i / 4 for i, words in enumerate(planted.LEVELS) for word in words}
    inside, outside, rating = [], [], []
    for review in corpus.splits["train"]:
        assert len(review.words) == 60
        assert len(set().union(*review.marked.values())) == 40  # four phrases, none over another
        for aspect, marked in review.marked.items():
            first = min(marked)
            assert marked == set(range(first, first + 10))
            assert review.words[first] == aspect
        marked, values = review.marked["aroma"], [level.get(word, np.nan) for word in review.words]
        inside.append(np.nanmean([values[i] for i in marked] + [0.5]))
        outside.append(np.nanmean([value for i, value in enumerate(values) if i not in marked]))
        rating.append(review.ratings["aroma"])
    assert np.corrcoef(inside, rating)[0, 1] > 0.9
    assert abs(np.corrcoef(outside, rating)[0, 1]) < 3 / 400**0.5
    again, other = (planted.generate(SIZES, 60, 10, seed) for seed in (0, 1))
    assert planted.generate(SIZES, 60, 10, 0) == again != other
    with pytest.raises(ValueError, match="words: 4 phrases of 10 words do not fit into 39"):
        planted.generate(SIZES, 39, 10, 0)


def row(id: str, text: str, edited: str | None = None, **ratings: str) -> dict:  # noqa: A002 - the published name
    majority = {f"{aspect}_aspect_majority": ratings.get(aspect, "") for aspect in cebab.ASPECTS}
    original = edited is None
    return {
        "id": id,
        "original_id": id[0],
        "is_original": original,
        "edit_type": edited,
        "description": text,
        **majority,
    }


ROWS = {
    "train": [
        row("a0", "The soup was cold. Nice staff!", food="Negative", service="Positive"),
        row("a1", "The soup was hot and good. Nice staff!", "food", food="Positive", service="no majority"),
        row("a2", "The soup was cold. Rude staff!", "service", food="Negative", service="unknown"),
    ],
    "valid": [row("b0", "Loud.", noise="Negative")],
    "test": [row("c0", "Fine food.", food="Positive")],
}


def test_the_words_that_an_edit_changed_stand_for_a_rationale() -> None:
    original, food, service = cebab.from_rows(ROWS).splits["train"]
    assert original.words == ["the", "soup", "was", "cold", ".", "nice", "staff", "!"]
    assert original.ratings == {"food": 0, "service": 1}
    assert food.ratings == {"food": 1}
    assert service.ratings == {"food": 0, "service": 0.5}
    assert {aspect: [original.words[i] for i in marked] for aspect, marked in original.marked.items()} == {
        "food": ["cold"],
        "service": ["nice"],
    }
    assert [food.words[i] for i in sorted(food.marked["food"])] == ["hot", "and", "good"]
    assert [service.words[i] for i in service.marked["service"]] == ["rude"]


def test_an_original_in_two_splits_is_refused() -> None:
    with pytest.raises(ValueError, match="train and test share the original a; a split must hold all its rows"):
        cebab.from_rows(ROWS | {"test": ROWS["train"][:1]})


def test_only_the_published_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {name: json.dumps(ROWS[split]).encode() for split, name in cebab.FILES.items()}
    for name, content in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"train_inclusive\.json is not the published one"):
        cebab.read(tmp_path)
    monkeypatch.setattr(cebab, "CHECKSUMS", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"CEBaB-v1.1/{name}", content)
            archive.writestr(f"__MACOSX/CEBaB-v1.1/{name}", b"")
    answers = (tmp_path / "archive.zip").open("rb")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: answers)
    assert cebab.read(tmp_path) == cebab.read(tmp_path / "archive.zip") == cebab.read() == cebab.from_rows(ROWS)

    def unreachable(url: str, timeout: float) -> None:
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    for place, says in (
        (None, r"cannot be reached \(no route\); get the archive by other means, and name it: --file"),
        (tmp_path / "dev.json.gz", "is no zip archive"),
        (tmp_path.parent, "has no train_inclusive.json and no train_inclusive.json.gz"),
    ):
        with pytest.raises(ValueError, match=says):
            cebab.read(place)
    with pytest.raises(FileNotFoundError, match="nothing at"):
        cebab.read(tmp_path / "nothing")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="CEBaB is not at hand")
def test_the_published_reviews() -> None:
    """As its authors count them; where words are marked, and not only deleted, they are fewer than half."""
    corpus = cebab.read(PUBLISHED)
    assert [len(part) for part in corpus.splits.values()] == [11_728, 1_673, 1_689]
    reviews = [r for r in corpus.splits["test"] if r.marked.get("service")]
    share = sum(len(r.marked["service"]) for r in reviews) / sum(len(r.words) for r in reviews)
    assert 0.2 < share < 0.5


def beer_folder(folder: Path) -> Path:
    """A made-up set in the published form."""
    for split, count in (("train", 6), ("heldout", 5)):
        lines = [f"0.1 0.{i} 0.3 0.4 0.5\tmalty smell {i} ." for i in range(count)]
        (folder / f"reviews.aspect1.{split}.txt").write_text("\n".join(lines) + "\n")
    annotated = {"x": ["look", "hazy", ",", "smell", "malty"], "y": [0.5] * 5, "0": [[0, 2]], "1": [[2, 4]]}
    (folder / "annotations.json").write_text(json.dumps(annotated) + "\n")
    packed = gzip.compress(b"malty 1 2 3\nsmell -1 0 0.5\nrare 0 0 1\n")
    (folder / f"{beer.VECTORS}.gz").write_bytes(packed)
    return folder


def test_reviews_in_the_published_form(tmp_path: Path) -> None:
    corpus = beer.read(beer_folder(tmp_path), "aroma")
    assert [len(corpus.splits[name]) for name in SIZES] == [6, 2, 4]  # the last one is annotated
    assert [review.ratings["aroma"] for review in corpus.splits["train"]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    held_out = sorted(r.ratings["aroma"] for name in ("valid", "test") for r in corpus.splits[name] if r.ratings)
    assert held_out == [0, 0.1, 0.2, 0.3, 0.4]
    save(tmp_path / "beer.npz", corpus)
    test = load(tmp_path / "beer.npz", "beer", "aroma")["test"]
    batch = test.batch(torch.arange(4))
    (annotated,) = batch.marked.any(1).nonzero()[:, 0].tolist()
    assert batch.ratings[annotated].isnan()
    assert batch.marked[annotated].tolist() == [0, 0, 1, 1, 0]
    assert batch.vectors[annotated].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [-1, 0, 0.5], [1, 2, 3]]
    assert not batch.vectors[batch.tokens == PADDING].any()


def test_a_file_of_another_form_is_refused_by_its_line(tmp_path: Path) -> None:
    for name, text, says in (
        ("reviews.aspect1.train.txt", "0.1 0.2\tgood\n\n7 9\tgood\n", "line 3: expected ratings in"),
        ("reviews.aspect1.train.txt", "0.1 0.2 good\n", "line 1: expected ratings in"),
        ("annotations.json", '{"x": []}\n', "annotations.json, line 1: expected"),
        ("annotations.json", "none\n", "annotations.json, line 1: expected"),
        (f"{beer.VECTORS}", "a 1 2\nb 1\n", "line 2: expected a word and as many numbers"),
    ):
        folder = tmp_path / name / str(hash(text))
        folder.mkdir(parents=True)
        beer_folder(folder)
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=says):
            beer.read(folder, "aroma")
    with pytest.raises(FileNotFoundError, match=r"has no reviews.aspect0.train.txt"):
        beer.read(folder, "look")
    with pytest.raises(ValueError, match="'smell' is not one of look"):
        beer.read(folder, "smell")


def test_stored_reviews_come_back(tmp_path: Path) -> None:
    marked = {"x": frozenset({0, 4})}
    train = [Review(["good", "bad", "good", "bad", "good"], {"x": 0.2}, marked), Review(["good"], {"y": 1.0})]
    test = [Review(["new", "good"], {"y": 0.3}, {"x": frozenset({1})}), Review(["bad"], {})]
    corpus = Corpus("planted", {"train": train, "valid": test, "test": test}, ("x", "y"), width=4)
    path = tmp_path / "reviews.npz"
    save(path, corpus)
    parts = load(path, "planted", "x")
    assert [len(part) for part in parts.values()] == [1, 1, 1]  # those of no use are left out
    whole, short = parts["train"].batch(torch.tensor([0])), parts["test"].batch(torch.tensor([0]))
    assert parts["train"].words(0) == ["good", "bad", "good", "bad"]
    assert whole.marked.tolist() == [[1, 0, 0, 0]]  # the fifth word is cut off
    assert whole.ratings.tolist() == pytest.approx([0.2])
    assert short.ratings.isnan().all()
    assert short.tokens[0, 0] == UNKNOWN
    assert short.lengths.tolist() == [2]
    assert whole.familiar.tolist() == [[1, -1, 1, -1]]  # "bad" is marked less often than words are
    for given, says in ((("cebab", "food"), "holds reviews of planted, not of cebab"), (("planted", "z"), "has x, y")):
        with pytest.raises(ValueError, match=says):
            load(path, *given)
    with pytest.raises(FileNotFoundError, match="make them with: cvxsst data reviews beer"):
        load(tmp_path / "none.npz", "beer", "aroma")


def test_words_and_marks_of_punctuation() -> None:
    assert split_words("It's GOOD, very-good!") == ["it's", "good", ",", "very", "-", "good", "!"]


# ---------------------------------------------------------------------------------------------------------- the subsets


def scores(n: int, batch: int = 3, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, n), (batch, n - 1))
    return Scores(*(torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes))


@each_subset
def test_reviews_of_all_lengths_are_one_batch(subset: TopK) -> None:
    """Each is what it would be alone; of a review of two words, both and one of its padding are chosen."""
    theta, lengths = scores(9), torch.tensor([9, 5, 2])
    latent = subset.latent(theta, lengths, 3, 0.7)
    torch.manual_seed(0)
    w = latent.utilities.sample(torch.Size([4]))
    hard, soft, best = latent.argmax(w), latent.softmax(w), subset.best(theta, lengths, 3)
    assert hard.shape == soft.shape == (4, 3, 9)
    assert best.sum(1).tolist() == [3, 3, 3]
    assert best[2].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert (soft >= -1e-9).all()
    assert (soft.sum(-1) <= 3 + 1e-6).all()  # SoftSub's entries may be greater than 1
    alone = Scores(theta.word[[1], :5], theta.pair[[1], :4])
    own = subset.latent(alone, torch.tensor([5]), 3, 0.7)
    cut = w[:, [1], ..., :5]
    for whole, small in ((hard, own.argmax(cut)), (soft, own.softmax(cut))):
        assert torch.allclose(whole[:, 1, :5], small[:, 0], atol=1e-8)
        assert not whole[:, 1, 5:].any()
    assert torch.allclose(latent.log_prob(w)[:, 1], own.log_prob(cut)[:, 0])
    assert torch.equal(best[1, :5], subset.best(alone, torch.tensor([5]), 3)[0])


@each_subset
def test_relaxed_subsets_tend_to_the_hard_ones_and_have_gradients(subset: TopK) -> None:
    theta, lengths = scores(8), torch.tensor([8, 8, 6])
    torch.manual_seed(1)
    latent, cold = subset.latent(theta, lengths, 3, 1.0), subset.latent(theta, lengths, 3, 1e-3)
    w = latent.utilities.rsample(torch.Size([2]))
    assert (cold.softmax(w.detach()) - latent.argmax(w.detach())).abs().max() <= 1e-2
    z = latent.softmax(w)
    found = torch.autograd.grad((z * torch.randn_like(z)).sum(), theta, allow_unused=True)
    assert found[0].isfinite().all()
    assert (found[0].abs().sum(1) > 0).all()
    assert not found[0][2, 6:].any()
    assert (found[1] is not None) == subset.has_pairs


def frequencies(subset: TopK, word: torch.Tensor, k: int, draws: int = 20_000) -> torch.Tensor:
    torch.manual_seed(0)
    theta = Scores(word[None], torch.zeros(1, len(word) - 1))
    latent = subset.latent(theta, torch.tensor([len(word)]), k, 0.5)
    return latent.argmax(latent.utilities.sample(torch.Size([draws]))).double().mean((0, 1))


def test_noise_is_added_with_its_sign() -> None:
    """Words without replacement, in proportion to exp theta: the two signs of Gumbel variables differ in that."""
    word = torch.tensor([1.5, 0.0, -1.0, 0.5])
    p = word.double().softmax(0)
    expected = torch.zeros(4, dtype=torch.float64)
    for i, j in itertools.permutations(range(4), 2):
        expected[[i, j]] += p[i] * p[j] / (1 - p[i])
    for name in ("softsub", "exponential", "correlated"):
        assert (frequencies(SUBSETS[name], word, 2) - expected).abs().max() < 0.015, name
    independent = 1 - (1 - p) ** 2
    assert (frequencies(SUBSETS["l2x"], word, 2) - independent).abs().max() < 0.015


def test_softsub_takes_off_what_every_softmax_took() -> None:
    """By hand: the third softmax leaves out both the first and the second choice."""
    subset, w = SUBSETS["softsub"], torch.tensor([[[3.0, 2.0, 1.0, 0.0]]])
    latent = subset.latent(Scores(torch.zeros(1, 4), torch.zeros(1, 3)), torch.tensor([4]), 3, 1.0)
    first = w.softmax(-1)
    second = F.normalize(w.exp() * (1 - first), p=1, dim=-1)
    third = F.normalize(w.exp() * (1 - first) * (1 - second), p=1, dim=-1)
    assert torch.allclose(latent.softmax(w), first + second + third, atol=1e-6)


def test_pairs_have_a_say() -> None:
    """The best subset by words and neighbours, against all subsets."""
    theta = scores(7, seed=3)
    best = SUBSETS["correlated"].best(theta, torch.tensor([7, 7, 7]), 3)
    for number in range(3):
        values: dict[float, tuple[int, ...]] = {}
        for chosen in itertools.combinations(range(7), 3):
            pairs = sum(theta.pair[number, i].item() for i in chosen if i + 1 in chosen)
            values[theta.word[number, list(chosen)].sum().item() + pairs] = chosen
        assert best[number].nonzero()[:, 0].tolist() == list(values[max(values)])


@pytest.mark.parametrize(("n", "k"), [(9, 4), (6, 1), (5, 5)])
def test_marginals_as_published_are_ours(n: int, k: int) -> None:
    u = torch.randn(2, 2 * n - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n)).requires_grad_()
    z = cvxsst.softmax(correlated_k_subset(n, k), u, cvxsst.ExponentialFamily())
    assert np.abs(marginals(u.detach().numpy(), n, k) - z.detach().numpy()).max() <= 1e-12
    g = torch.randn(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.autograd.grad(x, u, g)[0] for x in (z, Differences.apply(u, n, k)))
    assert (ours - theirs).abs().max() <= 1e-5


# --------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("kind", SELECTORS)
def test_scores_do_not_see_the_padding(kind: str) -> None:
    torch.manual_seed(0)
    network = Selector(kind, 5, 6).double().eval()
    e, real = torch.randn(2, 8, 5, dtype=torch.float64), torch.arange(8) < torch.tensor([[8], [5]])
    e = e * real[..., None]
    theta, alone = network(e, real), network(e[1:, :5], real[1:, :5])
    assert torch.allclose(theta.word[1, :5], alone.word[0])
    assert torch.allclose(theta.pair[1, :4], alone.pair[0])


def test_the_rating_is_of_the_chosen_words_alone() -> None:
    torch.manual_seed(0)
    network, e = Rating(5, 7).double(), torch.randn(2, 8, 5, dtype=torch.float64)
    z = torch.zeros(3, 2, 8)
    z[:, :, [1, 4]] = 1
    rating = network(e, z, 2)
    assert rating.shape == (3, 2)
    assert torch.allclose(rating[0], torch.sigmoid(network.layers(e[:, [1, 4]].mean(1))[:, 0]))


def batch_of(*marked: list[int], ratings: list[float]) -> Batch:
    m = torch.tensor(marked).float()
    tokens = torch.arange(2, 2 + m.shape[1]).expand(m.shape).clone()
    return Batch(tokens, torch.tensor(ratings), m, tokens.float(), torch.zeros(*m.shape, 0))


def test_every_gradient_reaches_every_subset() -> None:
    batch = batch_of([0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], ratings=[0.3, 0.9])
    for (name, subset), (word, gradient) in itertools.product(SUBSETS.items(), GRADIENTS.items()):
        change: dict[str, Any] = {"subset": name, "gradient": word, "samples": gradient.samples, "network": "complex"}
        if gradient.needs_density and subset.has_pairs:
            with pytest.raises(ValueError, match=f"gradient: {word} needs a density of all utilities"):
                replace(TINY, **change)
            continue
        module = Explainer(replace(TINY, **change))
        torch.manual_seed(0)
        module.loss(batch).backward()
        for where, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, (name, word, where)
                assert parameter.grad.isfinite().all(), (name, word, where)
        scores_of = module.selector.pair if subset.has_pairs else module.selector.word
        assert scores_of.weight.grad.any(), (name, word)  # type: ignore[union-attr]  # None fails too


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six words, the last of the third review padding: runs of 2 + 1, 3, and 1 + 1 of two where one is padding."""
    marked = [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0]
    batch = batch_of(*marked, ratings=[0.5, 1.0, float("nan")])
    batch.tokens[2, 5] = PADDING
    z = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1]])
    module = Explainer(TINY).eval()
    monkeypatch.setattr(module, "chosen", lambda _: z.float())
    monkeypatch.setattr(module.rating, "forward", lambda *_: torch.tensor([0.6, 0.8, 0.1]))
    found = module.summary({name: value.double().mean() for name, value in module.measure(batch).items()})
    assert found["error"].item() == pytest.approx(100 * (0.01 + 0.04) / 2)
    assert found["precision"].item() == pytest.approx(2 / 6)
    assert found["chance"].item() == pytest.approx((3 * 2 / 6 + 3 * 2 / 5) / 6)
    assert found["frequent"].item() == pytest.approx((0 + 2) / 6)  # the last real words
    assert found["run"].item() == pytest.approx((3 + 3 + 2) / (2 + 1 + 2))


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_run_in_short_pieces_ends_like_an_unbroken_one_and_keeps_the_least_error(stored: Path, tmp_path) -> None:
    parts = load(stored, "planted", "aroma")
    config = replace(TINY, network="complex", learning_rate=0.3, steps=8)

    def train(folder: str, minutes: float | None) -> dict | None:
        launch = Launch(minutes=minutes, accelerator="cpu")
        return training.train(Explainer, config, parts, tmp_path / folder, launch, progress=False)

    unbroken = train("unbroken", None)
    assert unbroken is not None
    assert train("pieces", 1e-6) is None
    resumed = train("pieces", None)
    assert resumed is not None
    assert resumed["test"] == unbroken["test"]
    assert resumed["history"] == unbroken["history"]
    errors = [line["error"] for line in unbroken["history"]]
    assert unbroken["valid"]["error"] == pytest.approx(min(errors))
    assert max(errors) > min(errors)
    one, other = (torch.load(tmp_path / name / training.LAST, weights_only=True) for name in ("unbroken", "pieces"))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])


def test_a_search_puts_the_least_error_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [3.0, None, 1.0, 2.0]
    trials = [{"trial": i, "valid": {} if e is None else {"error": e}} for i, e in enumerate(errors)]
    monkeypatch.setattr(Search, "_tune", lambda self, *_: [])
    monkeypatch.setattr(Search, "_outcome", lambda self, number, config: trials[number])
    for lower, expected in ((True, [2, 3, 0, 1]), (False, [0, 3, 2, 1])):
        metric = Metric("error", "error", lower=lower)
        search = Search(TINY, {"temperature": (0.1, 1.0)}, lambda *_: None, tmp_path, 4, metric)
        assert [trial["trial"] for trial in search.search()] == expected


def test_the_commands_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, fails: bool = False) -> str:
        done = CliRunner().invoke(cli.app, [*arguments])
        assert (done.exit_code != 0) == fails, (done.output, done.exception)
        return str(done.exception) if fails else done.output

    made = run("data", "reviews", "planted", "--words", "24", "--phrase", "5", "--reviews", "40")
    assert "40 + 5 + 10 reviews, look, aroma, palate, taste: out/reviews-planted.npz, checksum" in made
    given = ["--corpus", "planted", "--steps", "2", "--batch-size", "4", "--hidden", "6", "--embedding", "5"]
    for subset, gradient in (("correlated", "relaxed"), ("softsub", "straight-through")):
        told = run(
            "train", "l2x", *given, "--subset", subset, "--gradient", gradient, "--k", "5", "--accelerator", "cpu"
        )
        assert re.search(r"test 100 MSE [\d.]+, precision [\d.]+ %, run [\d.]+, chance 20.8\d %", told)
    shown = run("table", "l2x", "out/l2x", "--markdown", "--pictures", "pictures")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if line[:2] == "| "]
    assert [line[3:5] for line in rows[2:]] == [["Corr. top k", "relaxed"], ["SoftSub", "straight-through"]]
    assert rows[2][-2:] == ["2.9 ± 0.1", "63.1 ± 5.3"]
    assert rows[3][-2:] == ["", ""]
    assert "planted phrases" in rows[2]
    for name in ("errors", "choices-planted-aroma"):
        assert Path(f"pictures/{name}.png").stat().st_size > 5000
    (folder,) = Path("out/l2x").glob("*softsub*")
    (tested,) = (r["test"] for r in results([folder]))
    assert f"100 MSE {tested['error']:.2f}" in run("test", "l2x", str(folder))

    place = tmp_path / "beer"
    place.mkdir()
    run("data", "reviews", "beer", "--file", str(beer_folder(place)))
    beer_run = [
        "train",
        "l2x",
        "--corpus",
        "beer",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--accelerator",
        "cpu",
        "--k",
        "2",
    ]
    assert "precision" in run(*beer_run, "--frozen", "--embedding", "3", "--hidden", "6")
    assert "has vectors of 3 dimensions, not 200" in run(*beer_run, "--frozen", fails=True)
    assert "k: 6 words of reviews of at most 5" in run(*beer_run[:-1], "6", "--frozen", "--embedding", "3", fails=True)
    assert "is there already" in run("data", "reviews", "planted", fails=True)
    assert "must end in .npz" in run("data", "reviews", "planted", "--output", "reviews.txt", fails=True)
    assert "not ours to give" in run("data", "reviews", "beer", "--output", "own.npz", fails=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subset": "all"}, "subset: 'all' is not one of l2x, softsub"),
        ({"corpus": "wine"}, "corpus: 'wine' is not one of cebab, beer, planted"),
        ({"aspect": "food"}, "aspect: planted has look, aroma, palate, taste, not 'food'"),
        ({"network": "deep"}, "network: 'deep' is not one of simple, complex"),
        ({"temperature": 0.0}, "temperature: 0.0 is not positive"),
    ],
)
def test_bad_settings_are_refused(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(TINY, **change)
    assert [Config(corpus=corpus).aspect for corpus in ASPECTS] == ["food", "aroma", "aroma"]


def test_published_results_are_complete() -> None:
    found = results([report.COMMITTED])
    for result in found:
        assert Config(**result["config"])
        assert result["history"][-1]["step"] == result["config"]["steps"]
    assert {result["config"]["subset"] for result in found} == {*SUBSETS}
