"""A jigsaw puzzle: four tiles of a handwritten digit, shuffled, are put back by a learned permutation.

data.py     digits, tiles, shuffles, and what counts as restored
model.py    the network, the relaxed permutation, the loss and the training loop: here the library is used
picture.py  scrambled, restored and true digits side by side
demo.py     the command ``cvxsst demo``

After Mena et al. 2018, "Learning Latent Permutations with Gumbel-Sinkhorn Networks", with a projection onto the
Birkhoff polytope in the place of Sinkhorn's matrix scaling.
"""
