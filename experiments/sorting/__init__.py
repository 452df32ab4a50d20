"""Sorting n numbers with a latent permutation: the first experiment of Mena et al. 2018.

A network scores number x rank; the loss compares the list in the order of a relaxed permutation with the sorted one,
and no permutation is shown. Used with the argmax, on lists that were never trained on.

data.py      random lists                      permutations.py  the relaxations, one line of the table each
model.py     networks, orders, metrics         training.py      what is trained
config.py    the settings of a run             report.py        the table and the pictures
commands.py  ``cvxsst train|search|table|test sorting``: the lists are drawn, there are no data to make
"""
