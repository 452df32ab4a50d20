"""Jigsaw puzzles: the tiles of an image, shuffled, are put back by a learned permutation.

data.py      digits, MNIST, photographs; tiles, shuffles, and what counts as restored
model.py     the network that scores tile x place, and how an image is put together
training.py  the loss: here the library is used        config.py    the settings of a run
picture.py   scrambled, restored and true images       report.py    the table and the pictures
commands.py  ``cvxsst train|search|table|test jigsaw``   demo.py      ``cvxsst demo``, the smallest run

After Mena et al. 2018, "Learning Latent Permutations with Gumbel-Sinkhorn Networks", by default with a projection onto
the Birkhoff polytope in the place of Sinkhorn's matrix scaling.
"""
