"""Makes gallery.png, the picture of the README: python notebooks/gallery.py"""

from pathlib import Path

import matplotlib as mpl
import torch
from torch.distributions import Gumbel

import cvxsst
from cvxsst import plot
from polytopes import birkhoff, k_subset, permutahedron, projective_tree, simplex, spanning_tree

mpl.use("Agg")
import matplotlib.pyplot as plt

torch.manual_seed(4)
figure = plt.figure(figsize=(11, 5.6), layout="constrained", facecolor="white")
grid = figure.add_gridspec(3, 4, height_ratios=(4, 4, 1.1))

P = simplex(3)
ax = plot.polytope(P, figure.add_subplot(grid[0, 0]))
q = cvxsst.StochasticSoftmax(Gumbel(torch.zeros(3), 1.0), P, cvxsst.CategoricalEntropy(), 0.5)
plot.samples(P, q.sample((500,)), ax, s=6).set_title("Gumbel-softmax samples", fontsize=9)

ax = plot.polytope(P, figure.add_subplot(grid[0, 1]))
T = torch.logspace(2, -2, 80)[:, None]
for f, line in ((cvxsst.CategoricalEntropy(), "-"), (cvxsst.Euclidean(), ":")):
    w = torch.tensor([[1.0, 0.3, -0.5], [-0.5, 0.6, 0.2], [0.1, -0.3, 0.4]])
    plot.path(P, cvxsst.softmax(P, w.expand(80, 3, 3), f, T), ax, linestyle=line, color=plot.ACCENT)
ax.set_title("paths of temperature", fontsize=9)

P = permutahedron(4)
ax = plot.polytope(P, figure.add_subplot(grid[0, 2], projection="3d"))
q = cvxsst.StochasticSoftmax(Gumbel(torch.zeros(4), 1.0), P, cvxsst.Euclidean(), 0.7)
plot.samples(P, q.sample((300,)), ax, s=5).set_title("permutahedron", fontsize=9)
ax.set_box_aspect((1, 1, 1), zoom=1.5)

ax = figure.add_subplot(grid[0, 3])
w = torch.tensor([1.2, 0.9, 1.6])
plot.field(permutahedron(3), lambda z: -(z - w).square().sum(-1), ax, density=10)
plot.polytope(permutahedron(3), ax).set_title("a loss and its gradient", fontsize=9)

ax = figure.add_subplot(grid[1, 0])
plot.matrix(cvxsst.softmax(birkhoff(6), torch.randn(6, 6), cvxsst.CategoricalEntropy(), 0.4), ax, values=False)
ax.set_title("relaxed permutation", fontsize=9)

P = spanning_tree(8)
ax = figure.add_subplot(grid[1, 1])
plot.tree(cvxsst.softmax(P, torch.randn(28), cvxsst.ExponentialFamily(), 0.35), ax)
ax.set_title("spanning tree", fontsize=9)

words = ["ROOT", "we", "saw", "her", "duck"]
u = torch.tensor([[0, 0, 4, 0, 1], [0, 0, 0, 0, 0], [0, 3, 0, 2, 2.5], [0, 0, 0, 0, 0.5], [0, 0, 0.5, 2, 0.0]])
ax = figure.add_subplot(grid[1, 2:])
plot.arborescence(cvxsst.softmax(projective_tree(5), u, cvxsst.ExponentialFamily(), 1.0), ax, arcs=True, labels=words)
ax.set_title("projective trees over a sentence", fontsize=9)

text = "the room was small and dark but the staff were very friendly and the breakfast was excellent".split()
liked = {"very": 1.5, "friendly": 3.0, "excellent": 3.0, "small": 1.2, "dark": 1.0}
theta = torch.tensor([liked.get(word, 0.0) for word in text])
ax = figure.add_subplot(grid[2, :])
plot.text(text, cvxsst.softmax(k_subset(len(text), 4), theta, cvxsst.BinaryEntropy(), 0.4), ax, width=100)
figure.savefig(Path(__file__).with_name("gallery.png"), dpi=90)
